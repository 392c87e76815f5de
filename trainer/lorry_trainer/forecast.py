"""What a run will be, without running it: rows, steps, and memory on the device.

Weights, gradients and the optimizer's state are counted on the loaded base with its adapter on; activations are
estimated after Korthikanti et al. (arXiv 2205.05198): 34 bytes per token, layer and hidden unit in 16 bits, twice
that in 32, one input per layer where they are recomputed, and the logits of the tokens that are scored. On a CPU the
allocator holds more than is in use, about twice as much where MALLOC_MMAP_THRESHOLD_ is not set.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch.nn import Dropout

from lorry_bases.shapes import bytes_per_parameter
from lorry_trainer.prepare import Prepared

_ADAM_BYTES = 8  # two float32 moments per weight that is learnt
_WEIGHT_AND_GRADIENT_BYTES = 8  # float32 each


@dataclass(frozen=True)
class Forecast:
    train_rows: int
    validation_rows: int
    test_rows: int
    labels: int  # 0 where the answers are no labels
    longest_row_tokens: int
    train_tokens_per_epoch: int
    steps: int
    rows_per_step: int
    base_bytes: int
    base_bytes_per_parameter: float | None  # of the quantized layers, measured; None where none is
    learnt_parameters: int
    learnt_bytes: int  # with gradients and optimizer state
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.base_bytes + self.learnt_bytes + self.activation_bytes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total_bytes": self.total_bytes}


def forecast(run: Prepared, model: Any) -> Forecast:
    """`model` is the base's with the adapter on it."""
    recipe, training = run.recipe, run.recipe.training
    lengths = run.objective.lengths(run.base, run.data.train, recipe)
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    all_bytes = sum(p.nbytes for p in model.parameters())
    base_bytes = all_bytes - sum(p.nbytes for p in model.parameters() if p.requires_grad)
    quantized = recipe.quantization is not None and recipe.quantization.type == "nf4"
    return Forecast(
        train_rows=len(run.data.train),
        validation_rows=len(run.data.validation),
        test_rows=len(run.data.test),
        labels=len(run.data.labels),
        longest_row_tokens=max(lengths),
        train_tokens_per_epoch=sum(lengths),
        steps=run.resolved.total_steps,
        rows_per_step=training.batch_size
        * training.gradient_accumulation
        * (training.processes or 1),
        base_bytes=base_bytes,
        base_bytes_per_parameter=bytes_per_parameter(run.base.model) if quantized else None,
        learnt_parameters=learnt,
        learnt_bytes=learnt * (_WEIGHT_AND_GRADIENT_BYTES + _ADAM_BYTES),
        activation_bytes=_activation_bytes(run, model, max(lengths)),
    )


def _activation_bytes(run: Prepared, model: Any, longest: int) -> int:
    config = run.base.model.config.get_text_config()
    training = run.recipe.training
    width = 2 if training.device == "cuda" else 4  # bytes of a number
    longest = run.recipe.data.max_length or longest if training.packing else longest
    tokens = training.batch_size * run.objective.sequences * longest
    whole_layer = tokens * config.hidden_size * 17 * width
    if training.gradient_checkpointing:
        layers = config.num_hidden_layers * tokens * config.hidden_size * width + whole_layer
    else:
        layers = config.num_hidden_layers * whole_layer + tokens * _dropped(model) * (width + 1)
    outputs = config.vocab_size if run.objective.task == "CAUSAL_LM" else config.num_labels
    logits = 2 * 4 * tokens * outputs  # float32, and their gradient
    return int(layers + logits)


def _dropped(model: Any) -> int:
    """Numbers per token that adapters' dropout keeps a copy of, with a mask: their inputs."""
    return sum(
        module.in_features
        for module in model.modules()
        if any(isinstance(part, Dropout) for part in getattr(module, "lora_dropout", {}).values())
    )
