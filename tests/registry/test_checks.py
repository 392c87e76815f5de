"""What an adapter's files must be: each way of being wrong is refused by name, before anything is published."""

import json
import math
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorry_registry.checks import AdapterFiles, check_manifest, read_adapter, read_header, scaling
from lorry_registry.checks.finite import CHUNK_BYTES
from lorry_registry.checks.patterns import compile_pattern
from lorry_registry.entities import File
from lorry_registry.errors import InvalidArgument

from .helpers import (
    MODULES,
    PREFIX,
    adapter_bytes,
    fingerprint,
    header_of,
    lora_config,
    lora_tensors,
    make_base,
    pack,
    safetensors_bytes,
    write_folder,
)

Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"


def read(tmp_path: Path, **kwargs: Any) -> AdapterFiles:
    return read_adapter(write_folder(tmp_path / "adapter", adapter_bytes(**kwargs)))


def refused(tmp_path: Path, reason: str, **kwargs: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, **kwargs)
    assert caught.value.reason == reason, caught.value.message
    return caught.value.message


# A good adapter.


def test_a_good_adapter(tmp_path: Path) -> None:
    adapter = read(tmp_path, rank=4)
    assert set(adapter.parts.modules) == set(MODULES)
    module = adapter.parts.modules["model.layers.0.self_attn.q_proj"]
    assert (module.rank, module.scaling) == (4, 2.0)
    tensor = adapter.tensors[module.a]
    raw = adapter.weights.read_bytes()[tensor.start : tensor.stop]
    expected = lora_tensors(4)[f"{Q0}.lora_A.weight"]
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(tensor.shape), expected)
    assert adapter.spec.max_rank == 4
    assert adapter.spec.module_count == 4
    assert adapter.spec.parameter_count == sum(t.size for t in lora_tensors(4).values())
    adapter.check_finite()
    adapter.check_fit(make_base())


def test_names_without_prefix_and_with_the_adapters_name(tmp_path: Path) -> None:
    bare = {k.removeprefix(PREFIX): v for k, v in lora_tensors().items()}
    infix = {k.replace(".weight", ".default.weight"): v for k, v in lora_tensors().items()}
    for number, tensors in enumerate((bare, infix)):
        assert set(read(tmp_path / str(number), tensors=tensors).parts.modules) == set(MODULES)


def test_unknown_newer_keys_are_tolerated_with_a_warning(tmp_path: Path) -> None:
    config = lora_config(future_flag=True, future_default=None, future_off=False, lora_dropout=0.1)
    adapter = read(tmp_path, config=config)
    assert len(adapter.config.warnings) == 1
    assert "future_flag" in adapter.config.warnings[0]


# The configuration.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bias", "some"),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("layer_replication", [[0, 4]]),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1}),
        ("monteclora_config", {"num_samples": 2}),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_features_that_are_not_served_are_refused_by_name(
    tmp_path: Path, field: str, value: object
) -> None:
    assert field in refused(tmp_path, "FEATURE_UNSUPPORTED", config=lora_config(**{field: value}))


@pytest.mark.parametrize("kind", ["LOHAHA", "SHADOW", "", "lora", "x" * 10_000])
def test_other_kinds_are_refused_naming_those_that_are_served(tmp_path: Path, kind: str) -> None:
    assert "LORA" in refused(tmp_path, "KIND_UNSUPPORTED", config=lora_config(peft_type=kind))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", None),
        ("r", None),
        ("r", 0),
        ("r", -4),
        ("r", 4.0),
        ("r", True),
        ("r", "4"),
        ("r", 10**30),
        ("lora_alpha", None),
        ("lora_alpha", "16"),
        ("lora_alpha", math.inf),
        ("lora_alpha", math.nan),
        ("lora_alpha", 10**400),
        ("use_rslora", "yes"),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": "8"}),
        ("target_modules", [1]),
        ("target_modules", {"q_proj": 1}),
        ("exclude_modules", [None]),
        ("layers_to_transform", ["0"]),
        ("rank_pattern", {f".*{i}": 4 for i in range(17)}),
    ],
)
def test_fields_without_sense_are_refused_by_name(
    tmp_path: Path, field: str, value: object
) -> None:
    assert field in refused(tmp_path, "CONFIG_INVALID", config=lora_config(**{field: value}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b" " * (2 << 20),
    ],
)
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, raw: bytes) -> None:
    files = {**adapter_bytes(), "adapter_config.json": raw}
    with pytest.raises(InvalidArgument) as caught:
        read_adapter(write_folder(tmp_path, files))
    assert caught.value.reason == "CONFIG_INVALID"


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "(a|a)*",
        "a*b*c*d*",
        "a?" * 30,
        "(a?){30}",
        "(?=x)",
        r"(a)\1",
        "(?i)a",
        "[",
        "(",
        "a{99999999999}",
        "x" * 513,
        "(a*)?(a*)?(a*)?a",
        "(?P<n>a)",
        "*",
    ],
)
def test_patterns_that_could_run_for_ever_are_refused(tmp_path: Path, pattern: str) -> None:
    refused(tmp_path, "PATTERN_REFUSED", config=lora_config(rank_pattern={pattern: 4}))


def test_patterns_that_people_write_are_taken() -> None:
    for pattern in (
        r"layers\.0\..*q_proj",
        "^model.layers.0.self_attn.q_proj",
        r"(q|v)_proj",
        r"layers\.[0-9]+\.x",
    ):
        compile_pattern(pattern)


# Tensors.


def test_a_missing_half_is_refused(tmp_path: Path) -> None:
    for half in "AB":
        tensors = lora_tensors()
        del tensors[f"{Q0}.lora_{half}.weight"]
        message = refused(tmp_path / half, "TENSOR_MISSING", tensors=tensors)
        assert f"lora_{half}" in message


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.norm.weight",
        f"{Q0}.lora_C.weight",
        f"{Q0}.lora_A.bias",
        f"{Q0}.lora_A",
        f"{Q0}.bias",
        "lora_A.weight",
        "",
        "\ud7ff\n.lora_A.weight",
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path, name: str) -> None:
    tensors = {**lora_tensors(), name: np.zeros((4, 8), "float32")}
    assert repr(name) in refused(tmp_path, "TENSOR_UNKNOWN", tensors=tensors)


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    tensors = lora_tensors()
    tensors[f"{Q0}.lora_A.second.weight"] = np.zeros((4, 8), "float32")
    refused(tmp_path, "TENSOR_DUPLICATE", tensors=tensors)
    mixed = {
        k.replace(".0.", ".0.") if ".0." in k else k.replace("weight", "b.weight"): v
        for k, v in lora_tensors().items()
    }
    refused(tmp_path / "2", "TENSOR_UNKNOWN", tensors=mixed)


def test_an_adapter_without_tensors_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "ADAPTER_EMPTY", tensors={})


def test_tensors_of_modules_that_the_configuration_does_not_target_are_refused(
    tmp_path: Path,
) -> None:
    """PEFT would leave them out without a word, and the adapter would do less than it seems."""
    assert "v_proj" in refused(
        tmp_path, "TENSOR_UNKNOWN", config=lora_config(target_modules=["q_proj"])
    )
    refused(tmp_path, "TENSOR_UNKNOWN", config=lora_config(exclude_modules=["v_proj"]))
    refused(tmp_path, "TENSOR_UNKNOWN", config=lora_config(layers_to_transform=[0]))
    read(tmp_path, config=lora_config(layers_to_transform=[0, 1], layers_pattern="layers"))


def test_a_rank_other_than_the_configurations_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "RANK_MISMATCH", rank=4, config=lora_config(8))
    refused(tmp_path, "RANK_MISMATCH", config=lora_config(rank_pattern={"q_proj": 2}))
    tensors = lora_tensors()
    tensors[f"{Q0}.lora_B.weight"] = np.zeros((8, 3), "float32")
    refused(tmp_path, "RANK_MISMATCH", tensors=tensors)


def test_other_types_and_shapes_are_refused(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "DTYPE_UNSUPPORTED",
        tensors={k: v.astype("int8") for k, v in lora_tensors().items()},
    )
    refused(
        tmp_path, "SHAPE_MISMATCH", tensors={k: v.reshape(-1) for k, v in lora_tensors().items()}
    )
    refused(tmp_path, "SHAPE_MISMATCH", tensors={k: v[:0] for k, v in lora_tensors().items()})


# The base.


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    adapter = read(tmp_path)
    for modules, reason in (
        ({"h.0.c_attn": (8, 8)}, "MODULE_UNKNOWN"),
        ({**MODULES, "model.layers.1.self_attn.q_proj": (16, 8)}, "SHAPE_MISMATCH"),
        ({**MODULES, "model.layers.1.self_attn.v_proj": (8, 8)}, "SHAPE_MISMATCH"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            adapter.check_fit(make_base(modules=modules))
        assert caught.value.reason == reason
        assert caught.value.metadata["module"] in caught.value.message


def test_a_rank_above_the_servers_cap_is_refused(tmp_path: Path) -> None:
    adapter = read(tmp_path, rank=4)
    adapter.check_fit(make_base(max_rank=4))
    with pytest.raises(InvalidArgument, match="--max-rank 4") as caught:
        adapter.check_fit(make_base(max_rank=3))
    assert caught.value.reason == "RANK_ABOVE_CAP"


# Numbers.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_number_that_is_none_is_refused_where_it_stands(
    tmp_path: Path, dtype: str, value: float
) -> None:
    tensors = {k: v.astype(dtype) for k, v in lora_tensors().items()}
    name = list(tensors)[3]
    tensors[name][2, 1] = value
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, tensors=tensors).check_finite()
    assert caught.value.reason == "TENSOR_NOT_FINITE"
    assert caught.value.metadata == {"tensor": name, "index": "[2, 1]"}


@pytest.mark.parametrize(
    ("bits", "finite"),
    [
        (0x7F80, False),
        (0xFF80, False),
        (0x7FC0, False),
        (0x7F81, False),
        (0x7F7F, True),
        (0x8000, True),
    ],
)
def test_bfloat16_is_judged_by_its_exponent(tmp_path: Path, bits: int, finite: bool) -> None:
    tensors = {k: np.full(v.shape, 0x3F80, "uint16") for k, v in lora_tensors().items()}
    tensors[f"{Q0}.lora_A.weight"][0, 5] = bits
    adapter = read(tmp_path, tensors=tensors)
    assert adapter.tensors[f"{Q0}.lora_A.weight"].dtype == "BF16"
    if finite:
        adapter.check_finite()
    else:
        with pytest.raises(InvalidArgument, match=r"\[0, 5\]"):
            adapter.check_finite()


def test_large_tensors_are_read_in_pieces(tmp_path: Path) -> None:
    """The bad number stands in the third piece; memory stays at a few pieces' size, of a 24 MiB tensor."""
    columns = 3 * CHUNK_BYTES // 4
    tensor = np.zeros((1, columns), "float32")
    tensor[0, -7] = math.nan
    modules = {"m.q_proj": (columns, 1)}
    tensors = {**lora_tensors(1, modules), f"{PREFIX}m.q_proj.lora_A.weight": tensor}
    adapter = read(tmp_path, config=lora_config(1), tensors=tensors)
    tracemalloc.start()
    with pytest.raises(InvalidArgument) as caught:
        adapter.check_finite()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.metadata["index"] == f"[0, {columns - 7}]"
    assert peak < 2.5 * CHUNK_BYTES


def test_scaling(tmp_path: Path) -> None:
    config = lora_config(4, lora_alpha=12, alpha_pattern={"layers.1.self_attn.q_proj": 2})
    plain = read(tmp_path, config=config).config
    assert scaling(plain, "model.layers.0.self_attn.q_proj", 4) == 3.0
    assert scaling(plain, "model.layers.1.self_attn.q_proj", 4) == 0.5
    stabilised = read(tmp_path, config={**config, "use_rslora": True})
    assert scaling(stabilised.config, "model.layers.0.self_attn.q_proj", 4) == 6.0
    assert stabilised.spec.rank_stabilized


# Headers that lie.

GOOD = header_of(lora_tensors())
BODY = b"".join(t.tobytes() for t in lora_tensors().values())
FIRST, SECOND = list(GOOD)[:2]


def with_entry(name: str, **changes: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **changes}}


def header_refused(tmp_path: Path, raw: bytes) -> InvalidArgument:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InvalidArgument) as caught:
        read_header(path)
    assert caught.value.reason == "HEADER_INVALID"
    return caught.value


@pytest.mark.parametrize(
    "header",
    [
        with_entry(FIRST, data_offsets=[0, 129]),
        with_entry(FIRST, data_offsets=[128, 0]),
        with_entry(FIRST, data_offsets=[-128, 0]),
        with_entry(FIRST, data_offsets=[0, 1 << 62]),
        with_entry(FIRST, data_offsets=[0]),
        with_entry(FIRST, data_offsets="0"),
        with_entry(FIRST, data_offsets=[0.0, 128.0]),
        with_entry(FIRST, data_offsets=[False, 128]),
        with_entry(FIRST, data_offsets=[len(BODY), len(BODY) + 128]),
        with_entry(FIRST, shape=[1 << 60, 1 << 60]),
        with_entry(FIRST, shape=[-4, -8]),
        with_entry(FIRST, shape=[4, 9]),
        with_entry(FIRST, shape=[4, 8] + [1] * 20),
        with_entry(FIRST, shape=None),
        with_entry(FIRST, dtype="F31"),
        with_entry(FIRST, dtype=None),
        with_entry(FIRST, dtype=["F32"]),
        with_entry(FIRST, dtype="F64"),
        with_entry(FIRST, extra=1),
        with_entry(SECOND, data_offsets=GOOD[FIRST]["data_offsets"]),
        {**GOOD, FIRST: None},
        {**GOOD, FIRST: {}},
        {name: entry for name, entry in GOOD.items() if name != SECOND},
    ],
)
def test_a_header_that_lies_about_a_tensor_is_refused_by_its_name(
    tmp_path: Path, header: Any
) -> None:
    error = header_refused(tmp_path, pack(header, BODY))
    assert error.metadata["tensor"] in GOOD


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 33 << 20) + b" " * (33 << 20),
        pack(b"[" * 200_000, b""),
        pack(b'{"a":' * 100_000, b""),
        pack(b"[]", b""),
        pack(b"", b""),
        pack(b"\xff\xff", b""),
        pack(b'{"__metadata__": 1}', b""),
        pack(b'{"__metadata__": {"a": 1}}', b""),
        pack(b'{"a": NaN}', b""),
        pack(b'{"a": ' + b"9" * 5000 + b"}", b""),
        pack({}, b"left over"),
        pack(GOOD, BODY[:-1]),
        pack(GOOD, BODY + b"\0"),
        pack(json.dumps(GOOD)[:-1].encode() + b', "' + FIRST.encode() + b'": {}}', BODY),
    ],
)
def test_a_file_that_does_not_hold_together_is_refused(tmp_path: Path, raw: bytes) -> None:
    header_refused(tmp_path, raw)


def test_pickles_under_another_name_are_recognised(tmp_path: Path) -> None:
    assert "zip" in header_refused(tmp_path, b"PK\x03\x04" + b"\0" * 100 + b"\xff" * 8).message
    assert "pickle" in header_refused(tmp_path, b"\x80\x02}q\0(X\x05\0\0\0" + b"x" * 50).message


def test_metadata_and_padding_are_fine(tmp_path: Path) -> None:
    raw = json.dumps({"__metadata__": {"format": "pt"}, **GOOD}).encode() + b"   "
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(raw, BODY))
    assert list(read_header(path)) == list(GOOD)


RAW = safetensors_bytes(lora_tensors())
HEADER_END = len(RAW) - len(BODY)


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, HEADER_END - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.one_of(st.none(), st.integers(0, len(RAW))),
)
def test_any_mutation_is_refused_or_harmless(
    tmp_path: Path, edits: list[tuple[int, int]], cut: int | None
) -> None:
    """Bytes of the header changed at random, the file cut anywhere: refused, or still an adapter that fits."""
    raw = bytearray(RAW)
    for position, value in edits:
        raw[position] = value
    files = {**adapter_bytes(), "adapter_model.safetensors": bytes(raw[:cut])}
    try:
        adapter = read_adapter(write_folder(tmp_path, files))
        adapter.check_fit(make_base())
        adapter.check_finite()
    except InvalidArgument:
        return
    assert set(adapter.parts.modules) <= set(MODULES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    field=st.sampled_from(
        sorted(
            lora_config(
                use_rslora=1,
                rank_pattern=1,
                alpha_pattern=1,
                exclude_modules=1,
                layers_to_transform=1,
                layers_pattern=1,
                init_lora_weights=1,
                base_model_name_or_path=1,
            )
        )
    ),
    value=JSON,
)
def test_any_value_in_the_configuration_is_refused_or_harmless(
    tmp_path: Path, field: str, value: object
) -> None:
    with suppress(InvalidArgument):
        read(tmp_path, config=lora_config(**{field: value}))


# Manifests.

CONFIG = File("adapter_config.json", fingerprint("1"), 10)
WEIGHTS = File("adapter_model.safetensors", fingerprint("2"), 10)


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "x.pt", "X.PTH", "x.pkl", "x.ckpt", "training_args.bin"]
)
def test_pickles_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="pickle") as caught:
        check_manifest([CONFIG, WEIGHTS, File(name, fingerprint("3"), 1)])
    assert caught.value.reason == "PICKLE_REFUSED"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        ".hidden",
        "x" * 300,
        "ü",
        "~x",
        "a/",
    ],
)
def test_unsafe_paths_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_manifest([CONFIG, WEIGHTS, File(name, fingerprint("3"), 1)])
    assert caught.value.reason == "PATH_UNSAFE"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "FILE_MISSING"),
        ([CONFIG], "FILE_MISSING"),
        ([WEIGHTS], "FILE_MISSING"),
        ([CONFIG, WEIGHTS, CONFIG], "MANIFEST_INVALID"),
        ([CONFIG, WEIGHTS, File("Adapter_Config.json", fingerprint("3"), 1)], "MANIFEST_INVALID"),
        ([CONFIG, WEIGHTS, File("model-2.safetensors", fingerprint("3"), 1)], "FILE_UNKNOWN"),
        ([CONFIG, WEIGHTS, File("x", "sha256:12", 1)], "DIGEST_INVALID"),
        ([CONFIG, WEIGHTS, File("x", fingerprint("3"), -1)], "MANIFEST_INVALID"),
        ([File("adapter_config.json", fingerprint("1"), 2 << 20), WEIGHTS], "CONFIG_INVALID"),
        (
            [CONFIG, WEIGHTS, *(File(f"f{i}", fingerprint("3"), 1) for i in range(300))],
            "MANIFEST_INVALID",
        ),
    ],
)
def test_manifests_without_sense_are_refused(files: list[File], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_manifest(files)
    assert caught.value.reason == reason


def test_a_readme_and_a_tokenizer_may_come_along() -> None:
    check_manifest(
        [
            CONFIG,
            WEIGHTS,
            File("README.md", fingerprint("3"), 0),
            File("tokenizer.json", fingerprint("4"), 9),
        ]
    )


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"adapter_config\.json") as caught:
        read_adapter(tmp_path)
    assert caught.value.reason == "FILE_MISSING"
