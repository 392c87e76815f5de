"""The section that says how long and how hard."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lorry_trainer.recipe.section import Section, Share


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
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Peak learning rate. Left out: 2e-4 for a base 4096 wide, more for a narrower one and less for a "
        "wider one, by the root of the width.",
    )
    schedule: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
    ] = Field(default="cosine", description="Course of the learning rate after the warm-up.")
    warmup_ratio: Share = Field(
        default=0.05, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's weight decay.")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="Gradients are clipped to this norm."
    )
    neftune_alpha: float | None = Field(
        default=None,
        gt=0,
        description="Noise on the embeddings in training (NEFTune), against overfitting; 5 is usual.",
    )
    packing: bool = Field(
        default=False,
        description="Put several rows into one of `data.max_length` tokens, none seeing the others: no padding.",
    )
    group_by_length: bool = Field(
        default=False,
        description="Put rows of like length into a batch: less padding, less mixing.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Measure the validation loss, and keep a checkpoint, every so many steps. Left out: ten times "
        "in the run.",
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
        lt=2**32,  # as NumPy has it
        description="Decides the split, the first weights and the order of the rows.",
    )
    processes: int | None = Field(
        default=None,
        ge=1,
        description="Processes that train together, each on `batch_size` rows of a pass: what a launcher must start. "
        "Left out: as many as it has started.",
    )
    tensorboard: str | None = Field(
        default=None,
        min_length=1,
        description="Folder for TensorBoard's logs, relative to where `lorry train` runs.",
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

    @model_validator(mode="after")
    def _warm_up_is_followed(self) -> Self:
        if self.schedule == "constant" and self.asks("warmup_ratio"):
            raise ValueError(
                "`schedule: constant` has no warm-up; take constant_with_warmup, or leave `warmup_ratio` out"
            )
        return self
