"""The recipe: what to train, on what, how, and how to score it. All its fields, their rules and their meaning.

A recipe is frozen, and an unknown key is an error. `None` (or `auto`) stands for a choice that `resolve` makes and
explains. `RECIPE.md` is made from the descriptions here. Knows nothing about files, torch or how training is done.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lora(Section):
    """The adapter that is trained: its size and where it sits."""

    rank: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Rank of the two factors; more can hold more, and costs more.",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        description="The delta is scaled by alpha / rank. Left out: twice the rank.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of an adapter's inputs that is dropped in training.",
    )
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        min_length=1,
        description="Layers to adapt: `all-linear` (every linear layer but the output head), or a list of names such "
        "as `[q_proj, v_proj]`.",
    )
    exclude_modules: tuple[str, ...] = Field(
        default=(), description="Layers to leave alone among the targets."
    )
    rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA)."
    )


class Quantization(Section):
    """How the base is held while it is trained on. With `method: qlora` only."""

    type: Literal["nf4"] = Field(
        default="nf4", description="4-bit NormalFloat; the only one so far."
    )
    double: bool = Field(
        default=True, description="Quantize the scales too: about 0.4 bit per weight less."
    )


class Columns(Section):
    """The names that the data uses, where they are not the names that a format expects."""

    instruction: str | None = Field(default=None, description="Column that holds what is asked.")
    context: str | None = Field(
        default=None, description="Column that holds what the instruction is about; may be absent."
    )
    output: str | None = Field(
        default=None, description="Column that holds the answer to an instruction."
    )
    messages: str | None = Field(
        default=None, description="Column that holds a list of chat messages."
    )
    prompt: str | None = Field(default=None, description="Column that holds a prompt.")
    completion: str | None = Field(
        default=None, description="Column that holds what follows a prompt."
    )
    text: str | None = Field(default=None, description="Column that holds plain text.")


class Splits(Section):
    """Shares of the rows that are held out, for each split that has no file of its own."""

    validation: Share = Field(
        default=0.1,
        description="Rows that steer training (early stopping) and are not learnt from.",
    )
    test: Share = Field(
        default=0.1, description="Rows for the score before and after; nothing else sees them."
    )

    @model_validator(mode="after")
    def _leave_some(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                "validation and test together leave no rows to train on; their sum must be below 1"
            )
        return self


class Data(Section):
    """The examples: JSON lines, JSON or CSV. A relative path starts at the recipe's folder."""

    path: str | None = Field(
        default=None, description="One file, split by `splits`. Either this or `train`."
    )
    train: str | None = Field(
        default=None,
        description="File of training rows, where other splits have files of their own.",
    )
    validation: str | None = Field(
        default=None,
        description="File of validation rows. Without it, a share of the training file.",
    )
    test: str | None = Field(
        default=None, description="File of test rows. Without it, a share of the training file."
    )
    format: Literal["auto", "instruction", "messages", "prompt_completion", "text"] = Field(
        default="auto",
        description="`instruction`: `instruction`, optional `context`, `output`, put into the base's chat template. "
        "`messages`: a chat; the assistant's words alone are learnt. `prompt_completion`: `prompt` and `completion`, "
        "plain text as it stands, or lists of messages. `text`: plain text, all of it learnt. `auto`: found from the "
        "columns.",
    )
    columns: Columns = Field(
        default_factory=Columns, description="Column names that differ from the format's."
    )
    system: str | None = Field(
        default=None,
        min_length=1,
        description="System message put before every chat that has none.",
    )
    template: str = Field(
        default="{instruction}\n\n{context}",
        description="How `instruction` rows become a user's message. Blank space left by an empty context is removed.",
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="Longest row in tokens; a longer one is an error. Left out: what the base can take.",
    )
    splits: Splits = Field(default_factory=Splits, description="Shares of held-out rows.")
    max_rows: int | None = Field(
        default=None, ge=1, description="Use the first so many rows of the training file only."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError(
                "name the file of rows with `path` or with `train`, exactly one of the two"
            )
        if "{instruction}" not in self.template:
            raise ValueError("`template` must contain {instruction}")
        return self


class Training(Section):
    """How long and how hard."""

    epochs: float | None = Field(
        default=None, gt=0, description="Passes over the training rows. Left out: 3."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps, instead of `epochs`."
    )
    batch_size: int = Field(default=16, ge=1, description="Rows per forward pass.")
    gradient_accumulation: int = Field(
        default=1, ge=1, description="Forward passes per optimizer step."
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="Peak learning rate.")
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        default="cosine", description="Course of the learning rate after the warm-up."
    )
    warmup_ratio: Share = Field(
        default=0.05, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's weight decay.")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="Gradients are clipped to this norm."
    )
    group_by_length: bool = Field(
        default=False,
        description="Put rows of like length into a batch: less padding, less mixing.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Measure the validation loss every so many steps. Left out: ten times in the run.",
    )
    early_stopping_patience: int = Field(
        default=3,
        ge=0,
        description="Stop after so many measurements without a better validation loss, and keep the best adapter. "
        "0: train to the end and keep the last one.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Decides the split, the first weights and the order of the rows.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`auto`: CUDA where there is one."
    )
    optimizer: Literal[
        "auto", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "paged_adamw_32bit"
    ] = Field(
        default="auto",
        description="`auto`: `adamw_torch_fused`, or with qlora on CUDA `paged_adamw_32bit`, whose state moves to host "
        "memory when the device runs out.",
    )
    gradient_checkpointing: bool | None = Field(
        default=None, description="Recompute activations to save memory. Left out: on CUDA only."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give `epochs` or `max_steps`, not both")
        return self


class Evaluation(Section):
    """The score on the test rows, for the bare base and then for the adapter, from the same prompts."""

    metric: Literal["exact_match", "token_f1"] = Field(
        default="exact_match", description="The figure that is shown first."
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest answer in tokens. Left out: a quarter more than the longest expected answer.",
    )
    max_rows: int = Field(
        default=200, ge=1, description="Score at most so many test rows, a seeded choice."
    )
    batch_size: int = Field(default=32, ge=1, description="Prompts answered at a time.")


class Recipe(Section):
    """One training run."""

    base: str = Field(
        default="lorry-tiny", min_length=1, description="A shipped base, a folder, or a hub id."
    )
    objective: Literal["sft"] = Field(
        default="sft", description="What is learnt. `sft`: to answer as the examples do."
    )
    method: Literal["lora", "qlora"] = Field(
        default="qlora",
        description="`qlora`: the base in 4 bits, as it will be served. `lora`: the base in full precision.",
    )
    description: str = Field(
        default="", description="One line about the task, for the model card and the registry."
    )
    lora: Lora = Field(default_factory=Lora, description="Size and place of the adapter.")
    quantization: Quantization | None = Field(
        default=None, description="How qlora holds the base. Left out: nf4, double."
    )
    data: Data = Field(description="The examples.")
    training: Training = Field(default_factory=Training, description="The optimizer's course.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="The held-out score.")
    output: str | None = Field(
        default=None,
        min_length=1,
        description="Folder to write, relative to where `lorry train` runs. Left out: `adapters/` and the recipe's "
        "name.",
    )

    @model_validator(mode="after")
    def _quantization_is_for_qlora(self) -> Self:
        if self.method == "lora" and self.quantization is not None:
            raise ValueError(
                "`quantization` belongs to `method: qlora`; `method: lora` trains on the full weights"
            )
        return self
