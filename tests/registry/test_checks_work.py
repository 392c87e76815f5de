"""A stranger's configuration costs little to judge, whatever it says; and numbers too large to act are refused."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorry_registry.catalogue import Catalogue
from lorry_registry.checks import AdapterFiles, read_adapter
from lorry_registry.checks.kinds.lora import parse_lora_config
from lorry_registry.checks.patterns import Patterns, branches, compile_pattern
from lorry_registry.checks.targeting import is_targeted
from lorry_registry.errors import InvalidArgument

from .helpers import (
    KEY,
    MODULES,
    PREFIX,
    adapter_bytes,
    lora_config,
    lora_tensors,
    make_base,
    publish,
    write_folder,
)

PATHS = [f"model.layers.{i}.self_attn.{n}_proj" for i in range(80) for n in "qkvo"]
B0 = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight"
A0 = B0.replace("lora_B", "lora_A")


@contextmanager
def seconds(limit: float) -> Iterator[None]:
    """What is inside takes less CPU time than that (other work on the machine does not count)."""
    start = time.process_time()
    yield
    assert time.process_time() - start < limit


def read(tmp_path: Path, **kwargs: Any) -> AdapterFiles:
    return read_adapter(write_folder(tmp_path / "adapter", adapter_bytes(**kwargs)))


# Work.


def test_thousands_of_paths_are_looked_up() -> None:
    """More keys than a cache of compiled patterns held were compiled anew for each module: 22 s for 311 KB."""
    keys = {f"model.layers.{i}.self_attn.{n}_proj": i + 1 for i in range(2000) for n in "qkvo"}
    with seconds(2):
        patterns = Patterns(keys)
        patterns.check_work(PATHS)
        assert [patterns.value(path, 0) for path in PATHS] == [keys[path] for path in PATHS]


def test_thousands_of_expressions_are_refused() -> None:
    """Each was compiled again at each look-up, at publishing and at each load."""
    for field in ("rank_pattern", "alpha_pattern"):
        keys = {f"xlayers.{i}.self_attn.[qk]_proj": 4 for i in range(257)}
        with seconds(2), pytest.raises(InvalidArgument, match="write paths") as caught:
            parse_lora_config(lora_config(**{field: keys}))
        assert caught.value.metadata["field"] == field


@pytest.mark.parametrize("pattern", ["(?:a|a)" * 30, "(a|b|(c|d)|e)" * 9, "(s|.)" * 40 + "x"])
def test_alternatives_that_combine_without_end_are_refused(pattern: str) -> None:
    """`(a|a)(a|a)…` is tried in 2ⁿ ways, and was not counted as work at all."""
    with pytest.raises(InvalidArgument, match="combine") as caught:
        compile_pattern(pattern)
    assert caught.value.reason == "PATTERN_REFUSED"


def test_alternatives_that_people_write_are_few() -> None:
    assert branches(r"layers\.[|(](a|b)x(?:c|d|e)|\|y") == 12
    numbers = "|".join(map(str, range(80)))
    compile_pattern(rf"layers\.({numbers})\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj")


@pytest.mark.parametrize("count", [1, 16])
def test_expressions_that_repeat_are_refused_where_they_would_take_long(count: int) -> None:
    """Sixteen patterns of three `.*` held a publish up for minutes, within every other limit."""
    paths = [path.rjust(400 if count == 1 else 60, "m") for path in PATHS]
    patterns = Patterns({f".*.*.*x{i}": 4 for i in range(count)})
    with seconds(1), pytest.raises(InvalidArgument, match="too long") as caught:
        patterns.check_work(paths)
    assert caught.value.reason == "PATTERN_REFUSED"
    Patterns({r"layers\.\d+\..*(q|k|v)_proj": 4, ".*attn.*": 5}).check_work(PATHS)


def test_keys_of_many_shapes_are_refused_where_they_would_take_long() -> None:
    """A dot in a key stands for any character; keys with dots everywhere are as many tables to look in."""
    path = PATHS[0]
    keys = {
        "".join("." if at in (i, j) else c for at, c in enumerate(path)): 1
        for i in range(len(path))
        for j in range(i)
    }
    patterns = Patterns(keys)
    patterns.check_work([path])
    assert patterns.value(path, 0) == 1
    with seconds(1), pytest.raises(InvalidArgument, match="too long"):
        patterns.check_work([path] * 10_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["b"] * 230_000 + ["proj"]},
        {"exclude_modules": ["b"] * 230_000},
        {"layers_to_transform": list(range(100_000))},
    ],
)
def test_long_lists_are_looked_up(changes: dict[str, Any]) -> None:
    """Every module was compared with every entry: half an hour for a file of 100,000 modules."""
    config = parse_lora_config(lora_config(**changes))
    with seconds(2):
        for path in PATHS * 10:
            is_targeted(config, path)


def test_a_list_of_lists_of_layers_is_bounded() -> None:
    with pytest.raises(InvalidArgument, match="layers_pattern"):
        parse_lora_config(lora_config(layers_pattern=["h"] * 65))


def test_a_file_with_more_modules_than_the_base_is_refused_before_it_is_matched(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 100,000 modules was held against every pattern before anybody looked at the base."""
    catalogue.put_base(make_base(modules={k: MODULES[k] for k in list(MODULES)[:3]}))
    catalogue.create_adapter(KEY)
    monkeypatch.setattr(Patterns, "value", lambda *_: pytest.fail("matched"))
    with pytest.raises(InvalidArgument) as caught:
        publish(catalogue, adapter_bytes())
    assert caught.value.reason == "MODULES_TOO_MANY"
    assert caught.value.metadata == {"modules": "4", "max_modules": "3"}


def test_a_name_as_long_as_a_header_is_refused(tmp_path: Path) -> None:
    """Each ending of a path is looked up: of a path of megabytes, that took its square."""
    tensors = {f"{'a.' * 100_000}lora_A.weight": np.zeros((4, 8), "float32")}
    with seconds(2), pytest.raises(InvalidArgument) as caught:
        read(tmp_path, tensors=tensors)
    assert caught.value.reason == "TENSOR_UNKNOWN"
    assert len(caught.value.message) < 1000


def test_unknown_keys_are_told_a_few_times() -> None:
    """A configuration of a hundred thousand keys wrote as many lines into the log at each load."""
    config = parse_lora_config(lora_config(**{f"new{i}": 1 for i in range(5000)}))
    assert 0 < len(config.warnings) <= 16


# Numbers.


@pytest.mark.parametrize("value", [1e300, -1e300, 3.5e38, 3.39e38])
def test_a_number_beyond_what_acts_is_refused(tmp_path: Path, value: float) -> None:
    """1e300 is finite as a double, and infinity as soon as it is loaded."""
    tensors = {k: v.astype("float64") for k, v in lora_tensors().items()}
    tensors[B0][2, 1] = value
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, tensors=tensors).check_finite()
    assert caught.value.reason == "TENSOR_OUT_OF_RANGE"
    assert caught.value.metadata == {"tensor": B0, "index": "[2, 1]"}
    tensors[B0][2, 1] = math.copysign(3.38e38, value)
    config = lora_config(lora_alpha=4)
    read(tmp_path, tensors=tensors, config=config).check_finite()


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint16"])
def test_a_number_that_the_scaling_takes_too_far_is_refused(tmp_path: Path, dtype: str) -> None:
    """B is multiplied by alpha / rank when it is loaded; each of the two was fine by itself."""
    tensors = {k: np.zeros_like(v, dtype=dtype) for k, v in lora_tensors().items()}
    tensors[B0][3, 2] = 0x7E96 if dtype == "uint16" else 1e38  # bfloat16's bits
    tensors[A0][2, 0] = 0x3F80 if dtype == "uint16" else 1.0  # or nothing would act
    config = lora_config(alpha_pattern={"layers.0.self_attn.q_proj": -400})
    with pytest.raises(InvalidArgument, match=r"scaling -100 .*lora_alpha") as caught:
        read(tmp_path, tensors=tensors, config=config).check_finite()
    assert caught.value.reason == "TENSOR_OUT_OF_RANGE"
    assert caught.value.metadata == {"tensor": B0, "index": "[3, 2]"}
    read(tmp_path, tensors=tensors).check_finite()


@pytest.mark.parametrize("alpha", [2e6, -1e30, 10**12])
@pytest.mark.parametrize("field", ["lora_alpha", "alpha_pattern"])
def test_an_alpha_without_measure_is_refused(field: str, alpha: float) -> None:
    """Anything up to 1e9 got in, and made an adapter shout down its base."""
    value = alpha if field == "lora_alpha" else {"q_proj": alpha}
    with pytest.raises(InvalidArgument, match=field) as caught:
        parse_lora_config(lora_config(**{field: value}))
    assert caught.value.reason == "CONFIG_INVALID"
