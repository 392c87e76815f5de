"""Every kind of adapter, mixed with all the others and the bare base in one batch, says what PEFT says of it alone.

On the NF4 base; greedy tokens must be equal, and log-probabilities within 1e-3. Kinds join by `tests/engine/kinds/`.
"""

from __future__ import annotations

import copy
import functools
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from lorry_bases.load import load_base
from lorry_server.engine.plan import Chunk
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.engine.sequence import Sequence

from .bases import CONFIGS, VOCAB_SIZE, other_head, random_model
from .kinds import recipes
from .kinds.names import NAMES
from .rig import Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

NEW_TOKENS = 8
LOG_PROB = 1e-3
NEAR_TIE = 1e-5  # relative to the spread of the logits: rounding may choose either


@functools.lru_cache(maxsize=1)
def loaded(base: Path) -> Any:
    return load_base(str(base), device="cpu").model


def fresh(base: Path) -> Any:
    """The base, as if it had just been loaded: copying it takes a fraction of the time."""
    return copy.deepcopy(loaded(base))


def make_adapter(base: Path, folder: Path, config: Any, seed: int) -> Path:
    """Trains nothing, but moves everything that training would move, and saves it as PEFT does."""
    torch.manual_seed(seed)
    model = fresh(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, copy.deepcopy(config))
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if parameter.requires_grad and "lora_A" not in name:
                    parameter.add_(
                        0.1 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.1)
                    )
        tuned.save_pretrained(folder)
    return folder


class Alone:
    """One adapter in PEFT, on a base of its own."""

    def __init__(self, base: Path, folder: Path | None) -> None:
        self.model: Any = fresh(base)
        if folder is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.model = PeftModel.from_pretrained(self.model, folder)

    @torch.inference_mode()
    def generate(self, prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([tokens])).logits[0, -1]


def prompts() -> list[list[int]]:
    """One of a few tokens, and one that is prefilled as a run of its own."""
    rng = random.Random(3)
    return [[2, 9, 4, 7], [rng.randrange(2, VOCAB_SIZE) for _ in range(30)]]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_in_one_batch_is_what_peft_says_of_each_alone(name: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    whole = name.removesuffix("-tied")
    config = CONFIGS[whole] if name == whole else other_head(CONFIGS[whole])
    random_model(config).save_pretrained(base)
    folders = {
        kind: make_adapter(base, tmp_path / kind, config, seed)
        for seed, (kind, config) in enumerate(recipes(name).items())
    }
    config = {"slots": len(folders) + 1, "max_rank": 16, "max_sequences": 64}
    with Rig(load_base(str(base), device="cpu"), folders, **config) as rig:
        asked = {
            f"{kind}/{len(prompt)}": (kind, prompt)
            for prompt in prompts()
            for kind in (None, *folders)
        }
        for request, (kind, prompt) in asked.items():
            rig.submit(request, prompt, kind, max_tokens=NEW_TOKENS)
        rig.wait(*asked)
        assert {str(rig.error(request)) for request in asked} == {"None"}
        rig.idle()
        slots = {r.digest: r.slot for r in rig.engine._residency.residents()}
        seen = set()
        for kind in (None, *folders):
            alone = Alone(base, folders.get(kind) if kind else None)
            for prompt in prompts():
                said = rig.tokens(f"{kind}/{len(prompt)}")
                right = alone.generate(prompt)
                if said != right:
                    check_near_tie(alone, prompt, said, right, kind)
                logits = of_engine(rig, prompt, kind, None if kind is None else slots[kind])
                difference = logits.log_softmax(-1) - alone.logits(prompt).log_softmax(-1)
                assert difference.abs().max() < LOG_PROB, (kind, difference.abs().max())
                seen.add(tuple(round(v, 4) for v in logits[:4].tolist()))
        assert len(seen) == 2 * (1 + len(folders)), "an adapter did nothing"


def of_engine(rig: Rig, prompt: list[int], kind: str | None, slot: int | None) -> torch.Tensor:
    """What the engine's own forward says after the prompt, on the KV blocks that are free."""
    runner, blocks = rig.engine._runner, rig.engine._memory
    request = GenerationRequest("", tuple(prompt), SamplingParams(max_tokens=1))
    sequence = Sequence(request, 0.0, list(prompt))
    if kind is not None:
        sequence.virtual = rig.engine._scheduler._fetched[kind]
    injected = sequence.num_uninjected_tokens
    num_tokens = sequence.num_tokens - injected
    blocks.allocate(sequence, injected + num_tokens)
    logits = runner.logits([Chunk(sequence, num_tokens, slot, num_injected=injected)])[0]
    blocks.free(sequence)
    return logits


def check_near_tie(
    alone: Alone, prompt: list[int], said: list[int], right: list[int], kind: str | None
) -> None:
    at = next(i for i, pair in enumerate(zip(said, right, strict=True)) if pair[0] != pair[1])
    logits = alone.logits([*prompt, *right[:at]])
    gap = (logits[right[at]] - logits[said[at]]) / logits.std()
    assert gap < NEAR_TIE, f"{kind} says {said}, PEFT {right}: {gap} at {at}"
