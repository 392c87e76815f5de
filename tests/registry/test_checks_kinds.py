"""Each form that an adapter may have, as any version of PEFT writes it: read into its place, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorry_registry.catalogue import Catalogue
from lorry_registry.checks import AdapterFiles, read_adapter
from lorry_registry.entities import Base, LinearModule, Parameter
from lorry_registry.errors import FailedPrecondition, InvalidArgument

from .helpers import (
    PREFIX,
    adapter_bytes,
    fingerprint,
    lora_config,
    lora_tensors,
    make_base,
    publish,
    write_folder,
)

Q0 = "model.layers.0.self_attn.q_proj"
EMBEDDING, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"
VOCABULARY, WIDTH = 20, 8
PARAMETERS = (
    Parameter(f"{EMBEDDING}.weight", (VOCABULARY, WIDTH)),
    Parameter(f"{HEAD}.weight", (VOCABULARY, WIDTH), f"{EMBEDDING}.weight"),
    Parameter(f"{NORM}.weight", (WIDTH,)),
    Parameter(f"{Q0}.bias", (WIDTH,)),
)

Tensors = dict[str, np.ndarray]


def base() -> Base:
    known = make_base()
    head = LinearModule(HEAD, WIDTH, VOCABULARY)
    return replace(known, modules=(*known.modules, head), parameters=PARAMETERS)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, "float32")


def lora(extra: Mapping[str, np.ndarray]) -> Tensors:
    """A LoRA on the usual modules, and more."""
    return {**lora_tensors(), **{PREFIX + name: tensor for name, tensor in extra.items()}}


def read(tmp_path: Path, config: Mapping[str, Any], tensors: Tensors) -> AdapterFiles:
    adapter = read_adapter(write_folder(tmp_path, adapter_bytes(config=config, tensors=tensors)))
    adapter.check_fit(base())
    adapter.check_finite()
    assert sorted(adapter.parts.tensors()) == sorted(tensors), "every tensor has its place"
    return adapter


def refused(
    tmp_path: Path, reason: str, config: Mapping[str, Any], tensors: Tensors
) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, config, tensors)
    assert caught.value.reason == reason, caught.value.message
    return caught.value


def dora(name: str, length: int = WIDTH) -> Tensors:
    return {
        **lora_tensors(4, {Q0: (8, 8)}),
        PREFIX + Q0 + name: ones(length),
    }


# Names that versions of PEFT have written.


@pytest.mark.parametrize(
    "name",
    [
        ".lora_magnitude_vector",  # as saved, by all versions
        ".lora_magnitude_vector.weight",  # a module since 0.11; state dicts saved by hand
        ".lora_magnitude_vector.default",  # a parameter before
    ],
)
def test_doras_magnitude_under_every_name(tmp_path: Path, name: str) -> None:
    tensors = dora(name)
    if name.endswith("default"):
        tensors = {k.replace(".weight", ".default.weight"): v for k, v in tensors.items()}
    adapter = read(tmp_path, lora_config(use_dora=True), tensors)
    assert adapter.parts.modules[Q0].magnitude.endswith(name)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "lm_head.modules_to_save.default.weight",
        "lm_head.modules_to_save.x.weight",
    ],
)
def test_a_whole_module_under_every_name(tmp_path: Path, name: str) -> None:
    tensors = lora({name: ones(VOCABULARY, WIDTH)})
    if "modules_to_save" in name:
        adapter_name = name.split(".")[2]
        tensors = {
            k.replace("_A.", f"_A.{adapter_name}.").replace("_B.", f"_B.{adapter_name}."): v
            for k, v in tensors.items()
        }
    adapter = read(tmp_path, lora_config(modules_to_save=["lm_head"]), tensors)
    assert list(adapter.parts.replaced) == ["lm_head.weight"]


@pytest.mark.parametrize(
    "name", ["lora_embedding_{}", "lora_embedding_{}.default"], ids=["saved", "state dict"]
)
@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["prefix", "none"])
def test_lora_on_an_embedding_under_every_name(tmp_path: Path, name: str, prefix: str) -> None:
    tensors = {
        f"{prefix}{EMBEDDING}.{name.format('A')}": ones(4, VOCABULARY),
        f"{prefix}{EMBEDDING}.{name.format('B')}": ones(WIDTH, 4),
    }
    adapter = read(tmp_path, lora_config(target_modules=["embed_tokens"]), tensors)
    module = adapter.parts.modules[EMBEDDING]
    assert module.embedding
    assert module.rank == 4


@pytest.mark.parametrize("kept", ["base_layer", "original_module"])
def test_copies_of_the_bases_own_weights_are_known_as_such(tmp_path: Path, kept: str) -> None:
    """PEFT adds them by itself where an embedding or the head is targeted."""
    tensors = {
        **lora_tensors(4, {HEAD: (WIDTH, VOCABULARY)}),
        f"{PREFIX}{HEAD}.{kept}.weight": ones(VOCABULARY, WIDTH),
        f"{PREFIX}{EMBEDDING}.weight": ones(VOCABULARY, WIDTH),  # save_embedding_layers=True
    }
    adapter = read(tmp_path, lora_config(target_modules=["lm_head"]), tensors)
    assert sorted(adapter.parts.copies) == [f"{HEAD}.weight", f"{EMBEDDING}.weight"]


@pytest.mark.parametrize("name", ["bias", "base_layer.bias"], ids=["before 0.19", "since"])
def test_biases_that_were_trained_under_every_name(tmp_path: Path, name: str) -> None:
    tensors = lora({f"{Q0}.{name}": ones(WIDTH)})
    for bias in ("all", "lora_only"):
        adapter = read(tmp_path / bias, lora_config(bias=bias), tensors)
        assert list(adapter.parts.replaced) == [f"{Q0}.bias"]


def test_lora_only_biases_that_peft_forgot_to_save_are_the_bases_own(tmp_path: Path) -> None:
    """PEFT 0.18 looked for them beside the layer, where they are not, and saved none."""
    assert not read(tmp_path, lora_config(bias="lora_only"), lora_tensors()).parts.replaced


def test_embeddings_of_tokens(tmp_path: Path) -> None:
    name = f"{EMBEDDING}.token_adapter.trainable_tokens_delta"
    for number, indices in enumerate(([3, 5], {"embed_tokens": [3, 5]})):
        config = lora_config(trainable_token_indices=indices)
        adapter = read(tmp_path / str(number), config, lora({name: ones(2, WIDTH)}))
        assert adapter.parts.tokens[EMBEDDING].indices == (3, 5)
    alone = {f"{PREFIX}{EMBEDDING}.trainable_tokens_delta": ones(2, WIDTH)}
    config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 5]}
    assert read(tmp_path / "alone", config, alone).parts.tokens[EMBEDDING].indices == (3, 5)


def test_a_head_that_the_base_does_not_have_is_kept(tmp_path: Path) -> None:
    config = lora_config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    adapter = read(tmp_path, config, lora({"score.weight": ones(3, WIDTH)}))
    assert list(adapter.parts.heads) == ["score.weight"]
    refused(tmp_path / "2", "SHAPE_MISMATCH", config, lora({"score.weight": ones(3, 5)}))


ENCODER_HEADS = (
    Parameter("classifier.weight", (0, WIDTH)),
    Parameter("classifier.bias", (0,)),
    Parameter("pre_classifier.weight", (0, WIDTH)),
    Parameter("pre_classifier.bias", (0,)),
    Parameter("qa_outputs.weight", (0, WIDTH)),
    Parameter("qa_outputs.bias", (0,)),
)
CLASSIFIER_ALONE = {"classifier.weight": ones(3, WIDTH), "classifier.bias": ones(3)}
WITH_LAYER = {"pre_classifier.weight": ones(WIDTH, WIDTH), "pre_classifier.bias": ones(WIDTH)}


def fit_encoder(folder: Path, saved: list[str], extra: Mapping[str, np.ndarray]) -> AdapterFiles:
    """Holds a LoRA with more against an encoder, which says which heads its adapters bring."""
    config = lora_config(task_type="SEQ_CLS", modules_to_save=saved)
    files = adapter_bytes(config=config, tensors=lora(extra))
    adapter = read_adapter(write_folder(folder, files))
    adapter.check_fit(replace(base(), parameters=PARAMETERS + ENCODER_HEADS))
    return adapter


@pytest.mark.parametrize(
    "heads",
    [
        CLASSIFIER_ALONE,
        {**CLASSIFIER_ALONE, **WITH_LAYER},
        {"qa_outputs.weight": ones(2, WIDTH), "qa_outputs.bias": ones(2)},
    ],
    ids=["tokens", "classification", "extraction"],
)
def test_an_encoders_adapter_brings_the_heads_of_its_task(
    heads: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    """PEFT means `pre_classifier` too where modules_to_save says `classifier`, and a tagger has none."""
    adapter = fit_encoder(tmp_path, ["classifier", "score", "qa_outputs"], heads)
    assert {*adapter.parts.heads, *adapter.parts.replaced} == set(heads)


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        ({"classifier.weight": ones(3, WIDTH)}, "TENSOR_MISSING"),
        ({**CLASSIFIER_ALONE, "classifier.weight": ones(3, 5)}, "SHAPE_MISMATCH"),
        ({**CLASSIFIER_ALONE, "classifier.bias": ones(3, WIDTH)}, "SHAPE_MISMATCH"),
        ({**CLASSIFIER_ALONE, "score.weight": ones(3, WIDTH)}, "MODULE_UNKNOWN"),
        ({**CLASSIFIER_ALONE, "pre_classifier.bias": ones(WIDTH)}, "TENSOR_MISSING"),
    ],
    ids=["no bias", "another width", "no vector", "a decoder's head", "half a layer"],
)
def test_a_head_that_the_encoder_does_not_name(
    heads: Mapping[str, np.ndarray], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        fit_encoder(tmp_path, ["classifier", "score"], heads)
    assert caught.value.reason == reason, caught.value.message


def test_a_decoder_takes_no_encoders_head(tmp_path: Path) -> None:
    """No server could make anything of it."""
    config = lora_config(modules_to_save=["qa_outputs"])
    refused(tmp_path, "MODULE_UNKNOWN", config, lora({"qa_outputs.weight": ones(2, WIDTH)}))


CLASSIFIER = adapter_bytes(
    config=lora_config(task_type="SEQ_CLS", modules_to_save=["score"]),
    tensors=lora({"score.weight": ones(3, WIDTH)}),
)
WRONG_LABELS = {
    "no JSON": (b"yes", "it is no JSON"),
    "no list": (b'{"0": "yes"}', "it is no list"),
    "no names": (b'["yes", "no", 3]', "entry 2 is 3, and must be a name"),
    "an empty name": (b'["yes", "no", ""]', 'entry 2 is "", and must be a name'),
    "one name twice": (b'["yes", "no", "yes"]', "entries 0 and 2 are both 'yes'"),
    "too few": (b'["yes", "no"]', "it has 2 names, and the adapter's head has 3 outputs"),
    "too large": (b'["' + b"y" * (1 << 20) + b'"]', "more than 1048576"),
}


@pytest.mark.parametrize(("labels", "fault"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_that_are_not_those_of_the_head(
    labels: bytes, fault: str, stocked: Catalogue, tmp_path: Path
) -> None:
    """Refused at publish, and at load where an older registry let them in."""
    files = {**CLASSIFIER, "labels.json": labels}
    loading = lambda: read_adapter(write_folder(tmp_path, files))  # noqa: E731
    for act in (lambda: publish(stocked, files), loading):
        with pytest.raises(InvalidArgument) as caught:
            act()
        assert caught.value.reason == "LABELS_INVALID"
        assert fault in caught.value.message
        assert "leave the file out" in caught.value.message


def test_labels_of_the_head(stocked: Catalogue) -> None:
    version = publish(stocked, {**CLASSIFIER, "labels.json": '["yes", "nö", "so"]'.encode()})
    assert "labels.json" in {file.path for file in version.files}


def test_labels_without_a_head_are_a_file_like_any_other(stocked: Catalogue) -> None:
    assert publish(stocked, {**adapter_bytes(), "labels.json": b"whatever"}).number == 1


def ia3(**vectors: np.ndarray) -> Tensors:
    return {f"{PREFIX}model.layers.0.self_attn.{name}.ia3_l": v for name, v in vectors.items()}


def ia3_config(**changes: Any) -> dict[str, Any]:
    return {
        "peft_type": "IA3",
        "target_modules": ["q_proj", "v_proj"],
        "feedforward_modules": ["v_proj"],
        **changes,
    }


def test_ia3_knows_what_goes_in_from_what_comes_out(tmp_path: Path) -> None:
    tensors = ia3(q_proj=2 * ones(8, 1), v_proj=2 * ones(1, 8))
    for number, feedforward in enumerate((["v_proj"], r".*v_proj")):
        config = ia3_config(feedforward_modules=feedforward)
        scales = read(tmp_path / str(number), config, tensors).parts.scales.values()
        assert sorted((scale.path[-6:], scale.of_input) for scale in scales) == [
            ("q_proj", False),
            ("v_proj", True),
        ]


# What is refused.


def test_a_magnitude_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    error = refused(
        tmp_path, "SHAPE_MISMATCH", lora_config(use_dora=True), dora(".lora_magnitude_vector", 7)
    )
    assert "lora_magnitude_vector" in error.message
    assert "7" in error.message


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        ({"modules_to_save": ["lm_head"]}, {"lm_head.weight": ones(24, WIDTH)}),
        ({"modules_to_save": ["embed_tokens"]}, {f"{EMBEDDING}.weight": ones(24, WIDTH)}),
        ({}, {f"{EMBEDDING}.weight": ones(24, WIDTH)}),  # resized, and saved for that
        (
            {"target_modules": ["q_proj", "v_proj", "lm_head"]},
            {"lm_head.base_layer.weight": ones(24, WIDTH)},
        ),
        (
            {"trainable_token_indices": [3, VOCABULARY]},
            {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": ones(2, WIDTH)},
        ),
    ],
)
def test_what_changes_the_vocabulary_is_refused(
    tmp_path: Path, config: dict[str, Any], extra: Tensors
) -> None:
    error = refused(tmp_path, "VOCABULARY_CHANGED", lora_config(**config), lora(extra))
    assert "vocabulary" in error.message


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (lora_config(use_dora=True), lora_tensors()),
        (lora_config(), dora(".lora_magnitude_vector")),
        (lora_config(lora_bias=True), lora_tensors()),
        (ia3_config(), lora_tensors()),
        (lora_config(), ia3(q_proj=ones(8, 1))),
        (lora_config(), {**lora_tensors(), **ia3(q_proj=ones(8, 1))}),
        (ia3_config(), ia3(q_proj=ones(1, 8))),
    ],
    ids=["no magnitude", "a magnitude", "no bias", "LoRA", "IA³", "both", "into, not out of"],
)
def test_a_config_of_one_kind_with_tensors_of_another_is_refused(
    tmp_path: Path, config: dict[str, Any], tensors: Tensors
) -> None:
    refused(tmp_path, "KIND_MISMATCH", config, tensors)


@pytest.mark.parametrize("name", ["lora_magnitude_vector", "lm_head.weight", "ia3_l"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.inf, "TENSOR_NOT_FINITE"),
        (np.nan, "TENSOR_NOT_FINITE"),
        (3.4e38, "TENSOR_OUT_OF_RANGE"),  # a float32 that is no bfloat16
    ],
)
def test_numbers_that_cannot_act_are_refused_in_every_kind(
    tmp_path: Path, name: str, value: float, reason: str
) -> None:
    config, tensors = {
        "lora_magnitude_vector": (lora_config(use_dora=True), dora(".lora_magnitude_vector")),
        "lm_head.weight": (
            lora_config(modules_to_save=["lm_head"]),
            lora({"lm_head.weight": ones(VOCABULARY, WIDTH)}),
        ),
        "ia3_l": (ia3_config(), ia3(q_proj=ones(8, 1))),
    }[name]
    bad = next(tensors[key] for key in tensors if key.endswith(name))
    bad.flat[5] = value
    assert name in refused(tmp_path, reason, config, tensors).message


def test_a_module_that_is_only_there_in_part_is_refused(tmp_path: Path) -> None:
    config = lora_config(modules_to_save=["norm", "lm_head"])
    error = refused(tmp_path, "TENSOR_MISSING", config, lora({"model.norm.weight": ones(WIDTH)}))
    assert "lm_head.weight" in error.message


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.router.weight"],
    ids=["quantized", "not one of the base's"],
)
def test_a_parameter_that_cannot_differ_from_request_to_request_is_refused(
    tmp_path: Path, name: str
) -> None:
    module = name.rpartition(".")[0].rpartition(".")[2]
    config = lora_config(modules_to_save=[module], target_modules=["v_proj", "q_proj"])
    error = refused(tmp_path, "MODULE_UNKNOWN", config, lora({name: ones(8, 8)}))
    assert name in error.message


def test_a_base_that_did_not_say_its_parameters_is_told_of(tmp_path: Path) -> None:
    tensors = lora({"model.norm.weight": ones(WIDTH)})
    files = adapter_bytes(config=lora_config(modules_to_save=["norm"]), tensors=tensors)
    with pytest.raises(InvalidArgument, match="start the server again"):
        read_adapter(write_folder(tmp_path, files)).check_fit(make_base())


def test_one_that_changes_nothing_is_refused_unless_it_says_so(tmp_path: Path) -> None:
    tensors = {k: v * ("lora_A" in k) for k, v in lora_tensors().items()}
    error = refused(tmp_path, "ADAPTER_HAS_NO_EFFECT", lora_config(), tensors)
    assert "allow_no_effect" in error.message
    read(tmp_path / "meant", lora_config(allow_no_effect=True), tensors)
    next(iter(v for k, v in tensors.items() if "lora_B" in k))[0, 0] = 1e-30
    read(tmp_path / "hardly", lora_config(), tensors)


# In the catalogue.


def test_what_a_base_has_is_kept_and_never_changes(catalogue: Catalogue) -> None:
    """One that an older server announced learns its parameters from a newer one."""
    catalogue.put_base(make_base())
    assert catalogue.put_base(base_with(PARAMETERS)).parameters == PARAMETERS
    assert catalogue.put_base(make_base()).parameters == PARAMETERS
    with pytest.raises(FailedPrecondition) as caught:
        catalogue.put_base(base_with(PARAMETERS[:-1]))
    assert caught.value.reason == "BASE_CONFLICT"
    with pytest.raises(InvalidArgument):
        catalogue.put_base(base_with((Parameter("x", ()),)))
    for shape in ((8, 0), (-1, 8)):
        with pytest.raises(InvalidArgument, match="the first of a head's 0"):
            catalogue.put_base(base_with((Parameter("x", shape),)))


def base_with(parameters: tuple[Parameter, ...]) -> Base:
    return replace(make_base(), parameters=parameters)


def test_a_version_of_another_kind_is_published_with_what_it_is(stocked: Catalogue) -> None:
    stocked.put_base(base_with(PARAMETERS))
    tensors = ia3(q_proj=2 * ones(8, 1), v_proj=2 * ones(1, 8))
    version = publish(stocked, adapter_bytes(config=ia3_config(), tensors=tensors))
    assert (version.spec.peft_type, version.spec.max_rank) == ("IA3", 0)
    assert version.spec.module_count == 2
    assert version.lineage.base_fingerprint == fingerprint("a")
