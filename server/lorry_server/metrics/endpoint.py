"""`/metrics` over HTTP, on threads of its own: a scrape never waits for the event loop, nor it for a scrape."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from lorry_registry.config import parse_address
from lorry_registry.errors import FailedPrecondition
from lorry_registry.security import Security


class MetricsEndpoint:
    """Serves a collector registry from when it is made until `close`."""

    def __init__(
        self, address: str, registry: CollectorRegistry, security: Security | None = None
    ) -> None:
        """Over TLS where `security` has a certificate, and for clients with one of its authority where it has that."""
        host, port = parse_address(address, "metrics")
        security = security or Security()
        cert, key, ca = security.tls_cert, security.tls_key, security.tls_client_ca
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, of no use to a Prometheus that scrapes text
        try:
            self._server, self._thread = start_http_server(
                port,
                addr=host,
                registry=registry,
                certfile=None if cert is None else str(cert),
                keyfile=None if key is None else str(key),
                client_cafile=None if ca is None else str(ca),
                client_auth_required=ca is not None,
            )
        except OSError as error:
            raise FailedPrecondition(
                f"Metrics cannot be served on {address}: {error.strerror or error}. "
                "Choose another address with --metrics; port 0 takes any free one.",
                reason="ADDRESS_UNAVAILABLE",
                address=address,
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = (
            f"{'http' if cert is None else 'https'}://{shown}:{self._server.server_port}/metrics"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
