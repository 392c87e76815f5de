"""The catalogue's rules: what may be published, which base it is for, what a reference means."""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes, version_digest
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, AliasTarget, Base, Dataset, Lineage, LinearModule
from lorry_registry.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LorryError,
    NotFound,
)

from .helpers import (
    KEY,
    MODULES,
    adapter_bytes,
    fingerprint,
    lora_config,
    lora_tensors,
    make_base,
    publish,
    upload,
)


@pytest.fixture
def catalogue(home: Path, database: str) -> Iterator[Catalogue]:
    """Empty, over each kind of database."""
    opened = open_catalogue(home, database=database)
    yield opened
    opened.close()


def reason_of(error: pytest.ExceptionInfo[LorryError]) -> str:
    return error.value.reason


def test_publishing(stocked: Catalogue) -> None:
    files = adapter_bytes()
    lineage = Lineage(recipe="r: 4", metrics={"exact": 0.5}, producer="tests 1")
    version = publish(stocked, files, lineage=lineage, description="first")
    assert version.number == 1
    assert version.digest == version_digest(version.files)
    assert version.spec.max_rank == 4
    assert version.description == "first"
    # The base that the tensors fit was found, and is recorded.
    assert version.lineage == replace(lineage, base_fingerprint=fingerprint("a"), base_name="tiny")
    assert stocked.resolve("support") == version
    assert stocked.get_adapter(KEY).latest_version == 1


def test_the_same_files_again_are_the_same_version(stocked: Catalogue) -> None:
    first = publish(stocked, adapter_bytes())
    assert publish(stocked, adapter_bytes(), description="again") == first
    assert publish(stocked, adapter_bytes(seed=1)).number == 2


def test_a_dry_run_checks_everything_and_publishes_nothing(stocked: Catalogue) -> None:
    dry = publish(stocked, adapter_bytes(), validate_only=True)
    assert dry.number == 0
    assert dry.lineage.base_fingerprint == fingerprint("a")
    assert stocked.list_versions(KEY).items == ()
    with pytest.raises(InvalidArgument):
        publish(stocked, adapter_bytes(config=lora_config(use_qalora=True)), validate_only=True)
    assert publish(stocked, adapter_bytes()).digest == dry.digest


def test_an_unknown_adapter_is_told(stocked: Catalogue) -> None:
    with pytest.raises(NotFound) as caught:
        stocked.publish(AdapterKey("default", "nobody"), upload(stocked, adapter_bytes()))
    assert reason_of(caught) == "ADAPTER_NOT_FOUND"


def test_missing_blobs_are_named_and_nothing_is_published(stocked: Catalogue) -> None:
    files = adapter_bytes()
    manifest = upload(stocked, {"adapter_config.json": files["adapter_config.json"]})
    weights = digest_bytes(files["adapter_model.safetensors"])
    manifest.append(replace(manifest[0], path="adapter_model.safetensors", digest=weights))
    # Half of it is there, which does not count.
    stocked.blobs.append(weights, size_bytes=10_000, offset=0, data=b"half")
    with pytest.raises(FailedPrecondition) as caught:
        stocked.publish(KEY, manifest)
    assert reason_of(caught) == "BLOBS_MISSING"
    assert caught.value.metadata["digests"] == weights
    assert stocked.missing_blobs([file.digest for file in manifest]) == [(weights, 4)]
    assert stocked.get_adapter(KEY).latest_version == 0


def test_a_size_other_than_the_blobs_is_refused(stocked: Catalogue) -> None:
    manifest = upload(stocked, adapter_bytes())
    manifest[1] = replace(manifest[1], size_bytes=manifest[1].size_bytes + 1)
    with pytest.raises(InvalidArgument) as caught:
        stocked.publish(KEY, manifest)
    assert reason_of(caught) == "BLOB_SIZE_MISMATCH"


def bad_numbers() -> dict[str, np.ndarray]:
    tensors = lora_tensors()
    next(iter(tensors.values()))[1, 1] = math.nan
    return tensors


GOOD = adapter_bytes()
BAD_ADAPTERS = {
    "TENSOR_NOT_FINITE": adapter_bytes(tensors=bad_numbers()),
    "HEADER_INVALID": {**GOOD, "adapter_model.safetensors": GOOD["adapter_model.safetensors"][:-9]},
    "KIND_UNSUPPORTED": adapter_bytes(config=lora_config(peft_type="SHADOW")),
    "PICKLE_REFUSED": {**GOOD, "optimizer.pt": b"\x80\x02"},
    "TENSOR_UNKNOWN": adapter_bytes(
        tensors={**lora_tensors(), "lm_head.lora_C.weight": np.zeros((2, 2), "float32")}
    ),
    "TENSOR_MISSING": adapter_bytes(tensors=dict(list(lora_tensors().items())[:-1])),
    "RANK_MISMATCH": adapter_bytes(config=lora_config(8)),
    "CONFIG_INVALID": {**GOOD, "adapter_config.json": b"{"},
    "FILE_MISSING": {"adapter_config.json": GOOD["adapter_config.json"]},
    "MODULE_UNKNOWN": adapter_bytes(
        tensors=lora_tensors(4, {"h.0.q_proj": (8, 8)}), config=lora_config()
    ),
    "SHAPE_MISMATCH": adapter_bytes(
        tensors=lora_tensors(4, {"model.layers.0.self_attn.q_proj": (16, 8)})
    ),
}


@pytest.mark.parametrize("reason", BAD_ADAPTERS)
def test_a_bad_adapter_leaves_nothing_behind_and_the_next_is_published(
    stocked: Catalogue, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        publish(stocked, BAD_ADAPTERS[reason])
    assert reason_of(caught) == reason
    assert stocked.get_adapter(KEY).latest_version == 0
    assert publish(stocked, GOOD).number == 1


# Which base.


def other_base(letter: str, size: int = 16) -> Base:
    modules = dict.fromkeys(MODULES, (size, size))
    return make_base(letter, modules=modules, name=f"other-{letter}")


def test_without_any_base_nothing_can_be_checked(catalogue: Catalogue) -> None:
    catalogue.create_adapter(KEY)
    with pytest.raises(FailedPrecondition, match="lorry serve") as caught:
        publish(catalogue, adapter_bytes())
    assert reason_of(caught) == "BASE_UNKNOWN"


def test_a_named_base_must_be_known(stocked: Catalogue) -> None:
    with pytest.raises(FailedPrecondition, match=r"known: tiny sha256:aaa") as caught:
        publish(stocked, adapter_bytes(), lineage=Lineage(base_fingerprint=fingerprint("f")))
    assert reason_of(caught) == "BASE_UNKNOWN"


def test_a_named_base_must_fit_whatever_others_do(stocked: Catalogue) -> None:
    stocked.put_base(other_base("b"))
    with pytest.raises(InvalidArgument) as caught:
        publish(stocked, adapter_bytes(), lineage=Lineage(base_fingerprint=fingerprint("b")))
    assert reason_of(caught) == "SHAPE_MISMATCH"
    named = Lineage(base_fingerprint=fingerprint("a"), base_name="as the trainer calls it")
    assert publish(stocked, adapter_bytes(), lineage=named).lineage == named


def test_where_none_of_several_fits_each_says_why(stocked: Catalogue) -> None:
    stocked.put_base(make_base("b", max_rank=2, name="small"))
    with pytest.raises(InvalidArgument) as caught:
        publish(stocked, adapter_bytes(4, tensors=lora_tensors(4, {"x.q_proj": (8, 8)})))
    assert reason_of(caught) == "BASE_MISMATCH"
    assert "tiny: " in caught.value.message
    assert "small: " in caught.value.message


def test_a_rank_above_the_cap_is_refused(catalogue: Catalogue) -> None:
    catalogue.put_base(make_base(max_rank=3))
    catalogue.create_adapter(KEY)
    with pytest.raises(InvalidArgument) as caught:
        publish(catalogue, adapter_bytes(4))
    assert reason_of(caught) == "RANK_ABOVE_CAP"


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "tiny"},
        {"modules": ()},
        {"modules": (LinearModule("a", 0, 1),)},
        {"modules": (LinearModule("", 1, 1),)},
        {"modules": (LinearModule("a", 1, 1), LinearModule("a", 2, 2))},
        {"max_rank": -1},
        {"display_name": "x" * 1000},
    ],
)
def test_a_base_without_sense_is_refused(catalogue: Catalogue, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        catalogue.put_base(replace(make_base(), **changes))  # type: ignore[arg-type]


# What a reference means.


def test_references_resolve(stocked: Catalogue) -> None:
    first, second = (publish(stocked, adapter_bytes(seed=seed)) for seed in (0, 1))
    stocked.set_alias(KEY, "stable", [AliasTarget(1)])
    assert stocked.resolve("support") == second  # the newest, while there is no `production`
    assert stocked.resolve("default/support:1") == first
    assert stocked.resolve("support@stable") == first
    assert stocked.resolve(f"support@{second.digest}") == second
    stocked.set_alias(KEY, "production", [AliasTarget(1)])
    assert stocked.resolve("support") == first
    stocked.set_alias(KEY, "production", [AliasTarget(2)])
    assert stocked.resolve("support") == second


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nobody", "ADAPTER_NOT_FOUND"),
        ("other/support", "ADAPTER_NOT_FOUND"),
        ("nobody@production", "ADAPTER_NOT_FOUND"),
        ("support", "VERSION_NOT_FOUND"),
        ("support:1", "VERSION_NOT_FOUND"),
        ("support@production", "ALIAS_NOT_FOUND"),
        (f"support@{fingerprint('9')}", "VERSION_NOT_FOUND"),
    ],
)
def test_references_to_nothing_say_what_is_missing(
    stocked: Catalogue, reference: str, reason: str
) -> None:
    with pytest.raises(NotFound) as caught:
        stocked.resolve(reference)
    assert reason_of(caught) == reason


def test_an_alias_has_exactly_one_target(stocked: Catalogue) -> None:
    publish(stocked, adapter_bytes())
    for targets in ([], [AliasTarget(1), AliasTarget(1)], [AliasTarget(1, weight=-1)]):
        with pytest.raises(InvalidArgument) as caught:
            stocked.set_alias(KEY, "p", targets)
        assert reason_of(caught) == "ALIAS_TARGETS_INVALID"
    assert stocked.set_alias(KEY, "p", [AliasTarget(1, weight=0)]).targets[0].weight == 1
    with pytest.raises(InvalidArgument):
        stocked.set_alias(KEY, "Not-An-Alias", [AliasTarget(1)])


# The rest.


def test_pages_go_on_where_they_stopped_while_rows_come_and_go(catalogue: Catalogue) -> None:
    for i in range(10):
        catalogue.create_adapter(AdapterKey("default", f"a{i}"))
    first = catalogue.list_adapters("default", page_size=4)
    catalogue.delete_adapter(AdapterKey("default", "a1"))
    catalogue.create_adapter(AdapterKey("default", "a35"))
    second = catalogue.list_adapters("default", page_size=4, page_token=first.next_token)
    assert [a.key.adapter_id for a in second.items] == ["a35", "a4", "a5", "a6"]
    last = catalogue.list_adapters("default", page_size=4, page_token=second.next_token)
    assert [a.key.adapter_id for a in last.items] == ["a7", "a8", "a9"]
    assert last.next_token == ""
    for changed in ({"namespace": None}, {"filter_text": "name = a*"}):
        with pytest.raises(InvalidArgument) as caught:
            catalogue.list_adapters(
                **{"namespace": "default", "page_token": first.next_token, **changed}  # type: ignore[arg-type]
            )
        assert reason_of(caught) == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(
    "lineage",
    [
        Lineage(base_fingerprint="tiny"),
        Lineage(metrics={"loss": math.nan}),
        Lineage(parents=("v1",)),
        Lineage(datasets=(Dataset("d", "md5:1"),)),
        Lineage(recipe="x" * 1_000_000),
        Lineage(producer="a\0b"),
    ],
)
def test_a_lineage_without_sense_is_refused(stocked: Catalogue, lineage: Lineage) -> None:
    with pytest.raises(InvalidArgument):
        publish(stocked, adapter_bytes(), lineage=lineage)


def test_labels_and_descriptions_are_bounded(catalogue: Catalogue) -> None:
    for bad in (
        {"description": "x" * 5000},
        {"labels": {"": "x"}},
        {"labels": {"k" * 64: "x"}},
        {"labels": {"k": "x" * 256}},
        {"labels": {str(i): "" for i in range(65)}},
    ):
        with pytest.raises(InvalidArgument):
            catalogue.create_adapter(KEY, **bad)  # type: ignore[arg-type]


def test_warnings_about_a_configuration_are_logged(
    stocked: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        publish(stocked, adapter_bytes(config=lora_config(brand_new="on")))
    assert "brand_new" in caplog.text


def test_wrong_bytes_for_a_digest_never_become_a_blob(catalogue: Catalogue) -> None:
    digest = digest_bytes(b"right")
    catalogue.blobs.append(digest, size_bytes=5, offset=0, data=b"wrong")
    with pytest.raises(DataLoss):
        catalogue.blobs.finish(digest, size_bytes=5)
    assert catalogue.missing_blobs([digest]) == [(digest, 0)]


def test_a_home_that_cannot_be_written_is_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FailedPrecondition) as caught:
            open_catalogue(home)
        assert reason_of(caught) == "HOME_UNWRITABLE"
    # The database's place taken by a folder.
    (tmp_path / "home" / "registry.db").mkdir(parents=True)
    with pytest.raises(FailedPrecondition, match=r"registry\.db"):
        open_catalogue(tmp_path / "home")


def test_two_catalogues_on_one_home_see_each_other(home: Path) -> None:
    with_base, other = open_catalogue(home), open_catalogue(home)
    try:
        with_base.put_base(make_base())
        with_base.create_adapter(KEY)
        version = publish(other, adapter_bytes())
        assert with_base.resolve("support") == version
    finally:
        with_base.close()
        other.close()
