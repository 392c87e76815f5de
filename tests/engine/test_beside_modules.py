"""What acts beside modules, on every family: virtual tokens and bottleneck adapters, mixed with LoRA and the bare base.

With little KV memory: sequences are preempted and start again. Held against PEFT, and for bottleneck adapters, which
PEFT has none of, against the trainer's plain layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig

from lorry_bases.load import load_base
from lorry_trainer.methods.bottleneck import Bottleneck, insert, load_bottleneck

from .bases import CONFIGS, EXPERTS, WINDOW
from .rig import Rig
from .test_kinds import LOG_PROB, Alone, check_near_tie, make_adapter, prompts

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),
]

NEW_TOKENS = 8
BOTTLENECKS: dict[str, dict[str, Any]] = {
    "houlsby": {"placement": "houlsby", "bottleneck_size": 8, "activation": "relu"},
    "pfeiffer": {
        "placement": "pfeiffer",
        "bottleneck_size": 5,
        "activation": "gelu",
        "scaling": 0.5,
    },
    "tanh": {"placement": "houlsby", "bottleneck_size": 3, "activation": "tanh"},
    "silu": {"placement": "houlsby", "bottleneck_size": 3, "activation": "silu", "scaling": 2.0},
}


def make_bottleneck(base: Path, folder: Path, config: dict[str, Any], seed: int) -> Path:
    """Saves a random one that acts, as the trainer does."""
    torch.manual_seed(seed)
    model: Any = load_base(str(base), device="cpu").model
    config = {"peft_type": "BOTTLENECK", "scaling": 1.0, **config}
    paths = insert(model, config)
    for name, parameter in model.named_parameters():
        if ".bottleneck_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.bottleneck_config = {**config, "target_modules": paths}
    folder.mkdir()
    Bottleneck().save(model, folder)
    return folder


class AloneWithLayers(Alone):
    """A bottleneck adapter on a base of its own, in plain torch."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.model = load_bottleneck(load_base(str(base), device="cpu").model, folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_virtual_tokens_and_bottlenecks_beside_lora(
    name: str, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base, task = base_folder(name), "CAUSAL_LM"
    attention = next(
        part
        for part in ("q_proj", "qkv_proj", "query_key_value", "c_attn")
        if any(path.endswith(part) for path, _ in load_base(str(base)).model.named_modules())
    )
    configs = {
        "prompt": PromptTuningConfig(task_type=task, num_virtual_tokens=11),
        "prefix": PrefixTuningConfig(task_type=task, num_virtual_tokens=WINDOW + 7),
        "lora": LoraConfig(r=4, target_modules=[attention], init_lora_weights=False),
    }
    folders = {
        kind: make_adapter(base, tmp_path / kind, config, seed)
        for seed, (kind, config) in enumerate(configs.items())
    }
    chosen = ["houlsby"] if name in EXPERTS else list(BOTTLENECKS)
    for seed, kind in enumerate(chosen):
        folders[kind] = make_bottleneck(base, tmp_path / kind, BOTTLENECKS[kind], seed)
    asked = {
        f"{kind}/{len(prompt)}": (kind, prompt) for prompt in prompts() for kind in (None, *folders)
    }
    settings = {"slots": 8, "max_rank": 4, "kv_blocks": 16, "max_batched_tokens": 24}
    with Rig(load_base(str(base), device="cpu"), folders, **settings) as rig:
        for kind in folders:
            rig.engine.load(kind).result(60)
        for request, (kind, prompt) in asked.items():
            rig.submit(request, prompt, kind, max_tokens=NEW_TOKENS, top_logprobs=0)
        rig.wait(*asked)
        assert {str(rig.error(request)) for request in asked} == {"None"}
        stats = rig.idle()
        assert stats.preemptions > 0
        heard: dict[float, str | None] = {}
        for kind in (None, *folders):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                alone = (
                    AloneWithLayers(base, folders[kind])
                    if kind in BOTTLENECKS
                    else Alone(base, folders.get(kind) if kind else None)
                )
            for prompt in prompts():
                request = f"{kind}/{len(prompt)}"
                said, right = rig.tokens(request), alone.generate(prompt)
                if said != right:
                    check_near_tie(alone, prompt, said, right, kind)
                last = rig.last(request).stats
                assert last is not None
                assert (last.prompt_tokens, last.completion_tokens) == (len(prompt), NEW_TOKENS)
                first = rig.answers.of(request)[0].logprobs[0].chosen
                expected = alone.logits(prompt).log_softmax(-1)[said[0]]
                assert abs(first - expected) < LOG_PROB, kind
                if (
                    len(prompt) < WINDOW
                ):  # from the end of the other, some families do not see its beginning
                    other = heard.setdefault(round(first, 5), kind)
                    assert other == kind, f"{kind} says what {other} says"


def test_where_a_sublayer_ends(base_folder: Callable[[str], Path]) -> None:
    """Houlsby's places are two a layer in every family, and Pfeiffer's one; a mixture's experts are no layers."""
    for name in CONFIGS:
        for placement, a_layer in (("houlsby", 2), ("pfeiffer", 1)):
            model = load_base(str(base_folder(name)), device="cpu").model
            config = {**BOTTLENECKS["houlsby"], "placement": placement, "scaling": 1.0}
            if name in EXPERTS and name != "qwen3-moe":
                a_layer -= 1
            expected = a_layer * model.config.get_text_config().num_hidden_layers
            if name == "qwen3-moe":
                expected -= 1  # its second layer has experts
            if expected == 0:
                with pytest.raises(ValueError, match="unusual names"):
                    insert(model, config)
            else:
                assert len(insert(model, config)) == expected, name


def test_a_prefix_that_peft_made_for_other_heads_is_refused(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A PEFT before grouped query heads took all heads; and a fused projection tells the registry no heads."""
    base = base_folder("phi3")
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        num_attention_heads=4,
        token_dim=32,
        num_layers=2,
    )
    folder = make_adapter(base, tmp_path / "prefix", config, 0)
    text = (folder / "adapter_config.json").read_text()
    heads = text.replace('"num_attention_heads": 2', '"num_attention_heads": 4')
    (folder / "adapter_config.json").write_text(heads)
    with Rig(load_base(str(base), device="cpu"), {"prefix": folder}) as rig:
        rig.submit("x", [3, 4], "prefix")
        rig.wait("x")
        error = rig.error("x")
    assert getattr(error, "reason", None) == "ADAPTER_BASE_MISMATCH"


def test_peft_loads_what_the_engine_serves(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The tests above would show nothing if PEFT changed nothing: its virtual tokens change what it says."""
    base = base_folder("llama")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    folder = make_adapter(base, tmp_path / "prompt", config, 0)
    model = PeftModel.from_pretrained(load_base(str(base), device="cpu").model, folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        bare = load_base(str(base), device="cpu").model(input_ids=ids).logits[0, -1]
        assert (model(input_ids=ids).logits[0, -1] - bare).norm() > 1e-2 * bare.norm()
