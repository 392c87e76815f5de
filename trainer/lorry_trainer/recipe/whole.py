"""One training run: the sections together, and the rules between them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lorry_trainer.recipe.data import Data
from lorry_trainer.recipe.evaluation import Evaluation, Metric, Requirement
from lorry_trainer.recipe.method import (
    HELD,
    Bottleneck,
    Full,
    Ia3,
    Lora,
    Quantization,
    Virtual,
)
from lorry_trainer.recipe.objective import Preference, Reinforcement
from lorry_trainer.recipe.search import Search
from lorry_trainer.recipe.section import Section
from lorry_trainer.recipe.training import Training

# section -> the methods that it is for
SECTIONS: dict[str, tuple[str, ...]] = {
    "virtual": ("prefix_tuning", "prompt_tuning", "p_tuning"),
    "ia3": ("ia3",),
    "bottleneck": ("bottleneck",),
    "full": ("full",),
}
# section -> the objectives that it is for
OBJECTIVE_SECTIONS: dict[str, tuple[str, ...]] = {
    "preference": ("dpo", "kto", "orpo"),
    "reinforcement": ("grpo", "rloo"),
}
# methods that train a LoRA, or end in one; to all others `lora` says nothing
FACTORS = ("lora", "qlora", "rslora", "dora", "lora_plus", "pissa", "loftq", "full")
LORAS = tuple(
    method for method in FACTORS if method != "full"
)  # what trains the factors themselves
_FACTORS_ALONE = ("full", "pissa")  # all that they publish
# Nor have these a head, or none that is served.
_WITHOUT_HEAD = (*_FACTORS_ALONE, "bottleneck", *SECTIONS["virtual"])
_PROMPTS = ("prompt_tuning", "p_tuning")  # virtual tokens in the row itself
_JUDGES = ("classification", "tokens", "extraction", "reward")  # with a head of their own
# objectives whose model answers in its own words
FREE = ("sft", "dpo", "kto", "orpo", "grpo", "rloo")
_EARNS = OBJECTIVE_SECTIONS["reinforcement"]
_OTHERS = ("sft", *_JUDGES, *OBJECTIVE_SECTIONS["preference"])
_WITHOUT_REFERENCE = ("sft", *_JUDGES, "orpo")
# key -> the objectives that it says anything to
_OBJECTIVES_OF: dict[str, tuple[str, ...]] = {
    "training.packing": ("sft",),
    # the rest have no lengths to go by, or an order of their own
    "training.group_by_length": ("sft", "classification", "tokens", "extraction"),
    "training.early_stopping_patience": _OTHERS,  # the rest have no validation loss
    # the rest hold the model against the bare base, and both would be disturbed, each in its own way
    "training.neftune_alpha": _WITHOUT_REFERENCE,
    "lora.dropout": (*_WITHOUT_REFERENCE, *_EARNS),
    "evaluation.shots": ("sft", *_EARNS),
    "evaluation.general": FREE,
    "evaluation.reward": FREE,
    "evaluation.max_new_tokens": FREE,
}
# key -> the methods that it says anything to
_METHODS_OF: dict[str, tuple[str, ...]] = {
    "lora.alpha": LORAS,  # `full` cuts its factors down from what was learnt
    "lora.dropout": LORAS,
    "lora.rslora": LORAS,
    # the rest start from other factors than DoRA's magnitudes are made for
    "lora.dora": tuple(m for m in LORAS if m not in ("pissa", "loftq")),
    "lora.learning_rate_ratio": LORAS,
    # the rest drop positions, so that packed rows would see each other
    "training.packing": tuple(m for m in HELD if m not in SECTIONS["virtual"]),
    "virtual.text": ("prompt_tuning",),
    "virtual.encoder_hidden_size": ("p_tuning", "prefix_tuning"),
}


class Recipe(Section):
    """One training run."""

    base: str = Field(
        default="lorry-tiny", min_length=1, description="A shipped base, a folder, or a hub id."
    )
    objective: Literal[
        "sft",
        "classification",
        "tokens",
        "extraction",
        "dpo",
        "kto",
        "orpo",
        "reward",
        "grpo",
        "rloo",
    ] = Field(
        default="sft",
        description="What is learnt. `sft`: to answer as the examples do. `classification`, `tokens`, `extraction`: a "
        "label for a text, a tag for each word, the piece that answers a question; with a new head on an encoder or "
        "(but for `extraction`) a decoder. `dpo`, `orpo`: which of two answers is better; `kto`: which ones are good. "
        "`reward`: a number for an answer, from preferences. `grpo`, `rloo`: to earn a reward.",
    )
    method: Literal[
        "lora",
        "qlora",
        "rslora",
        "dora",
        "lora_plus",
        "pissa",
        "loftq",
        "prefix_tuning",
        "prompt_tuning",
        "p_tuning",
        "ia3",
        "bottleneck",
        "full",
    ] = Field(
        default="qlora",
        description="`qlora`: LoRA on the base in 4 bits, as it will be served; `lora`: on full precision. `rslora`, "
        "`dora`, `lora_plus`: LoRA with that switched on. `pissa`: LoRA that starts from the weights' principal part; "
        "saved as plain LoRA of twice the rank. `loftq`: QLoRA that starts from what quantizing lost. `prefix_tuning`, "
        "`prompt_tuning`, `p_tuning`: virtual tokens. `ia3`: one factor per output. `bottleneck`: narrow layers "
        "after attention and MLP. `full`: the weights "
        "themselves, cut down to an adapter.",
    )
    description: str = Field(
        default="", description="One line about the task, for the model card and the registry."
    )
    lora: Lora = Field(default_factory=Lora, description="Size and place of the adapter.")
    virtual: Virtual | None = Field(
        default=None, description="The virtual tokens, where the method has any."
    )
    ia3: Ia3 | None = Field(default=None, description="Where (IA)³ sits.")
    bottleneck: Bottleneck | None = Field(
        default=None, description="Where bottleneck adapters sit, and their size."
    )
    full: Full | None = Field(default=None, description="What full fine-tuning trains and keeps.")
    preference: Preference | None = Field(
        default=None, description="How preferences are learnt, where the objective has any."
    )
    reinforcement: Reinforcement | None = Field(
        default=None, description="The reward, where the objective earns one."
    )
    quantization: Quantization | None = Field(
        default=None, description="How the base is held. Left out: as the method has it."
    )
    data: Data = Field(description="The examples.")
    training: Training = Field(default_factory=Training, description="The optimizer's course.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="The held-out score.")
    require: dict[Metric, Requirement] = Field(
        default_factory=dict,
        description="Figure on the test rows → `min`, `max`, `above_base`, `below_base`. Where one falls short, the "
        "version is published without the alias.",
    )
    search: Search | None = Field(
        default=None, description="Which keys `lorry search` may set, and to what."
    )
    output: str | None = Field(
        default=None,
        min_length=1,
        description="Folder to write, relative to where `lorry train` runs. Left out: `adapters/` and the recipe's "
        "name.",
    )

    @model_validator(mode="after")
    def _sections_fit_the_method(self) -> Self:
        held = HELD[self.method]
        if self.quantization is not None and self.quantization.type not in held:
            raise ValueError(
                f"`method: {self.method}` holds the base as {' or '.join(held)}, not {self.quantization.type}"
            )
        for section, methods in SECTIONS.items():
            if getattr(self, section) is not None and self.method not in methods:
                raise ValueError(
                    f"`{section}` belongs to {', '.join(methods)}, and the method is {self.method}"
                )
        return self

    @model_validator(mode="after")
    def _lora_is_what_is_trained(self) -> Self:
        if self.method not in FACTORS and self.lora != Lora():
            raise ValueError(
                f"`lora` belongs to {', '.join(FACTORS)}, and the method is {self.method}"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit_the_objective(self) -> Self:
        for section, objectives in OBJECTIVE_SECTIONS.items():
            if getattr(self, section) is not None and self.objective not in objectives:
                raise ValueError(
                    f"`{section}` belongs to {', '.join(objectives)}, and the objective is {self.objective}"
                )
        if self.objective in OBJECTIVE_SECTIONS["reinforcement"] and self.reinforcement is None:
            raise ValueError(f"`objective: {self.objective}` needs `reinforcement.reward`")
        if self.lora.modules_to_save and self.method in _FACTORS_ALONE:
            raise ValueError(
                f"`method: {self.method}` keeps factors alone, and `lora.modules_to_save` would be lost; use lora, "
                "qlora or one of their relatives"
            )
        if self.objective in _JUDGES and self.method in _WITHOUT_HEAD:
            raise ValueError(
                f"`method: {self.method}` publishes no head, and `objective: {self.objective}` has one to keep; use "
                f"{', '.join(m for m in HELD if m not in _WITHOUT_HEAD)}"
            )
        if self.objective in _EARNS and self.method in _PROMPTS:
            raise ValueError(
                f"`objective: {self.objective}` samples answers to several prompts at once, and with `method: "
                f"{self.method}` padding would stand between its tokens and a prompt; use prefix_tuning, or lora"
            )
        if self.objective == "orpo" and self.method in _PROMPTS:
            # TRL labels each place of a row, and these add places.
            raise ValueError(
                f"`objective: orpo` has no labels for the tokens that `method: {self.method}` adds; use prefix_tuning, "
                "which adds none to the row, or dpo"
            )
        return self

    @model_validator(mode="after")
    def _keys_say_something(self) -> Self:
        for kind, own, table in (
            ("objective", self.objective, _OBJECTIVES_OF),
            ("method", self.method, _METHODS_OF),
        ):
            for key, kinds in table.items():
                section, _, name = key.partition(".")
                holder: Section | None = getattr(self, section)
                if own not in kinds and holder is not None and holder.asks(name):
                    raise ValueError(
                        f"`{key}` belongs to {', '.join(kinds)}, and the {kind} is {own}; leave it out"
                    )
        for switch in ("rslora", "dora"):
            if self.method == switch and getattr(self.lora, switch) is False:
                raise ValueError(f"`method: {switch}` is LoRA with `lora.{switch}`, which is false")
        if (
            self.objective in OBJECTIVE_SECTIONS["preference"]
            and self.evaluation.max_new_tokens
            and not self.evaluation.reward
        ):
            raise ValueError(
                f"`evaluation.max_new_tokens` is for answers, and `objective: {self.objective}` gives some only where "
                "`evaluation.reward` is given"
            )
        return self
