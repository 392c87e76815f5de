"""Loading bases of four architectures on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    Phi3Config,
    RobertaConfig,
)
from transformers.pytorch_utils import Conv1D

from lorry_bases import Quantization, fingerprint
from lorry_bases.load import BaseRefused, Head, load_base
from lorry_bases.shapes import bytes_per_parameter, linear_shapes

CPU = "cpu"


def test_nf4_base_is_frozen_and_described(random_base: Path, architecture: str) -> None:
    base = load_base(str(random_base), device=CPU)
    assert base.architecture == architecture
    assert base.context_length == 128
    assert base.fingerprint == fingerprint(random_base)
    assert base.tokenizer is None  # a random base has none
    assert base.eos_token_ids == ({1} if architecture == "GPT2LMHeadModel" else {1, 2})
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.model(input_ids=torch.tensor([[3, 4, 5]])).logits.dtype == torch.float32


def test_every_layer_but_the_head_is_quantized_and_close(random_base: Path) -> None:
    """GPT-2 keeps its weights transposed; quantized the wrong way round they would be far off."""
    quantized = load_base(str(random_base), device=CPU).model
    original = dict(AutoModelForCausalLM.from_pretrained(random_base).named_modules())
    for path in linear_shapes(quantized):
        layer = quantized.get_submodule(path)
        assert isinstance(layer, Linear4bit) == (path != "lm_head"), path
        if path == "lm_head":
            continue
        weight = original[path].weight
        weight = weight.T if isinstance(original[path], Conv1D) else weight
        error = dequantize_4bit(layer.weight.data, layer.weight.quant_state) - weight
        # The widest gap between two NF4 values is 0.31 of a block's largest weight.
        assert error.abs().max() <= 0.16 * weight.abs().max(), path


def test_linear_shapes_are_those_that_peft_builds(random_base: Path) -> None:
    model = load_base(str(random_base), device=CPU).model
    shapes = linear_shapes(model)
    assert shapes["lm_head"] == (64, 96)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    built = {}
    for path, module in peft_model.named_modules():
        if hasattr(module, "lora_A"):
            pair = module.lora_A["default"], module.lora_B["default"]
            built[path.removeprefix("base_model.model.")] = (
                pair[0].weight.shape[1],
                pair[1].weight.shape[0],
            )
    assert built == {path: shape for path, shape in shapes.items() if path != "lm_head"}


def test_linear_shapes_do_not_depend_on_quantization(random_base: Path) -> None:
    quantized = load_base(str(random_base), device=CPU).model
    plain = load_base(str(random_base), device=CPU, quantization=Quantization("none")).model
    assert linear_shapes(quantized) == linear_shapes(plain)
    with pytest.raises(ValueError, match="no quantized layer"):
        bytes_per_parameter(plain)


def test_shapes_of_a_llama() -> None:
    shapes = linear_shapes(load_base("lorry-tiny", device=CPU).model)
    assert shapes["model.layers.0.self_attn.q_proj"] == (256, 256)
    assert shapes["model.layers.5.self_attn.v_proj"] == (256, 128)
    assert shapes["model.layers.5.mlp.down_proj"] == (512, 256)
    assert len(shapes) == 6 * 7 + 1


@pytest.mark.parametrize(("double", "most"), [(False, 0.57), (True, 0.54)])
def test_bytes_per_parameter(double: bool, most: float) -> None:
    """4 bits, and a scale for each 64 weights: 4 bytes of it, or 1 when scales are quantized."""
    base = load_base("lorry-tiny", device=CPU, quantization=Quantization(double=double))
    assert 0.5 < bytes_per_parameter(base.model) <= most


def test_a_forward_leaves_the_weights_as_they_were() -> None:
    """On a CPU with AVX512-BF16 bitsandbytes replaces packed weights and scales at the first
    forward. A server that compares or restores them must not find others than it loaded."""
    base = load_base("lorry-tiny", device=CPU)
    layer = base.model.get_submodule("model.layers.0.mlp.up_proj")
    pointer, content = layer.weight.data_ptr(), layer.weight.data.clone()
    scales = layer.weight.quant_state.absmax.clone()
    with torch.inference_mode():
        base.model(input_ids=torch.tensor([[5, 6, 7]]))
    assert layer.weight.data_ptr() == pointer
    assert torch.equal(layer.weight.data, content)
    assert torch.equal(layer.weight.quant_state.absmax, scales)


def test_layers_of_odd_sizes_run(tmp_path: Path) -> None:
    """Left to itself, bitsandbytes asserts that outputs come in 32s, in the middle of the first forward."""
    from transformers import LlamaConfig, LlamaForCausalLM

    odd = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(odd).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device=CPU)
    with torch.inference_mode():
        assert base.model(input_ids=torch.tensor([[3, 4]])).logits.isfinite().all()


def test_longrope_is_served_within_its_original_context(tmp_path: Path) -> None:
    """Beyond it, the longest sequence of a batch would turn the positions of all others too."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
    }
    config = Phi3Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=128,
        original_max_position_embeddings=32,
        rope_parameters=rope,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device=CPU)
    assert base.context_length == 32


@pytest.mark.parametrize(("config", "expected"), [(RobertaConfig, 62), (BertConfig, 66)])
def test_positions_that_are_kept_for_padding_take_no_token(
    tmp_path: Path, config: type[RobertaConfig] | type[BertConfig], expected: int
) -> None:
    """RoBERTa's positions begin behind that of padding: its longest rows had no embedding, and broke training off."""
    made = config(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        pad_token_id=3,
    )
    AutoModelForSequenceClassification.from_config(made).save_pretrained(tmp_path)
    head = Head(AutoModelForSequenceClassification, ("a", "b"))
    base = load_base(str(tmp_path), device=CPU, head=head)
    assert base.context_length == expected
    longest = torch.full((1, expected), 5)
    base.model(input_ids=longest)
    with pytest.raises((IndexError, RuntimeError)):
        base.model(input_ids=torch.full((1, expected + 1), 5))


def test_quantized_folder_is_refused(llama_base: Path) -> None:
    config = json.loads((llama_base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (llama_base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseRefused, match="already quantized \\(gptq\\)"):
        load_base(str(llama_base), device=CPU)


def test_block_size_that_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(BaseRefused, match="blocks of 64"):
        load_base("lorry-tiny", device=CPU, quantization=Quantization(block_size=128))


def test_remote_code_stays_off(llama_base: Path) -> None:
    """A config may name code in its own folder; nothing of it may run."""
    config = json.loads((llama_base / "config.json").read_text())
    config["model_type"] = "not-in-transformers"
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (llama_base / "config.json").write_text(json.dumps(config))
    (llama_base / "evil.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(BaseRefused, match="not-in-transformers"):
        load_base(str(llama_base), device=CPU)
