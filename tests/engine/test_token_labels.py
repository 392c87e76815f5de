"""What a head says of every token of a prompt on a decoder, whatever the steps in which the prompt is computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from lorry_bases.load import load_base
from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.request import GenerationRequest, SamplingParams

from .bases import save_adapter
from .rig import Rig

LABELS = 3
PROMPT = [5 + n % 90 for n in range(45)]


@pytest.fixture
def tagger(base_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    torch.manual_seed(4)
    model = AutoModelForTokenClassification.from_pretrained(
        base_folder("llama"), num_labels=LABELS, dtype=torch.float32
    )
    config = LoraConfig(task_type="TOKEN_CLS", init_lora_weights=False, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(tmp_path / "tagger")
    return tmp_path / "tagger"


def ask(rig: Rig, name: str, prompt: list[int], adapter: str) -> str:
    rig.engine.submit(
        GenerationRequest(
            name,
            tuple(prompt),
            SamplingParams(max_tokens=0),
            adapter,
            pool_from=0,
            classifies=True,
            of_each=True,
        )
    )
    return name


def test_labels_of_all_tokens_are_those_of_peft(
    base_folder: Callable[[str], Path], tagger: Path, tmp_path: Path
) -> None:
    """In several chunks beside other requests; and once more, its beginning cached."""
    folder = base_folder("llama")
    other = save_adapter(folder, tmp_path / "other", seed=1, target_modules=["v_proj"])
    base = load_base(str(folder), device="cpu")
    plain = load_base(str(folder), device="cpu").model
    judge = AutoModelForTokenClassification.from_pretrained(folder, num_labels=LABELS)
    judge.model = plain.model
    with torch.inference_mode():
        wanted = PeftModel.from_pretrained(judge, tagger).eval()(torch.tensor([PROMPT])).logits[0]
    with Rig(base, {"tagger": tagger, "other": other}, max_batched_tokens=16) as rig:
        rig.submit("beside", PROMPT[:20], "other", max_tokens=12)
        for name in ("first", "again"):
            rig.wait(ask(rig, name, PROMPT, "tagger"))
            told = torch.tensor(rig.last(name).embedding).view(len(PROMPT), LABELS)
            torch.testing.assert_close(told, wanted, rtol=0, atol=1e-3)
        rig.wait("beside")
        assert wanted.abs().max() > 1e-2


def test_an_adapter_without_such_a_head_is_refused(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = base_folder("llama")
    other = save_adapter(folder, tmp_path / "other", seed=1, target_modules=["v_proj"])
    with Rig(load_base(str(folder), device="cpu"), {"other": other}) as rig:
        rig.wait(ask(rig, "none", PROMPT, "other"))
        error = rig.error("none")
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, "labels tokens" in error.message) == ("NO_HEAD", True)


@pytest.mark.parametrize("wrong", [(LABELS - 1,), (LABELS + 4,)])
def test_a_head_whose_parts_do_not_fit_ends_nobody_elses_request(
    base_folder: Callable[[str], Path], tagger: Path, tmp_path: Path, wrong: tuple[int, ...]
) -> None:
    """A bias of another length than the weight's rows was found in a step, which ended the engine for everybody."""
    shutil.copytree(tagger, tmp_path / "wrong")
    weights = tmp_path / "wrong" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(n for n in tensors if n.endswith("score.weight"))
    save_file(tensors | {name.replace("weight", "bias"): torch.ones(wrong)}, weights)
    folders = {"wrong": tmp_path / "wrong", "tagger": tagger}
    with Rig(load_base(str(base_folder("llama")), device="cpu"), folders) as rig:
        rig.wait(ask(rig, "refused", PROMPT, "wrong"), ask(rig, "told", PROMPT, "tagger"))
        error = rig.error("refused")
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "HEAD_UNUSABLE"
        assert rig.error("told") is None
    assert rig.engine.failed is None
