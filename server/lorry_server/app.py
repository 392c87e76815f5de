"""`lorry serve`, from the base on disk to the last answer."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress

import grpc
from prometheus_client import CollectorRegistry
from transformers.utils.logging import disable_progress_bar

from lorry_bases import BaseNotFound
from lorry_bases.describe import Description, describe
from lorry_bases.load import Base, BaseRefused, load_served
from lorry_bases.shapes import bytes_per_parameter, token_types
from lorry_registry import entities
from lorry_registry.access.authority import Authority
from lorry_registry.access.settings import read_settings
from lorry_registry.config import is_loopback
from lorry_registry.embedded import open_catalogue
from lorry_registry.errors import FailedPrecondition, NotFound
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import StopSignal, create_server
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.signatures import read_policy
from lorry_server.access import SERVER_RULES
from lorry_server.adapters import AdapterDirectory
from lorry_server.base import ServedBase
from lorry_server.cache import AdapterCache
from lorry_server.composition import SERVICE_NAMES, build_services, warm_up
from lorry_server.config import ServeConfig
from lorry_server.engine.engine import Engine
from lorry_server.lifecycle import shut_down, until_failed
from lorry_server.metrics.endpoint import MetricsEndpoint
from lorry_server.registries import Registry
from lorry_server.registries.authority import AuthorityElsewhere, OpenDoor
from lorry_server.registries.following import Follower
from lorry_server.registries.local import LocalRegistry
from lorry_server.registries.remote import RemoteRegistry, channel_credentials
from lorry_server.services.outputs import OutputDispatcher
from lorry_server.services.text import TextCodec

_ANSWER_SECONDS_AFTER_FAILURE = 5.0
_SHORT_FINGERPRINT = len("sha256:") + 12  # `lorry status` shows all of it


async def serve(config: ServeConfig, say: Callable[[str], None]) -> int:
    """Serves until a signal comes or the engine fails; returns the exit code. Raises LorryError where it cannot start.

    Health says NOT_SERVING until the engine is warm.
    """
    async with AsyncExitStack() as stack:
        # What can fail quickly is tried before the base is loaded.
        registry, registry_services, authority = await _open_registry(config, stack)
        host = create_server(
            config.listen,
            lambda server: [*registry_services(server), *SERVICE_NAMES],
            gate=Gate(SERVER_RULES, authority),
            security=config.security,
        )
        stack.push_async_callback(host.stop, 0)
        collectors = CollectorRegistry()
        endpoint = _metrics(config, collectors)
        if endpoint is not None:
            stack.callback(endpoint.close)
        signatures = read_policy(config.require_signature)
        cache = AdapterCache(config.cache, registry, config.cache_bytes, signatures)

        loaded = _load(config.base)
        described = describe(loaded)
        base = _served(loaded, described.architecture)
        say(
            f"base {base.name} {base.fingerprint[:_SHORT_FINGERPRINT]} on {base.device}, "
            f"{bytes_per_parameter(loaded.model):.2f} bytes per quantized parameter"
        )
        await registry.create_base(_entity(described, config.max_rank))
        dispatcher = OutputDispatcher(asyncio.get_running_loop())
        engine = Engine(
            loaded.model,
            config.engine,
            source=cache,
            sink=dispatcher.sink,
            linear_shapes=described.modules,
            context_length=base.context_length,
            encoders_parameters=described.parameters if described.is_encoder else None,
        )
        cache.keep(lambda: {info.digest for info in engine.stats().residents})
        stack.callback(engine.stop, drain_seconds=0)
        stack.callback(registry.interrupt)  # comes before: the engine's threads may be reading
        follower = Follower(registry)
        adapters = AdapterDirectory(
            registry, base, max_rank=config.max_rank, cache=cache, follower=follower
        )
        services = build_services(
            base=base,
            engine=engine,
            adapters=adapters,
            cache=cache,
            dispatcher=dispatcher,
            max_requests=config.engine.max_waiting + config.engine.max_sequences,
            max_rank=config.max_rank,
            collectors=collectors,
            follower=follower,
        )
        stack.callback(services.close)
        services.add_to(host.server)
        stop_signal = StopSignal()
        await host.start(serving=False)
        follower.on_connection = lambda connected: host.set_part("registry", connected)
        following = asyncio.create_task(follower.run())
        stack.push_async_callback(_ended, following)

        engine.start()
        await warm_up(engine, dispatcher, base)
        await host.set_serving(True)
        if endpoint is not None:
            say(f"metrics on {endpoint.url}")
        say(f"listening on {host.address}")
        if config.security.insecure and not is_loopback(host.address):
            say("WARNING: --insecure: whoever can reach this address may use what is not guarded")

        told = asyncio.create_task(stop_signal.wait())
        died = asyncio.create_task(until_failed(engine))
        await asyncio.wait({told, died}, return_when=asyncio.FIRST_COMPLETED)
        failure = engine.failed
        if failure is None:
            say(f"stopping: no new requests, {config.drain_seconds:g} s for those in flight")
        else:
            say(f"the engine failed, the server stops: {type(failure).__name__}: {failure}")
        told.cancel()
        died.cancel()

        def interrupt() -> None:
            following.cancel()
            registry.interrupt()

        await shut_down(
            host=host,
            inference=services.inference,
            engine=engine,
            interrupt=interrupt,
            idle=dispatcher.idle,
            drain_seconds=config.drain_seconds
            if failure is None
            else _ANSWER_SECONDS_AFTER_FAILURE,
        )
        return 0 if failure is None else 1


def _metrics(config: ServeConfig, collectors: CollectorRegistry) -> MetricsEndpoint | None:
    """Where other machines reach them, metrics are for clients with a certificate: adapters' names are in them."""
    if not config.metrics:
        return None
    security = config.security
    guarded = security.insecure or security.tls_client_ca is not None
    if not is_loopback(config.metrics) and not guarded:
        raise FailedPrecondition(
            f"--metrics {config.metrics} can be reached from other machines, and metrics name adapters: give "
            "--tls-client-ca, so that only clients with a certificate read them, stay on 127.0.0.1, or say --insecure.",
            reason="INSECURE_ADDRESS",
            address=config.metrics,
        )
    return MetricsEndpoint(config.metrics, collectors, security)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _open_registry(
    config: ServeConfig, stack: AsyncExitStack
) -> tuple[Registry, Callable[[grpc.aio.Server], Sequence[str]], Authority]:
    """The registry; what adds the services by which this process offers it to others, if it does; who knows callers."""
    if config.registry is not None:
        login = config.registry_login
        token, credentials = login.token(), channel_credentials(login)
        if credentials is None:
            _check_clear_text(config, config.registry, token)
        remote = RemoteRegistry(config.registry, token=token, credentials=credentials)
        stack.push_async_callback(remote.close)
        await remote.ready()
        return remote, lambda server: (), _authority_elsewhere(config, remote)
    catalogue = await asyncio.to_thread(
        open_catalogue,
        config.home,
        database=config.database,
        blobs=config.blobs,
        migrate=config.migrate,
    )
    stack.callback(catalogue.close)
    local = LocalRegistry(catalogue)
    stack.callback(local.close)
    authority = authority_of(catalogue, config.security, config.listen)
    return local, functools.partial(add_services, catalogue=catalogue), authority


def _check_clear_text(config: ServeConfig, registry: str, token: str) -> None:
    """Over a plain channel go this server's own token and those of its callers, whom the registry knows."""
    asks = config.security.requires_auth(loopback=is_loopback(config.listen))
    if (token or asks) and not (config.security.insecure or is_loopback(registry)):
        raise FailedPrecondition(
            f"tokens would go to the registry at {registry} in clear text: give --registry-tls-ca, or say --insecure "
            "where the network itself keeps others out.",
            reason="TOKEN_IN_CLEAR_TEXT",
            registry=registry,
        )


def _authority_elsewhere(config: ServeConfig, remote: RemoteRegistry) -> Authority:
    if not config.security.requires_auth(loopback=is_loopback(config.listen)):
        return OpenDoor(remote.caller_of, remote.quotas_of)
    file = config.security.access_file
    return AuthorityElsewhere(
        remote.caller_of, remote.quotas_of, None if file is None else read_settings(file)
    )


def _load(name: str) -> Base:
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        return load_served(name)
    except BaseNotFound as error:
        raise NotFound(f"{error}.", reason="BASE_NOT_FOUND", base=name) from error
    except BaseRefused as error:
        raise FailedPrecondition(f"{error}.", reason="BASE_UNUSABLE", base=name) from error


def _served(loaded: Base, architecture: str) -> ServedBase:
    return ServedBase(
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        architecture=architecture,
        device=loaded.model.device.type,
        context_length=loaded.context_length,
        vocab_size=loaded.model.get_input_embeddings().num_embeddings,
        eos_token_ids=loaded.eos_token_ids,
        text=None if loaded.tokenizer is None else TextCodec(loaded.tokenizer),
        is_encoder=loaded.is_encoder,
        token_types=token_types(loaded.model) if loaded.is_encoder else 0,
    )


def _entity(described: Description, max_rank: int) -> entities.Base:
    return entities.Base(
        fingerprint=described.fingerprint,
        display_name=described.name,
        architecture=described.architecture,
        quantization=described.quantization,
        modules=tuple(
            entities.LinearModule(path, *features) for path, features in described.modules.items()
        ),
        max_rank=max_rank,
        context_length=described.context_length,
        parameters=tuple(
            entities.Parameter(each.path, each.shape, each.tied_to) for each in described.parameters
        ),
    )
