"""Where versions come from and how two differ: held against plain numpy, and against what the caller may see."""

from dataclasses import replace

import numpy as np
import pytest

from lorry_registry.access.rights import Rights, current_rights, parse_grants
from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import AdapterKey, Dataset, Lineage, Version
from lorry_registry.errors import NotFound
from lorry_registry.lineage_graph import MAX_VERSIONS, Edge, LineageGraph, lineage_graph

from .helpers import (
    KEY,
    PREFIX,
    adapter_bytes,
    fingerprint,
    lora_config,
    lora_tensors,
    publish,
    upload,
)

OTHER = AdapterKey("elsewhere", "teacher")
DATA = (Dataset("d", fingerprint("d"), "train", 10), Dataset("t", "", "test", 3))
Q_PROJ = f"{PREFIX}model.layers.0.self_attn.q_proj"


def labels(graph: LineageGraph) -> set[tuple[str, str]]:
    return {(node.kind.value, node.label) for node in graph.nodes}


def by_label(graph: LineageGraph) -> set[tuple[str, str, str]]:
    names = {node.id: node.label for node in graph.nodes}
    return {(names[edge.source], edge.relation, names[edge.target]) for edge in graph.edges}


@pytest.fixture
def family(stocked: Catalogue) -> Version:
    """A version made from one of another namespace and one that is not here."""
    stocked.create_adapter(OTHER)
    teacher = stocked.publish(
        OTHER, upload(stocked, adapter_bytes()), lineage=Lineage(code_revision="abc")
    )
    stocked.add_evaluation(
        OTHER, 1, title="exam", metrics={"exact": 0.5}, dataset=Dataset("t", "", "test")
    )
    lineage = Lineage(
        recipe="r: 4",
        datasets=DATA,
        metrics={"loss": 0.25},
        parents=(teacher.digest, fingerprint("9")),
        code_revision="def",
    )
    return publish(stocked, adapter_bytes(seed=1), lineage=lineage)


def test_a_graph_goes_from_parent_to_parent(stocked: Catalogue, family: Version) -> None:
    graph = stocked.lineage_graph(KEY, family.number)
    assert graph.nodes[0].label == "default/support:1"
    assert graph.nodes[0].metrics == {"loss": 0.25}
    gone = fingerprint("9")
    assert labels(graph) == {
        ("VERSION", "default/support:1"),
        ("VERSION", "elsewhere/teacher:1"),
        ("VERSION", gone),
        ("BASE", "tiny"),
        ("DATASET", "d"),
        ("DATASET", "t"),
        ("RECIPE", "recipe"),
        ("CODE", "abc"),
        ("CODE", "def"),
        ("EVALUATION", "exam"),
    }
    assert by_label(graph) == {
        ("default/support:1", "base", "tiny"),
        ("default/support:1", "train", "d"),
        ("default/support:1", "test", "t"),
        ("default/support:1", "recipe", "recipe"),
        ("default/support:1", "code", "def"),
        ("default/support:1", "parent", "elsewhere/teacher:1"),
        ("default/support:1", "parent", gone),
        ("elsewhere/teacher:1", "base", "tiny"),
        ("elsewhere/teacher:1", "code", "abc"),
        ("exam", "evaluation", "elsewhere/teacher:1"),
        ("exam", "test", "t"),
    }
    assert not graph.truncated


def test_what_a_caller_may_not_see_is_a_digest_and_no_more(
    stocked: Catalogue, family: Version
) -> None:
    token = current_rights.set(Rights(parse_grants(["read:default"])))
    try:
        graph = stocked.lineage_graph(KEY, family.number)
    finally:
        current_rights.reset(token)
    assert not any("elsewhere" in node.label + node.version for node in graph.nodes)
    parents = [node for node in graph.nodes[1:] if node.kind == "VERSION"]
    assert {node.digest for node in parents} == set(family.lineage.parents)
    assert {node.version for node in parents} == {""}


def test_circles_end_and_long_lines_are_cut(family: Version) -> None:
    def numbered(number: int) -> Version:
        parents = (f"sha256:{number + 1:064x}",)
        lineage = replace(family.lineage, parents=parents)
        return replace(family, digest=f"sha256:{number:064x}", number=number, lineage=lineage)

    endless = lineage_graph(
        numbered(1), lambda digest, _: numbered(int(digest[7:], 16)), lambda _: ()
    )
    assert endless.truncated
    assert sum(node.version != "" for node in endless.nodes) == MAX_VERSIONS
    itself = replace(family, lineage=replace(family.lineage, parents=(family.digest,)))
    circle = lineage_graph(itself, lambda *_: itself, lambda _: ())
    assert not circle.truncated
    own = circle.nodes[0].id
    assert Edge(own, own, "parent") in circle.edges


def test_two_versions_are_compared_by_what_they_do(stocked: Catalogue) -> None:
    """The effects are those of the products that are never made: s · B A, and their difference."""
    tensors = [lora_tensors(rank, seed=rank) for rank in (4, 2)]
    del tensors[1][f"{PREFIX}model.layers.1.self_attn.v_proj.lora_A.weight"]
    del tensors[1][f"{PREFIX}model.layers.1.self_attn.v_proj.lora_B.weight"]
    half = {name: tensor.astype("float16") for name, tensor in tensors[1].items()}
    configs = [lora_config(4), lora_config(2, lora_alpha=4, use_rslora=True)]
    for config, files, metrics in zip(
        configs, (tensors[0], half), ({"exact": 0.25, "loss": 1.0}, {"exact": 0.5}), strict=True
    ):
        lineage = Lineage(metrics=metrics, code_revision=f"rank {config['r']}")
        publish(stocked, adapter_bytes(config=config, tensors=files), lineage=lineage)
    found = stocked.compare_versions("support:1", "support:2")
    assert (found.first.number, found.second.number) == (1, 2)
    assert found.metrics == {"exact": (0.25, 0.5), "loss": (1.0, None)}
    values = {value.path: (value.first, value.second) for value in found.values}
    assert values["config.r"] == ("4", "2")
    assert values["config.use_rslora"] == ("", "true")
    assert values["lineage.code_revision"] == ('"rank 4"', '"rank 2"')
    assert values["spec.max_rank"] == ("4", "2")
    assert "config.peft_type" not in values
    module = found.modules[Q_PROJ]
    up, down = (tensors[0][f"{Q_PROJ}.lora_{x}.weight"].astype(float) for x in "BA")
    other_up, other_down = (half[f"{Q_PROJ}.lora_{x}.weight"].astype(float) for x in "BA")
    effects = [8 / 4 * up @ down, 4 / np.sqrt(2) * other_up @ other_down]
    assert module.effects == pytest.approx([np.linalg.norm(effect) for effect in effects])
    assert module.effect_difference == pytest.approx(np.linalg.norm(effects[0] - effects[1]))
    norms = [np.linalg.norm(one) for one in (down, other_down)]
    assert module.factors["lora_A.weight"] == pytest.approx(norms)
    missing = found.modules[f"{PREFIX}model.layers.1.self_attn.v_proj"]
    assert missing.effects[0] is not None
    assert (missing.effects[1], missing.effect_difference) == (None, None)
    assert missing.factors["lora_B.weight"][1] is None
    same = stocked.compare_versions("support:1", "support:1")
    assert same.values == ()
    assert same.modules[Q_PROJ].effect_difference == pytest.approx(0, abs=1e-6)
    with pytest.raises(NotFound):
        stocked.compare_versions("support:1", "support:3")
