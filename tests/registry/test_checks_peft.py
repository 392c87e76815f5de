"""Held against PEFT itself: the adapters it saves are read as it would use them."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from peft.tuners.tuners_utils import check_target_module_exists  # noqa: E402
from peft.utils.other import get_pattern_key  # noqa: E402

from lorry_registry.checks import read_adapter, read_header, scaling  # noqa: E402
from lorry_registry.checks.adapter_config import COMMON_KEYS  # noqa: E402
from lorry_registry.checks.kinds import ia3, lora  # noqa: E402
from lorry_registry.checks.kinds.lora import module_rank, parse_lora_config  # noqa: E402
from lorry_registry.checks.targeting import is_targeted  # noqa: E402
from lorry_registry.entities import Base  # noqa: E402
from lorry_registry.errors import InvalidArgument  # noqa: E402

from .helpers import lora_config, make_base  # noqa: E402


def tiny_model(family: str) -> Any:
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    return transformers.AutoModelForCausalLM.from_config(config)


def base_of(model: Any) -> Base:
    """What a server says of this model: every linear layer, whatever the class that holds it."""
    sizes = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            sizes[path] = (module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D":
            sizes[path] = (module.nx, module.nf)
    return make_base(modules=sizes)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"r": 4, "target_modules": ["q_proj", "v_proj"]}),
    "all linear, rank-stabilised": (
        "llama",
        {"r": 8, "lora_alpha": 3, "target_modules": "all-linear", "use_rslora": True},
    ),
    "ranks and alphas by pattern": (
        "llama",
        {
            "r": 4,
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {r"layers\.0\..*\.q_proj": 2, "k_proj": 6, "1.mlp.down_proj": 3},
            "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 5, "proj": 7},
        },
    ),
    "some layers": (
        "llama",
        {"r": 4, "target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]},
    ),
    "named layers": (
        "llama",
        {
            "r": 4,
            "target_modules": ["o_proj"],
            "layers_to_transform": 0,
            "layers_pattern": "layers",
        },
    ),
    "exclusions": (
        "llama",
        {"r": 4, "target_modules": ["q_proj", "o_proj"], "exclude_modules": ["0.self_attn.q_proj"]},
    ),
    "an expression": ("llama", {"r": 4, "target_modules": r".*layers\.0.*(q|v)_proj"}),
    "the head": ("llama", {"r": 4, "target_modules": ["lm_head", "gate_proj"]}),
    "Conv1D": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gaussian": ("llama", {"r": 4, "target_modules": ["up_proj"], "init_lora_weights": "gaussian"}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_that_peft_saved_is_read_as_peft_uses_it(tmp_path: Path, case: str) -> None:
    family, options = CASES[case]
    model = tiny_model(family)
    base = base_of(model)
    tuned = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # begins at zero, and what changes nothing is refused
            torch.nn.init.normal_(parameter)
    # Where the head is targeted, PEFT would save the base's own weight of it too.
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    adapter = read_adapter(tmp_path)
    adapter.check_fit(base)
    adapter.check_finite()
    layers = {
        path: layer
        for path, layer in tuned.base_model.model.named_modules()
        if hasattr(layer, "lora_A") and layer.lora_A
    }
    assert set(adapter.parts.modules) == set(layers)
    for path, module in adapter.parts.modules.items():
        layer = layers[path]
        assert module.rank == layer.r["default"]
        assert module.scaling == pytest.approx(layer.scaling["default"])
        assert adapter.tensors[module.a].shape == layer.lora_A["default"].weight.shape
        assert adapter.tensors[module.b].shape == layer.lora_B["default"].weight.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_headers_are_read_as_safetensors_writes_them(tmp_path: Path, dtype: Any) -> None:
    from safetensors.torch import save_file

    tensors = {
        "b": torch.randn(3, 5).to(dtype),
        "a": torch.randn(7).to(dtype),
        "empty": torch.empty(0),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors")
    raw = (tmp_path / "x.safetensors").read_bytes()
    for name, tensor in tensors.items():
        info = header[name]
        assert info.shape == tuple(tensor.shape)
        if tensor.numel():
            back = torch.frombuffer(bytearray(raw[info.start : info.stop]), dtype=tensor.dtype)
            assert torch.equal(back.reshape(info.shape), tensor)


PATHS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.11.mlp.experts.3.q_proj",
    "transformer.h.0.attn.c_attn",
    "q_proj",
    "lm_head",
]


@pytest.mark.parametrize(
    "keys",
    [
        ["q_proj"],
        ["proj", "q_proj"],
        ["1.self_attn.q_proj", "q_proj"],
        ["model.layers.1.self_attn.q_proj"],
        ["^model.layers.1.self_attn.q_proj", ".*attn.*"],
        [r"layers\.\d+\.self_attn\.q_proj"],
        ["(q|k)_proj", "lm_head"],
        [r"h\.[0-9]\.attn.c_att.", "attn.c_attn"],
        ["lm.head$"],
        ["", "q_proj"],
        ["self.attn.q.proj", "^model.layers.1.self_attn.q_proj", "q_proj"],
        [r"^q_proj", r"self_attn\.q_proj", r"self\.attn.q_proj", "lm.head"],
        ["layers.1.self_attn.q_proj", "attn.q_proj", "self_attn.q_proj"],
        ["_proj", "^head", "lm_head."],
        ["[q]_proj", "q_proj", "lm_head", "lm_[h]ead"],
    ],
)
def test_patterns_mean_what_they_mean_in_peft(keys: list[str]) -> None:
    ranks = {key: number for number, key in enumerate(keys, start=1)}
    config = parse_lora_config(lora_config(99, rank_pattern=ranks, alpha_pattern=ranks))
    for path in PATHS:
        expected = ranks.get(get_pattern_key(ranks.keys(), path), 99)
        assert module_rank(config, path) == expected, path
        assert scaling(config, path, 1) == ranks.get(get_pattern_key(ranks.keys(), path), 8)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["proj", "attn.c_attn"]},
        {"target_modules": ["q_proj"], "exclude_modules": ["0.self_attn.q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 11},
        {
            "target_modules": ["q_proj", "c_attn"],
            "layers_to_transform": [0],
            "layers_pattern": ["h"],
        },
        {"target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": "experts"},
        {"target_modules": ["model.layers.0.self_attn.q_proj"], "layers_to_transform": [1]},
    ],
)
def test_modules_are_targeted_as_in_peft(options: dict[str, Any]) -> None:
    theirs = peft.LoraConfig(**options)
    # PEFT holds target_modules as a set; saved, it is a list.
    ours = parse_lora_config(lora_config(**options))
    for path in PATHS:
        expected = bool(check_target_module_exists(theirs, path))
        assert is_targeted(ours, path) == expected, path


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"init_lora_weights": "pissa"}, "FEATURE_UNSUPPORTED"),
        ({"init_lora_weights": "olora"}, "FEATURE_UNSUPPORTED"),
        ({"target_parameters": ["v_proj.weight"]}, "FEATURE_UNSUPPORTED"),
    ],
)
def test_what_peft_can_and_we_cannot_is_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    config = peft.LoraConfig(
        **{"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"], **options}
    )
    peft.get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(InvalidArgument) as caught:
        read_adapter(tmp_path)
    assert caught.value.reason == reason


def test_another_kind_is_refused(tmp_path: Path) -> None:
    config = peft.FourierFTConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], n_frequency=8)
    peft.get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(InvalidArgument, match="FOURIERFT"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_every_key_that_peft_writes_is_known(tmp_path: Path, kind: str) -> None:
    """A new PEFT release that adds a key fails here first, and somebody decides what it means."""
    if kind == "lora":
        peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"]).save_pretrained(tmp_path)
        known = lora.KEYS | {refusal.key for refusal in lora.REFUSED}
    else:
        peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(tmp_path)
        known = ia3.KEYS
    written = set(json.loads((tmp_path / "adapter_config.json").read_text()))
    assert written - known - COMMON_KEYS == set()


def test_adapters_on_experts_and_routers_are_refused_by_name(tmp_path: Path) -> None:
    """PEFT takes "all-linear" to mean a mixture's fused experts and its router too, which are no layers."""
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    lora = peft.LoraConfig(r=2, target_modules="all-linear")
    peft.get_peft_model(model, lora).save_pretrained(tmp_path)
    with pytest.raises(InvalidArgument, match=r"target_parameters.*experts and routers") as refusal:
        read_adapter(tmp_path)
    assert refusal.value.reason == "FEATURE_UNSUPPORTED"
