"""A reward that is an adapter which `objective: reward` trained: its base, loaded once more, with its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lorry_trainer.errors import RecipeError

if TYPE_CHECKING:
    from lorry_bases.load import Base
    from lorry_trainer.formats.contract import Text
    from lorry_trainer.rewards import Judge


def from_folder(folder: Path, device: str | None, key: str, own_base: str | None) -> Judge:
    """`key` stands in messages; `own_base` is that of the run, which is often the adapter's too. Raises RecipeError."""
    from peft import PeftModel

    from lorry_trainer.objectives.encoded import refuse_base_without_tokenizer
    from lorry_trainer.objectives.reward import rewards

    config = _read_json(folder / "adapter_config.json", key)
    if config.get("task_type") != "SEQ_CLS":
        raise RecipeError(
            f"{key}: the adapter in {folder} was trained for {config.get('task_type')}; "
            "it takes one of `objective: reward`"
        )
    base = _base(folder, config, device, key, own_base)
    try:
        refuse_base_without_tokenizer(base)  # pads as in training
        model: Any = PeftModel.from_pretrained(base.model, folder)
    except (
        Exception
    ) as error:  # whatever PEFT and safetensors raise for files that are not what is needed
        raise RecipeError(
            f"{key}: the adapter in {folder} cannot be loaded on {base.name!r}: {error}; "
            "it takes one of `objective: reward`"
        ) from error

    def judge(prompts: list[Text], said: list[str], answers: list[str]) -> list[float]:
        pairs = [(p, _as_answer(p, s)) for p, s in zip(prompts, said, strict=True)]
        return rewards(base, model, pairs)

    return judge


def _base(
    folder: Path, config: dict[str, Any], device: str | None, key: str, own: str | None
) -> Base:
    """The base that the adapter was trained on, by whichever of its names leads to it here: as the recipe had it, which
    may be a folder, then as the adapter is published, without the way to that folder."""
    from lorry_bases import BaseNotFound
    from lorry_bases.load import BaseRefused, load_base
    from lorry_trainer.objectives.reward import HEAD

    written, lineage = folder / "recipe.yaml", folder / "lineage.json"
    recipe = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
    wanted = _read_json(lineage, key).get("baseFingerprint") if lineage.is_file() else None
    names = [recipe.get("base"), config.get("base_model_name_or_path"), own if wanted else None]
    faults: list[str] = []
    for name in dict.fromkeys(name for name in names if name):
        try:
            base = load_base(name, device=device, head=HEAD)
        except (BaseNotFound, BaseRefused) as error:
            faults.append(str(error))
            continue
        if wanted in (None, base.fingerprint):
            return base
        faults.append(f"base {name!r} has other weights than the one that it was trained on")
    raise RecipeError(
        f"{key}: the base of the reward model in {folder} is not at hand: {'; '.join(faults) or 'it names none'}. "
        f"Put it where `base` in {written} says, or write there where it is"
    )


def _read_json(path: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{key}: {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{key}: {path} holds no object; it is not what `lorry train` writes")
    return found


def _as_answer(prompt: Text, said: str) -> Text:
    return said if isinstance(prompt, str) else [{"role": "assistant", "content": said}]
