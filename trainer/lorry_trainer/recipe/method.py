"""The sections that say how: what is put on the base, and how the base is held meanwhile."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lorry_trainer.recipe.section import Section


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
    modules_to_save: tuple[str, ...] = Field(
        default=(),
        description="Modules that are learnt whole and published beside the factors, such as `[embed_tokens]` for "
        "words that the base does not know: embeddings, norms and the output head, which are never quantized. A new "
        "head is learnt whole anyway.",
    )
    rslora: bool | None = Field(
        default=None,
        description="Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA). Left out: with `method: rslora` only.",
    )
    dora: bool | None = Field(
        default=None,
        description="Learn each output's magnitude apart from its direction (DoRA); slower. Left out: with `method: "
        "dora` only.",
    )
    learning_rate_ratio: float | None = Field(
        default=None,
        ge=1,
        description="Learning rate of B over that of A (LoRA+). Left out: 16 with `method: lora_plus`, 1 otherwise.",
    )


class Virtual(Section):
    """With `prefix_tuning`, `prompt_tuning` and `p_tuning`: tokens that exist as vectors only, before every prompt."""

    tokens: int = Field(
        default=20, ge=1, le=4096, description="How many; the context has room for so many less."
    )
    text: str | None = Field(
        default=None,
        min_length=1,
        description="`prompt_tuning` starts from this text's own tokens, over and over. Left out: from a choice of the "
        "vocabulary's.",
    )
    encoder_hidden_size: int | None = Field(
        default=None,
        ge=1,
        description="Width of the network that makes the vectors while they are learnt: `p_tuning` has one, "
        "`prefix_tuning` only where this is given. Left out: the base's own for p_tuning, and none for prefix_tuning.",
    )


class Ia3(Section):
    """With `method: ia3`: one learnt factor for each output, or each input of a feed-forward layer."""

    target_modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Layers to rescale. Left out: PEFT's choice for the base's family.",
    )
    feedforward_modules: tuple[str, ...] | None = Field(
        default=None,
        description="Those among them whose inputs are rescaled. Left out: PEFT's choice for the base's family.",
    )


class Bottleneck(Section):
    """With `method: bottleneck`: a narrow pair of layers after the projections that end attention and MLP."""

    placement: Literal["houlsby", "pfeiffer"] = Field(
        default="houlsby",
        description="`houlsby`: after attention and after the MLP of each layer. `pfeiffer`: after the MLP.",
    )
    size: int = Field(
        default=16, ge=1, le=4096, description="Width between the two; more can hold more."
    )
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(
        default="relu", description="What stands between the two."
    )
    scaling: float = Field(default=1.0, gt=0, description="What is added is multiplied by it.")
    target_modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Layers to stand after, such as `[o_proj, down_proj]`. Left out: found by their names in the "
        "families of transformers.",
    )


class Full(Section):
    """With `method: full`: the weights themselves are trained; what they became less what they were is cut down to an
    adapter of `lora.rank`, on `lora.target_modules`."""

    weights: Literal["all", "linear"] = Field(
        default="linear",
        description="What is trained: the target modules, which an adapter can express, or `all`: embeddings, norms, "
        "head too, whose change no adapter holds and which is reported as lost.",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="Folder for the whole trained model, relative to where `lorry train` runs.",
    )


class Quantization(Section):
    """How the base is held while it is trained on."""

    type: Literal["nf4", "none"] = Field(
        default="nf4",
        description="4-bit NormalFloat in blocks of 64, as it is served; or `none`, full precision.",
    )
    double: bool = Field(
        default=True, description="Quantize the scales too: about 0.4 bit per weight less."
    )

    @model_validator(mode="after")
    def _scales_are_there(self) -> Self:
        if self.type == "none" and not self.double:
            raise ValueError(
                "`double` is about the scales of nf4, and the type is none; leave it out"
            )
        return self


# method -> how it can hold the base, the default first. nf4 where nothing speaks against it: that is what is served.
HELD: dict[str, tuple[Literal["nf4", "none"], ...]] = {
    "lora": ("none",),
    "qlora": ("nf4",),
    "rslora": ("nf4", "none"),
    "dora": ("nf4", "none"),
    "lora_plus": ("nf4", "none"),
    "pissa": ("none",),  # its principal part is taken out of the weights
    "loftq": ("nf4",),  # it starts from what quantizing loses
    "prefix_tuning": ("nf4", "none"),
    "prompt_tuning": ("nf4", "none"),
    "p_tuning": ("nf4", "none"),
    "ia3": ("nf4", "none"),
    "bottleneck": ("nf4", "none"),
    "full": ("none",),
}
