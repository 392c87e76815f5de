"""What is said of versions after they were published, and the events that tell of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import lorry_client
from lorry_client import AsyncClient, Client, Deprecation
from lorry_client.cli.main import build_app

OneJson = Callable[[str], Any]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(build_app(), list(arguments))


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture
def intent(server: Any, folder: Path) -> str:
    """An adapter with two versions."""
    with Client() as client:
        client.push(folder, "intent")
        (folder / "README.md").write_text("# better\n")
        client.push(folder, "intent")
    return "intent"


def test_a_version_is_deprecated_and_blocked_by_any_reference(
    client: Client, intent: str, folder: Path
) -> None:
    client.set_alias(intent, "production", 1)
    assert client.resolve("intent:1").state == "active"
    old = client.deprecate("intent@production", "old", replacement="2")
    assert (old.number, old.state) == (1, "deprecated")
    assert old.deprecation == Deprecation("old", "default/intent:2")
    assert client.undeprecate("intent:1", why="still good").deprecation is None
    blocked = client.block("intent:2", "leaks")
    assert (blocked.number, blocked.state, blocked.block_reason) == (2, "blocked", "leaks")
    assert client.unblock(blocked.reference).block_reason is None
    with pytest.raises(lorry_client.InvalidArgument):
        client.block("intent:2", "")
    with pytest.raises(lorry_client.NotFound):
        client.block("intent:9", "leaks")


def test_labels_annotations_and_evaluations(client: Client, intent: str) -> None:
    changed = client.update_version("intent:1", labels={"team": "x"}, annotations={"n": "1"})
    assert (changed.labels, changed.annotations) == ({"team": "x"}, {"n": "1"})
    assert client.update_version("intent:1", labels={}).annotations == {"n": "1"}
    with pytest.raises(lorry_client.Aborted):
        client.update_version("intent:1", description="d", etag="stale")
    with pytest.raises(lorry_client.InvalidArgument):
        client.update_version("intent:1")
    data = lorry_client.Dataset("held-out", f"sha256:{'d' * 64}", "test", 100)
    for number in (1, 2, 3):
        client.add_evaluation("intent:1", f"run {number}", {"exact": 0.5}, dataset=data)
    found = client.evaluations("intent:1")
    assert [one.number for one in found] == [3, 2, 1]
    assert (found[0].title, found[0].metrics, found[0].dataset) == ("run 3", {"exact": 0.5}, data)
    adapter = client.adapters.update("intent", annotations={"owner": "a"})
    assert adapter.annotations == {"owner": "a"}


def test_the_commands_that_say_something_of_a_version(intent: str, one_json: OneJson) -> None:
    assert invoke("versions", "label", "intent:1", "team=x", "stage=a").stdout == (
        "default/intent:1  stage=a team=x\n"
    )
    assert invoke("versions", "label", "intent:1", "stage-").stdout.endswith("  team=x\n")
    document = one_json(invoke("versions", "annotate", "intent:1", "n=a=b", "--json").stdout)
    assert (document["labels"], document["annotations"]) == ({"team": "x"}, {"n": "a=b"})
    assert invoke("versions", "describe", "intent:1", "new words").exit_code == 0
    shown = invoke("versions", "show", "intent:1").stdout
    for part in ("team=x", "n=a=b", "new words"):
        assert part in shown
    done = invoke(
        "versions", "evals", "intent:1", "--add", "run 1", "--metric", "exact=0.5",
        "--metric", "f1=0.25", "--dataset", "held-out",
    )  # fmt: skip
    assert done.exit_code == 0
    row = done.stdout.splitlines()[1].split()
    assert row[:6] == ["1", "run", "1", "exact=0.5", "f1=0.25", "held-out"]
    assert invoke("adapters", "label", "intent", "team=y").stdout == "default/intent  team=y\n"
    assert invoke("adapters", "annotate", "intent", "a=b", "a-").stdout == "default/intent\n"
    for wrong in ("team", "=x", "-"):
        assert invoke("versions", "label", "intent:1", wrong).exit_code == 2


def test_lists_are_searched_and_ordered(client: Client, server: Any, intent: str) -> None:
    client.adapters.list("default", filter="name = i*", order_by="name desc")
    client.versions("intent", filter="rank <= 8", order_by="metrics.exact desc")
    found = client.versions(namespace="default")
    assert [version.reference for version in found] == [
        version.reference for version in client.versions(intent)
    ]
    adapters, versions, all_of_them, _ = server.registry.searches[-4:]
    assert (adapters.filter, adapters.order_by) == ("name = i*", "name desc")
    assert (versions.filter, versions.order_by) == ("rank <= 8", "metrics.exact desc")
    assert all_of_them.parent == "namespaces/default/adapters/-"
    rows = invoke("versions", "ls", "--filter", "rank <= 8").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["VERSION", "default/intent:2", "default/intent:1"]
    assert server.registry.searches[-1].parent == "namespaces/-/adapters/-"


def test_lineage_and_comparison(client: Client, intent: str, one_json: OneJson) -> None:
    graph = client.lineage("intent:1")
    assert [(node.kind, node.version) for node in graph.nodes] == [
        ("version", "default/intent:1"),
        ("base", None),
        ("evaluation", None),
    ]
    lines = invoke("versions", "lineage", "intent:1").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["default/intent:1", "base:", "evaluation:"]
    dot = invoke("versions", "lineage", "intent:1", "--format", "dot").stdout
    assert dot.startswith("digraph lineage {")
    assert '"v" -> "b" [label="base"];' in dot
    document = one_json(invoke("versions", "lineage", "intent:1", "--format", "json").stdout)
    assert len(document["edges"]) == 2
    found = client.compare("intent:1", "intent:2")
    assert (found.first, found.second, found.identical) == (
        "default/intent:1", "default/intent:2", False
    )  # fmt: skip
    assert (found.metrics[1].first, found.metrics[1].second) == (None, 1)
    assert (found.modules[0].second_effect, found.modules[0].effect_difference) == (None, 0.5)
    text = invoke("versions", "compare", "intent:1", "intent:2").stdout
    for part in ("config.r", "+0.25", "lora_A=1.5/-", "q_proj"):
        assert part in text


def test_a_card_says_what_is_known_and_hubs_can_read_it(client: Client, intent: str) -> None:
    data = lorry_client.Dataset("org/held-out", f"sha256:{'d' * 64}", "test", 100)
    client.update_version("intent:1", labels={"team": "a|b"}, description="Better | <than> before.")
    client.add_evaluation("intent:1", "exam", {"exact": 0.5}, dataset=data)
    client.deprecate("intent:1", "it is old", replacement="2")
    card = client.card("intent:1")
    for part in (
        "# default/intent:1",
        "> **Deprecated**: it is old. Use `default/intent:2`.",
        "| exam | exact | 0.5 | org/held-out |",
        client.resolve("intent:1").digest,
    ):
        assert part in card
    assert invoke("versions", "card", "intent:1").stdout == card
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(card)
    assert read.data.library_name == "peft"
    assert read.data.model_name == "default/intent:1"
    (result,) = read.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "org/held-out", "exact", 0.5
    )  # fmt: skip


def test_a_watch_yields_what_happens_until_it_is_closed(client: Client, server: Any) -> None:
    messages = client.watch("default", heartbeat_seconds=0.5)
    first, second = next(messages), next(messages)
    assert first.events == ()
    (event,) = second.events
    assert (event.kind, event.adapter, event.alias) == (
        "ALIAS_MOVED",
        "default/intent",
        "production",
    )
    assert (event.version, event.principal, event.targets[0].version) == (None, "alice", 1)
    messages.close()
    assert server.watching.left.wait(20)
    sent = server.watching.requests[0]
    assert (sent.parent, sent.heartbeat.ToMilliseconds()) == ("namespaces/default", 500)
    again = client.watch(resume_token=second.resume_token)
    assert [next(again).position for _ in range(3)] == [1, 2, 3]
    again.close()
    with pytest.raises(lorry_client.OutOfRange):
        next(client.watch(resume_token="old"))


async def test_awaiting_does_the_same(server: Any, folder: Path) -> None:
    async with AsyncClient() as client:
        await client.push(folder, "intent")
        assert (await client.deprecate("intent", "old")).state == "deprecated"
        assert (await client.undeprecate("intent")).state == "active"
        assert (await client.block("intent", "leaks")).state == "blocked"
        assert (await client.unblock("intent")).state == "active"
        assert (await client.update_version("intent", labels={"a": "b"})).labels == {"a": "b"}
        await client.add_evaluation("intent", "run", {"exact": 0.5})
        assert (await client.lineage("intent")).nodes[0].kind == "version"
        assert not (await client.compare("intent:1", "intent:2")).identical
        assert "| run | exact | 0.5 |  |" in await client.card("intent")
        assert [one.title for one in await client.evaluations("intent")] == ["run"]
        messages = client.watch(resume_token="2")
        assert [(await anext(messages)).position for _ in range(2)] == [2, 3]
        await messages.aclose()
        assert server.watching.left.wait(20)


def test_the_commands(intent: str, one_json: OneJson) -> None:
    listed = invoke("versions", "ls", intent)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["VERSION", "2", "1"]
    digest = one_json(invoke("versions", "show", "intent:1", "--json").stdout)["digest"]
    done = invoke("versions", "block", "intent:1", "--why", "leaks")
    assert (done.exit_code, done.stdout) == (0, f"default/intent@{digest}\n")
    assert "blocked: leaks" in done.stderr
    assert "blocked" in invoke("versions", "ls", intent).stdout
    assert "blocked: leaks" in invoke("versions", "show", "intent:1").stdout
    assert invoke("versions", "unblock", "intent:1").exit_code == 0
    done = invoke("versions", "deprecate", "intent:1", "--why", "old", "--replacement", "2")
    assert "deprecated: old; use default/intent:2" in done.stderr
    assert invoke("versions", "undeprecate", "intent:1").exit_code == 0
    assert invoke("versions", "block", "intent:1").exit_code == 2  # a reason is owed


def test_the_watch_command_prints_a_line_an_event(server: Any) -> None:
    done = invoke("watch", "--timeout", "1")
    assert done.exit_code != 0  # it was ended by its time, not by itself
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("ALIAS_MOVED  default/intent@production = 1  alice  better")
