"""What a scrape says: true, parseable, and silent about what is gone."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lorry.admin.v1 import admin_service_pb2
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition
from lorry_server.metrics.endpoint import MetricsEndpoint


def request(**fields) -> pb.GenerateRequest:
    sampling = pb.SamplingParameters(max_tokens=6, ignore_eos=True)
    return pb.GenerateRequest(text="hello", sampling=sampling, **fields)


async def test_requests_and_tokens_are_counted(node):
    for _ in range(3):
        await node.generate(request())
    await node.refusal(request(adapter="nobody"))
    await node.idle()
    assert node.sample("lorry_requests_total", outcome="length") == 3
    assert node.sample("lorry_requests_total", outcome="refused") == 2
    assert node.sample("lorry_requests_total", outcome="error") == 0
    assert node.sample("lorry_generation_tokens_total") == 18
    prompt_tokens = len(node.engine.submitted[0].prompt_token_ids)
    assert node.sample("lorry_prompt_tokens_total") == 3 * prompt_tokens
    assert node.sample("lorry_time_to_first_token_seconds_count") == 3
    assert node.sample("lorry_request_duration_seconds_count") == 3
    assert node.sample("lorry_request_queue_seconds_count") == 3
    assert node.sample("lorry_kv_blocks_capacity") == 64
    assert node.sample("lorry_requests_running") == 0


async def test_every_gap_between_tokens_is_observed_once(node):
    """However many tokens one message carries; the first token of a request follows none."""
    answer = await node.inference.GenerateUnary(request())
    gaps = node.sample("lorry_inter_token_latency_seconds_count")
    assert gaps is not None
    assert gaps <= len(answer.token_ids) - 1


async def test_series_by_adapter_are_of_residents_and_vanish_with_them(node):
    version = node.registry.publish("support")
    node.registry.publish("never-used")
    await node.generate(request(adapter="support"))
    await node.idle()
    labels = {"adapter": version.digest[:19], "reference": "default/support:1"}
    assert node.sample("lorry_adapter_requests_total", **labels) == 1
    assert node.sample("lorry_adapter_generation_tokens_total", **labels) == 6
    assert node.sample("lorry_adapter_rank", **labels) == 8
    assert node.sample("lorry_adapters", tier="slot") == 1
    assert b"never-used" not in generate_latest(node.collectors)
    await node.admin.UnloadAdapter(admin_service_pb2.UnloadAdapterRequest(adapter="support"))
    assert b"support" not in generate_latest(node.collectors)
    assert node.sample("lorry_adapters", tier="slot") == 0


async def test_names_and_units_follow_the_conventions(node):
    node.registry.publish("support")
    await node.generate(request(adapter="support"))
    text = generate_latest(node.collectors).decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 25
    for family in families:
        assert family.name.startswith("lorry_")
        assert ":" not in family.name
        assert family.documentation
        assert not any(family.name.endswith(unit) for unit in ("_ms", "_milliseconds", "_ratio"))
        if family.type != "counter":
            assert not family.name.endswith("_total")
    assert any("fingerprint" in sample.labels for f in families for sample in f.samples)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
async def test_promtool_finds_nothing(node):
    node.registry.publish("support")
    await node.generate(request(adapter="support"))
    text = generate_latest(node.collectors)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)  # noqa: ASYNC221
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_the_endpoint_serves_over_http(node):
    endpoint = MetricsEndpoint("127.0.0.1:0", node.collectors)
    try:
        assert not endpoint.url.endswith(":0/metrics")
        with urllib.request.urlopen(endpoint.url) as answer:  # noqa: ASYNC210
            assert b"lorry_requests_total" in answer.read()
        address = endpoint.url.removeprefix("http://").removesuffix("/metrics")
        with pytest.raises(FailedPrecondition, match="--metrics"):
            MetricsEndpoint(address, CollectorRegistry())
    finally:
        endpoint.close()
