"""The engine's state, read at each scrape, so that no gauge is ever out of step.

Series by adapter exist for the adapters in slots alone: thousands may be registered, and a series that nobody feeds any
more is a lie. They vanish with the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lorry_server.base import ServedBase
from lorry_server.cache import OnDisk
from lorry_server.engine.stats import EngineStats, ResidentInfo
from lorry_server.metrics.requests import AdapterTallies
from lorry_server.version import version

_IN_MEMORY = ("host", "slot")
_SHORT_DIGEST = len("sha256:") + 12


class EngineCollector(Collector):
    """Called on the endpoint's threads."""

    def __init__(
        self,
        *,
        base: ServedBase,
        stats: Callable[[], EngineStats],
        tallies: AdapterTallies,
        references: Callable[[str], tuple[str, ...]],
        on_disk: Callable[[], Iterable[OnDisk]],
    ) -> None:
        self._base = base
        self._stats = stats
        self._tallies = tallies
        self._references = references
        self._on_disk = on_disk

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        yield from self._info()
        yield from _load(stats)
        yield from _memory(stats)
        yield from _adapter_traffic(stats, {entry.digest for entry in self._on_disk()})
        yield from self._adapters([info for info in stats.residents if info.tier == "slot"])

    def describe(self) -> Iterable[Metric]:
        return []  # else registration would ask an engine that is not warm yet

    def _info(self) -> Iterable[Metric]:
        yield InfoMetricFamily("lorry_build", "The server's version.", {"version": version()})
        yield InfoMetricFamily("lorry_base", "The base that the server runs.", {
            "base": self._base.name, "fingerprint": self._base.fingerprint,
            "architecture": self._base.architecture, "device": self._base.device,
        })  # fmt: skip

    def _adapters(self, residents: list[ResidentInfo]) -> Iterable[Metric]:
        self._tallies.keep({info.digest for info in residents})
        labels = ["adapter", "reference"]
        requests = CounterMetricFamily(
            "lorry_adapter_requests",
            "Requests that ended, since the adapter came into its slot.",
            labels=labels,
        )
        prompts = CounterMetricFamily(
            "lorry_adapter_prompt_tokens",
            "Prompt tokens, since the adapter came into its slot.",
            labels=labels,
        )
        generated = CounterMetricFamily(
            "lorry_adapter_generation_tokens",
            "Tokens generated, since the adapter came into its slot.",
            labels=labels,
        )
        in_flight = GaugeMetricFamily(
            "lorry_adapter_requests_in_flight",
            "Requests that run with the adapter or wait for it.",
            labels=labels,
        )
        rank = GaugeMetricFamily("lorry_adapter_rank", "The adapter's largest rank.", labels=labels)
        size = GaugeMetricFamily(
            "lorry_adapter_size_bytes", "Bytes the adapter takes in its slot.", labels=labels
        )
        pinned = GaugeMetricFamily(
            "lorry_adapter_pinned", "1 where the adapter is never evicted.", labels=labels
        )
        merged = GaugeMetricFamily(
            "lorry_adapter_merged", "1 where the adapter is merged, or about to be.", labels=labels
        )
        for info in residents:
            names = self._references(info.digest)
            at = [info.digest[:_SHORT_DIGEST], names[0] if names else ""]
            requests.add_metric(at, self._tallies.requests[info.digest])
            prompts.add_metric(at, self._tallies.prompt_tokens[info.digest])
            generated.add_metric(at, self._tallies.generation_tokens[info.digest])
            in_flight.add_metric(at, info.in_flight)
            rank.add_metric(at, info.rank)
            size.add_metric(at, info.size_bytes)
            pinned.add_metric(at, info.pinned)
            merged.add_metric(at, info.merged)
        return [requests, prompts, generated, in_flight, rank, size, pinned, merged]


def _load(stats: EngineStats) -> Iterable[Metric]:
    yield _gauge("lorry_requests_waiting", "Requests in the queue.", stats.waiting)
    yield _gauge(
        "lorry_requests_waiting_for_adapter",
        "Of those, requests whose adapter is not in a slot yet.",
        stats.waiting_for_adapter,
    )
    yield _gauge("lorry_requests_running", "Requests that take part in the steps.", stats.running)
    yield _counter("lorry_engine_steps", "Steps of the engine.", stats.steps)
    yield _counter(
        "lorry_preemptions",
        "Requests that gave their KV blocks back and started again.",
        stats.preemptions,
    )


def _memory(stats: EngineStats) -> Iterable[Metric]:
    yield _gauge("lorry_kv_blocks_used", "KV blocks in use by requests.", stats.kv_blocks_used)
    yield _gauge("lorry_kv_blocks_capacity", "KV blocks in all.", stats.kv_blocks_total)
    yield _gauge("lorry_kv_block_tokens", "Tokens that a KV block holds.", stats.kv_block_size)
    yield _counter(
        "lorry_prefix_query_tokens",
        "Prompt tokens looked up in the prefix cache.",
        stats.prefix_query_tokens,
    )
    yield _counter(
        "lorry_prefix_hit_tokens", "Of those, tokens that were found.", stats.prefix_hit_tokens
    )
    merged_bytes = 0 if stats.merge is None else stats.merge.size_bytes
    yield _gauge("lorry_merged_bytes", "Bytes of the weights that are merged.", merged_bytes)
    yield _counter("lorry_merges", "Adapters that were merged.", stats.merges)
    yield _gauge("lorry_slots_used", "Slots that hold an adapter.", stats.slots_used)
    yield _gauge("lorry_slots_capacity", "Slots in all.", stats.slots_total)


def _adapter_traffic(stats: EngineStats, on_disk: set[str]) -> Iterable[Metric]:
    held = GaugeMetricFamily(
        "lorry_adapters", "Adapters by the fastest tier that holds them.", labels=["tier"]
    )
    loads = CounterMetricFamily(
        "lorry_adapter_loads", "Loads of adapters into a tier.", labels=["tier"]
    )
    seconds = CounterMetricFamily(
        "lorry_adapter_load_seconds", "Time that the loads took.", labels=["tier"]
    )
    size = CounterMetricFamily(
        "lorry_adapter_load_bytes", "Bytes that the loads brought.", labels=["tier"]
    )
    held.add_metric(["disk"], len(on_disk - {info.digest for info in stats.residents}))
    for tier in _IN_MEMORY:
        held.add_metric([tier], sum(info.tier == tier for info in stats.residents))
    for tier, totals in stats.loads.items():
        loads.add_metric([tier], totals.count)
        seconds.add_metric([tier], totals.seconds)
        size.add_metric([tier], totals.size_bytes)
    yield from (held, loads, seconds, size)
    yield _counter(
        "lorry_adapter_evictions", "Adapters that lost their slot to another.", stats.evictions
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
