"""The heart: a mixed batch says, token for token, what PEFT says one adapter at a time on the same NF4 base.

Both sides load the base alike, with `lorry_bases`: left to itself, bitsandbytes computes in bfloat16 on a CPU with
AVX512-BF16, and that would be another base.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lorry_bases.fingerprint import NF4, Quantization
from lorry_bases.load import load_base
from lorry_bases.shapes import linear_shapes
from lorry_server.engine import sparse

from .bases import WINDOW, save_adapter
from .rig import Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

BLOCK_SIZE = 8
CHUNK = 24  # tokens in a step; the longest prompt takes several
NEW_TOKENS = 14
# Where the reference's two likeliest tokens are closer than this (relative to the spread of its logits),
# rounding may choose either: the sums run in another order, and float32 rounds them to about 1e-6.
NEAR_TIE = 1e-5


@dataclass(frozen=True)
class Layers:
    """What an architecture calls its layers."""

    attention: list[str]
    mlp: list[str]
    one_mlp: str
    head: bool = True  # has one of its own, which an adapter may target
    every: str | list[str] = "all-linear"


LLAMA = Layers(["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"], "down_proj")
TIED = Layers(LLAMA.attention, LLAMA.mlp, LLAMA.one_mlp, head=False)
GPT2 = Layers(["attn.c_attn"], ["mlp.c_fc", "mlp.c_proj"], "mlp.c_fc", head=False)
PHI3 = Layers(["qkv_proj"], ["gate_up_proj", "down_proj"], "down_proj")
GPT_NEOX = Layers(["query_key_value"], ["dense_h_to_4h", "dense_4h_to_h"], "dense_h_to_4h")
# Experts are fused parameters, which PEFT takes "all-linear" to mean too; the attention stands in for an MLP.
EXPERTS = Layers(
    ["q_proj", "v_proj"],
    ["k_proj", "o_proj"],
    "o_proj",
    every=["q_proj", "k_proj", "v_proj", "o_proj"],
)
BASES: Mapping[str, Layers] = {
    "llama": LLAMA,
    "qwen2": TIED,
    "mistral": LLAMA,
    "gpt2": GPT2,
    "qwen3": TIED,
    "gemma2": TIED,
    "gemma3": LLAMA,
    "phi3": PHI3,
    "gpt-neox": GPT_NEOX,
    "granite": LLAMA,
    "olmo2": LLAMA,
    "mixtral": EXPERTS,
    "qwen3-moe": replace(EXPERTS, head=False),
    "gpt-oss": EXPERTS,
    "lorry-tiny": TIED,
}
UNQUANTIZED = Quantization("none")


def recipes(layers: Layers) -> dict[str, dict[str, Any]]:
    """LoRA and rsLoRA, ranks 4 to 64, everything or a part, in float32 and bfloat16."""
    every = layers.every
    half = torch.bfloat16
    made: dict[str, dict[str, Any]] = {
        "everything-4": {"r": 4, "lora_alpha": 8, "target_modules": every},
        "attention-8-rs": {
            "r": 8,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": layers.attention,
        },
        "mlp-16-half": {"r": 16, "lora_alpha": 32, "target_modules": layers.mlp, "dtype": half},
        "everything-64-rs-half": {
            "r": 64,
            "lora_alpha": 16,
            "use_rslora": True,
            "target_modules": every,
            "dtype": half,
        },
        "patterns": {
            "r": 12,
            "lora_alpha": 24,
            "target_modules": every,
            "rank_pattern": {layers.one_mlp: 33, f".*.0.*.{layers.attention[0]}": 5},
            "alpha_pattern": {layers.attention[0]: 10},
        },
        "first-layer-32": {
            "r": 32,
            "lora_alpha": 32,
            "target_modules": layers.mlp,
            "layers_to_transform": [0],
        },
    }
    if layers.head:
        made["head-6"] = {
            "r": 6,
            "lora_alpha": 6,
            "target_modules": ["lm_head", layers.attention[0]],
        }
    return made


class Reference:
    """PEFT on a base of its own, loaded as the engine's is."""

    def __init__(
        self, base: Path, folders: Mapping[str, Path], quantization: Quantization = NF4
    ) -> None:
        self.model: Any = None
        plain = load_base(str(base), device="cpu", quantization=quantization).model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's, about names that it knows already
            for name, folder in folders.items():
                if self.model is None:
                    self.model = PeftModel.from_pretrained(plain, folder, adapter_name=name)
                else:
                    self.model.load_adapter(folder, name)

    @torch.inference_mode()
    def generate(self, prompt: list[int], adapter: str | None) -> list[int]:
        return self._ask(adapter, self._generate, prompt)

    @torch.inference_mode()
    def logits(self, tokens: list[int], adapter: str | None) -> torch.Tensor:
        """After the last token."""
        return self._ask(adapter, lambda ids: self.model(input_ids=ids).logits[0, -1], tokens)

    def _ask(self, adapter: str | None, ask: Callable[[torch.Tensor], Any], ids: list[int]) -> Any:
        if adapter is None:
            with self.model.disable_adapter():
                return ask(torch.tensor([ids]))
        self.model.set_adapter(adapter)
        return ask(torch.tensor([ids]))

    def _generate(self, ids: torch.Tensor) -> list[int]:
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=True,  # lorry-tiny's configuration says otherwise
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[0, ids.shape[1] :].tolist()

    def check(self, prompt: list[int], adapter: str | None, said: list[int]) -> bool:
        """Whether a near tie fell the other way; what is not a tie, or follows one, must be equal."""
        right = self.generate(prompt, adapter)
        assert len(said) == NEW_TOKENS
        if said == right:
            return False
        at = next(i for i, pair in enumerate(zip(said, right, strict=True)) if pair[0] != pair[1])
        logits = self.logits([*prompt, *right[:at]], adapter)
        gap = (logits[right[at]] - logits[said[at]]) / logits.std()
        assert gap < NEAR_TIE, f"{adapter} says {said}, PEFT {right}: {gap} at {at}"
        return True


def prompts(vocab_size: int) -> list[list[int]]:
    """A short one, and three with a common beginning; all of those are longer than the window, one than two chunks."""
    rng = random.Random(7)
    common = [rng.randrange(2, vocab_size) for _ in range(2 * BLOCK_SIZE + 1)]
    assert len(common) > WINDOW
    tails = ([], [5, 6, 7], [rng.randrange(2, vocab_size) for _ in range(2 * CHUNK)])
    return [[3, 9, 4], *([*common, *tail] for tail in tails)]


@pytest.fixture(scope="module", params=BASES)
def workload(
    request: pytest.FixtureRequest,
    base_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Path]]:
    """A base and its adapters."""
    name = request.param
    base, root = base_folder(name), tmp_path_factory.mktemp("adapters")
    folders = {
        adapter: save_adapter(base, root / adapter, seed=seed, strength=0.7, **recipe)
        for seed, (adapter, recipe) in enumerate(recipes(BASES[name]).items())
    }
    return base, folders


def test_a_mixed_batch_says_what_peft_says(
    workload: tuple[Path, dict[str, Path]],
) -> None:
    """All adapters and the bare base at once, with half as many slots as adapters and too little KV memory.

    Long prompts are prefilled between the others' tokens, adapters come and go, sequences are preempted and
    start again; none of it may show in a single token.
    """
    base_path, folders = workload
    base = load_base(str(base_path), device="cpu")
    vocab_size = base.model.config.get_text_config().vocab_size
    reference = Reference(base_path, folders)
    asked = {
        f"{adapter}/{number}": (prompt, adapter)
        for number, prompt in enumerate(prompts(vocab_size))
        for adapter in (None, *folders)
    }
    config = {
        "slots": 3,
        "max_rank": 64,
        "block_size": BLOCK_SIZE,
        "kv_blocks": 22,
        "max_batched_tokens": CHUNK,
    }
    with Rig(base, folders, **config) as rig:
        for name, (prompt, adapter) in asked.items():
            rig.submit(name, prompt, adapter, max_tokens=NEW_TOKENS)
        rig.wait(*asked)
        stats = rig.idle()
        assert stats.preemptions > 0
        assert stats.evictions > 0
        assert stats.slots_used == 3
        assert stats.loads["slot"].count > len(folders)
        ties = sum(
            reference.check(prompt, adapter, rig.tokens(name))
            for name, (prompt, adapter) in asked.items()
        )
        assert ties <= 2, "near ties are rare"

        # Each adapter says something of its own: a batch that mixed them up would have been noticed.
        said = {
            str([rig.tokens(name) for name in asked if name.startswith(f"{adapter}/")])
            for adapter in (None, *folders)
        }
        assert len(said) == 1 + len(folders)

        # A second round finds the beginning of a prompt in memory, and says the same.
        for adapter in (None, *folders):
            prompt = prompts(vocab_size)[2]
            first = rig.generate(prompt, adapter, max_tokens=NEW_TOKENS)
            hits = rig.engine.stats().prefix_hit_tokens
            name = rig.submit(f"again/{adapter}", prompt, adapter, max_tokens=NEW_TOKENS)
            rig.wait(name)
            request_stats = rig.last(name).stats
            assert request_stats is not None
            assert request_stats.cached_prompt_tokens == 2 * BLOCK_SIZE
            assert rig.idle().prefix_hit_tokens == hits + 2 * BLOCK_SIZE
            for tokens in (first, rig.tokens(name)):
                if tokens != rig.tokens(f"{adapter}/2"):
                    assert reference.check(prompt, adapter, tokens)
    assert rig.engine.failed is None


def test_a_base_that_is_not_quantized_says_what_peft_says(
    workload: tuple[Path, dict[str, Path]],
) -> None:
    base_path, folders = workload
    folders = {name: folders[name] for name in ("everything-4", "patterns")}
    base = load_base(str(base_path), device="cpu", quantization=UNQUANTIZED)
    vocab_size = base.model.config.get_text_config().vocab_size
    reference = Reference(base_path, folders, UNQUANTIZED)
    asked = {
        f"{adapter}/{len(prompt)}": (prompt, adapter)
        for prompt in prompts(vocab_size)[::2]
        for adapter in (None, *folders)
    }
    with Rig(base, folders, max_batched_tokens=CHUNK) as rig:
        for name, (prompt, adapter) in asked.items():
            rig.submit(name, prompt, adapter, max_tokens=NEW_TOKENS)
        rig.wait(*asked)
        ties = sum(
            reference.check(prompt, adapter, rig.tokens(name))
            for name, (prompt, adapter) in asked.items()
        )
        assert ties <= 1, "near ties are rare"


def test_gpt2_adapters_attach_where_peft_attaches_them(
    base_folder: Callable[[str], Path],
) -> None:
    """GPT-2's linear layers are of transformers' own class and keep their weights the other way round;
    quantized they become bitsandbytes' and PEFT must find them under the same paths."""
    model = load_base(str(base_folder("gpt2")), device="cpu").model
    shapes = linear_shapes(model)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    attached = {
        path.removeprefix("base_model.model.")
        for path, module in peft_model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert attached == shapes.keys() - {"lm_head"}
    assert "transformer.h.1.attn.c_attn" in attached
    assert shapes["transformer.h.1.attn.c_attn"] == (64, 192)


def test_a_device_without_sparse_products_says_the_same(
    base_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that CUDA goes, sequence by sequence and run by run, taken on this machine."""
    monkeypatch.setattr(sparse, "serves", lambda _device: False)
    base_path = base_folder("mistral")
    folders = {
        name: save_adapter(base_path, tmp_path / name, seed=seed, strength=0.7, **recipe)
        for seed, (name, recipe) in enumerate(recipes(BASES["mistral"]).items())
    }
    base = load_base(str(base_path), device="cpu")
    reference = Reference(base_path, folders)
    vocab_size = base.model.config.get_text_config().vocab_size
    asked = [(prompt, name) for prompt in prompts(vocab_size)[:2] for name in (None, *folders)]
    with Rig(base, folders, slots=3, max_rank=64) as rig:
        names = [
            rig.submit(f"{adapter}/{len(prompt)}", prompt, adapter, max_tokens=NEW_TOKENS)
            for prompt, adapter in asked
        ]
        rig.wait(*names)
        for name, (prompt, adapter) in zip(names, asked, strict=True):
            reference.check(prompt, adapter, rig.tokens(name))
