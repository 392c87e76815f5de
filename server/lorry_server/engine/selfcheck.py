"""Does the packed, paged forward pass say what the model itself says? Asked once, of every base, at start.

A model that keeps state outside attention (a state-space hybrid), or attends in a way that `paged_attention` does not
know, would serve wrong text without a word. It is refused here, by name: by what its configuration says of its layers,
by which of them attend at all, and by what comes out. The last alone would not do, for with the small random weights of
a fresh model a layer may hardly matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.engine.block_manager import BlockManager
from lorry_server.engine.plan import Chunk
from lorry_server.engine.probe import AttendingLayer, attending_layers
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.engine.sequence import Sequence

TOLERANCE = 0.05  # relative, L2: what 16-bit kernels may differ by; a wrong mask is off by far more
LENGTHS = (9, 6)  # tokens
STEPS = ((5, 6), (3, 0), (1, 0))  # tokens of each sequence in each step: chunked, packed, decoded
SERVED_LAYERS = {"full_attention", "sliding_attention"}  # as transformers' configurations call them


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a model says of a few tokens, by itself."""

    architecture: str
    token_ids: tuple[tuple[int, ...], ...]
    logits: tuple[torch.Tensor, ...]  # after the last token of each sequence, [vocab_size]


@torch.inference_mode()
def expect(model: PreTrainedModel) -> Expectation:
    """Runs the untouched model."""
    vocab_size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocab_size, (1, n), generator=generator) for n in LENGTHS]
    logits = tuple(
        model(row.to(model.device), use_cache=False).logits[0, -1].float() for row in rows
    )
    return Expectation(type(model).__name__, tuple(tuple(row[0].tolist()) for row in rows), logits)


def served_layers(model: PreTrainedModel) -> Mapping[int, AttendingLayer]:
    """How each layer attends. Raises FailedPrecondition where one does more, or less, than that."""
    try:
        attending = attending_layers(model)
    except Exception as error:  # a model's own code
        raise _refused(
            type(model).__name__,
            f"it does not run through transformers' attention interface ({type(error).__name__}: {error})",
        ) from error
    config = model.config.get_text_config()
    types = getattr(config, "layer_types", None) or ()
    others = {*types} - SERVED_LAYERS
    if others:
        raise _refused(type(model).__name__, f"it has layers of {' and '.join(sorted(others))}")
    count = config.num_hidden_layers
    if len(attending) < count:
        raise _refused(
            type(model).__name__,
            f"{count - len(attending)} of its {count} layers do not attend through transformers' attention interface",
        )
    for index, layer in attending.items():
        if layer.unknown:
            raise _refused(
                type(model).__name__,
                f"its layer {index} attends with {' and '.join(sorted(layer.unknown))}",
            )
        if index < len(types) and types[index] == "sliding_attention" and layer.window is None:
            # Its mask alone has the window, and prompts that are longer than a window would take long to try.
            raise _refused(
                type(model).__name__, f"its layer {index} does not tell attention how far it looks"
            )
    return attending


def verify(
    expected: Expectation,
    forward: Callable[[Items[Chunk]], torch.Tensor],
    blocks: BlockManager,
) -> None:
    """Holds a paged forward (chunks → logits of those that sample, in their order) against the model's own.

    Raises FailedPrecondition where they differ.
    """
    if sum(map(blocks.blocks_for, LENGTHS)) > blocks.num_blocks:
        raise InvalidArgument(
            f"The KV memory holds {blocks.num_blocks} blocks of {blocks.block_size} tokens, too few for two short "
            "prompts; give it more.",
            reason="BAD_ENGINE_CONFIG",
            field="kv_blocks",
            value=blocks.num_blocks,
        )
    params = SamplingParams(max_tokens=1)
    sequences = [
        Sequence(GenerationRequest(str(i), ids, params), 0.0, list(ids))
        for i, ids in enumerate(expected.token_ids)
    ]
    last: dict[int, torch.Tensor] = {}
    for counts in STEPS:
        chunks = [
            Chunk(sequence, count, slot=None)
            for sequence, count in zip(sequences, counts, strict=True)
            if count
        ]
        for chunk in chunks:
            blocks.allocate(chunk.sequence, chunk.num_tokens)
        sampled = [sequences.index(chunk.sequence) for chunk in chunks if chunk.samples]
        try:
            last.update(zip(sampled, forward(chunks), strict=True))
        except Exception as error:
            raise _refused(
                expected.architecture, f"its forward pass fails ({type(error).__name__}: {error})"
            ) from error
        for chunk in chunks:
            chunk.sequence.num_computed_tokens += chunk.num_tokens
    for sequence in sequences:
        blocks.free(sequence)
    for i, logits in enumerate(expected.logits):
        off = ((last[i].float() - logits).norm() / logits.norm().clamp(min=1e-9)).item()
        if not off <= TOLERANCE:  # NaN is off too
            raise _refused(
                expected.architecture,
                f"packed and paged, its logits are off by {off:.2g} (at most {TOLERANCE} is right)",
            )


def _refused(architecture: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{architecture} cannot be served: {why}. Lorry serves attention-only decoders; choose another base.",
        reason="BASE_NOT_SERVABLE",
        architecture=architecture,
    )
