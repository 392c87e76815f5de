"""A gRPC server as every process here runs one: error table, health, reflection, one port, graceful end."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lorry_registry.config import is_loopback, parse_address
from lorry_registry.errors import FailedPrecondition, LorryError
from lorry_registry.rpc.errors import ErrorInterceptor
from lorry_registry.rpc.gate import Gate
from lorry_registry.security import Security, read_pem

MAX_MESSAGE_BYTES = 4 << 20
_LOG = logging.getLogger(__name__)


class GrpcHost:
    """A server that is NOT_SERVING, as a whole and for each service, until `start`.

    `server` is the grpc.aio server, `health` its health service, `address` where it listens (with the real port).
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        health_servicer: health.aio.HealthServicer,
        services: Sequence[str],
        address: str,
    ) -> None:
        self.server = server
        self.health = health_servicer
        self.address = address
        self._services = ("", *services)
        self._saying: set[asyncio.Task[None]] = set()

    async def start(self, *, serving: bool = True) -> None:
        """Begins to answer; `serving` False leaves health at NOT_SERVING until `set_serving`."""
        await self.set_serving(False)
        await self.server.start()
        await self.set_serving(serving)

    async def set_serving(self, serving: bool) -> None:
        """What health says from now on. Nothing after `stop`, which is final."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for service in self._services:
            await self.health.set(service, status.SERVING if serving else status.NOT_SERVING)

    def set_part(self, name: str, serving: bool) -> None:
        """What health says of something that the server can do without for a while: by itself, and of nothing else."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        said = self.health.set(name, status.SERVING if serving else status.NOT_SERVING)
        task = asyncio.get_running_loop().create_task(said)
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def stop(self, grace_seconds: float) -> None:
        """NOT_SERVING for good, no new calls; those in flight end within the grace or are cancelled."""
        await self.health.enter_graceful_shutdown()
        await self.server.stop(grace_seconds)


def create_server(
    listen: str,
    mount: Callable[[grpc.aio.Server], Sequence[str]],
    *,
    gate: Gate | None = None,
    security: Security | None = None,
    maximum_concurrent_rpcs: int | None = None,
) -> GrpcHost:
    """A server bound to `listen` (HOST:PORT; port 0 takes a free one) with the services that `mount` adds.

    Args:
        mount: adds services to the server and returns their full names.
        gate: in front of every service but health and reflection; without one, whoever reaches the server may do all.
        security: TLS, and whether the address may be listened on with what there is of it.

    Must be called in the event loop that will run it. It answers nothing before `start`.

    Raises:
        FailedPrecondition: `ADDRESS_IN_USE`, the address is taken or is not this machine's.
        FailedPrecondition: `INSECURE_ADDRESS`, others would reach it, and it is not guarded.
        InvalidArgument: `ADDRESS_INVALID`.
    """
    parse_address(listen, "listen")
    security = security or Security()
    security.check(listen, loopback=is_loopback(listen))
    credentials = _server_credentials(security)
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), *([] if gate is None else [gate])],
        options=[
            # Two servers on one port would otherwise share it without a word.
            ("grpc.so_reuseport", 0),
            # A client whose machine died is noticed, and what it held is freed.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
        maximum_concurrent_rpcs=maximum_concurrent_rpcs,
    )
    services = tuple(mount(server))
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        bound = (
            server.add_insecure_port(listen)
            if credentials is None
            else server.add_secure_port(listen, credentials)
        )
    except RuntimeError as error:
        raise FailedPrecondition(
            f"cannot listen on {listen}: another server has the port, or the address is not this machine's. "
            "Stop the other, or choose another with --listen",
            reason="ADDRESS_IN_USE",
            address=listen,
        ) from error
    return GrpcHost(server, health_servicer, services, f"{listen.rpartition(':')[0]}:{bound}")


def _server_credentials(security: Security) -> grpc.ServerCredentials | None:
    """TLS as the options say; None for none. Files that change are read anew for the next connection."""
    if security.tls_cert is None or security.tls_key is None:
        return None
    current = _pem(security)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            fresh = _pem(security)
        except LorryError as error:  # half-way through being renewed: the old ones hold on
            _LOG.warning("%s", error)
            return None
        if fresh == current:
            return None
        current = fresh
        return _configuration(fresh)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(current),
        fetch,  # type: ignore[arg-type]  # None is its way to say: as before
        require_client_authentication=security.tls_client_ca is not None,
    )


def _pem(security: Security) -> tuple[bytes, bytes, bytes | None]:
    """Key, certificate and the clients' authority."""
    assert security.tls_cert is not None
    assert security.tls_key is not None
    ca = security.tls_client_ca
    return (
        read_pem(security.tls_key, "tls-key"),
        read_pem(security.tls_cert, "tls-cert"),
        None if ca is None else read_pem(ca, "tls-client-ca"),
    )


def _configuration(pem: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    key, cert, ca = pem
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)


class StopSignal:
    """SIGTERM and SIGINT as something to wait for. Catches them from its making until the first one came.

    Made before a server says that it listens, so that no signal falls between. After the first, a second one ends
    the process as if nobody caught it.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._came = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in self._SIGNALS:
            self._loop.add_signal_handler(number, self._come)

    async def wait(self) -> None:
        """Returns once a signal came."""
        await self._came.wait()

    def _come(self) -> None:
        self._came.set()
        for number in self._SIGNALS:
            self._loop.remove_signal_handler(number)
