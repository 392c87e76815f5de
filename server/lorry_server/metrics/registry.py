"""How the server stands with its registry, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lorry_server.registries.following import Follower


class RegistryCollector(Collector):
    """Called on the endpoint's threads."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def collect(self) -> Iterable[Metric]:
        follower = self._follower
        yield GaugeMetricFamily(
            "lorry_registry_connected",
            "1 while the registry's events are followed; 0 while what is known is served on.",
            value=follower.connected,
        )
        yield GaugeMetricFamily(
            "lorry_registry_silence_seconds",
            "Time since the last event of the registry, or its word that there is none.",
            value=follower.silence_seconds,
        )
        yield GaugeMetricFamily(
            "lorry_registry_position",
            "Up to which event of the registry the server knows what happened.",
            value=follower.position,
        )
        yield CounterMetricFamily(
            "lorry_registry_events", "Events of the registry that came.", value=follower.num_events
        )
