"""Virtual tokens before every prompt: prompt tuning, p-tuning, and prefix tuning (keys and values in every layer)."""

from __future__ import annotations

from typing import Any

from peft import (
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
)

from lorry_bases.load import Base
from lorry_trainer.methods.contract import Peft
from lorry_trainer.recipe import Recipe
from lorry_trainer.recipe import Virtual as Section


class _Virtual(Peft):
    def virtual_tokens(self, recipe: Recipe) -> int:
        return (recipe.virtual or Section()).tokens


class PromptTuning(_Virtual):
    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        virtual = recipe.virtual or Section()
        text = virtual.text
        config = PromptTuningConfig(
            task_type=task,
            num_virtual_tokens=virtual.tokens,
            prompt_tuning_init=PromptTuningInit.TEXT if text else PromptTuningInit.SAMPLE_VOCAB,
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=str(base.path) if text else None,
        )
        return get_peft_model(base.model, config)


class PTuning(_Virtual):
    def config(self, recipe: Recipe, task: str) -> PeftConfig:
        virtual = recipe.virtual or Section()
        return PromptEncoderConfig(
            task_type=task,
            num_virtual_tokens=virtual.tokens,
            encoder_hidden_size=virtual.encoder_hidden_size,
        )


class PrefixTuning(_Virtual):
    def config(self, recipe: Recipe, task: str) -> PeftConfig:
        virtual = recipe.virtual or Section()
        hidden = virtual.encoder_hidden_size
        return PrefixTuningConfig(
            task_type=task,
            num_virtual_tokens=virtual.tokens,
            prefix_projection=hidden is not None,
            encoder_hidden_size=hidden,
        )
