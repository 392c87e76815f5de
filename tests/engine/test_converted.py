"""What `lorry convert` makes, served on the 4-bit base, says what PEFT says of the adapter itself on that base."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import OFTConfig, RandLoraConfig, RoadConfig, VeraConfig

from lorry_bases.load import load_base
from lorry_trainer.convert.convert import convert

from .rig import Rig
from .test_kinds import LOG_PROB, NEW_TOKENS, Alone, check_near_tie, make_adapter, prompts

pytestmark = pytest.mark.filterwarnings("ignore")

TARGETS = ["q_proj", "down_proj"]
# The kinds that PEFT itself runs on 4-bit layers.
CONFIGS: dict[str, Any] = {
    "vera": VeraConfig(r=4, target_modules=TARGETS),
    "oft": OFTConfig(oft_block_size=16, target_modules=TARGETS),
    "randlora": RandLoraConfig(r=8, target_modules=TARGETS),
    "road": RoadConfig(group_size=32, target_modules=TARGETS),
}


def test_converted_adapters_in_one_batch(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = base_folder("llama")
    originals = {
        kind: make_adapter(base, tmp_path / kind, config, seed)
        for seed, (kind, config) in enumerate(CONFIGS.items())
    }
    folders = {}
    for kind, folder in originals.items():
        folders[kind] = tmp_path / f"{kind}-lora"
        assert convert(folder, folders[kind], base=str(base)).error < 1e-5
    asked = [(kind, prompt) for prompt in prompts() for kind in (None, *folders)]
    with Rig(load_base(str(base), device="cpu"), folders, max_rank=64, slots=4) as rig:
        for kind, prompt in asked:
            rig.submit(f"{kind}/{len(prompt)}", prompt, kind, max_tokens=NEW_TOKENS, top_logprobs=0)
        rig.wait(*(f"{kind}/{len(prompt)}" for kind, prompt in asked))
        heard = set()
        for kind in (None, *folders):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                alone = Alone(base, originals[kind] if kind else None)
            for prompt in prompts():
                request = f"{kind}/{len(prompt)}"
                assert rig.error(request) is None
                said, right = rig.tokens(request), alone.generate(prompt)
                if said != right:
                    check_near_tie(alone, prompt, said, right, kind)
                first = rig.answers.of(request)[0].logprobs[0].chosen
                assert abs(first - alone.logits(prompt).log_softmax(-1)[said[0]]) < LOG_PROB, kind
                heard.add(round(first, 5))
        assert len(heard) == len(asked), "an adapter did nothing"
