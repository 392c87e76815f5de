"""Does the packed forward pass say what the model itself says? Asked once, of every base, at start.

What a decoder says is the logits after its last token; an encoder, the states of all of them, and what its head makes
of those.

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
from lorry_server.engine.block_manager import Memory
from lorry_server.engine.plan import Chunk
from lorry_server.engine.probe import AttendingLayer, attending_layers
from lorry_server.engine.request import GenerationRequest
from lorry_server.engine.sequence import Sequence

TOLERANCE = 0.05  # relative, L2: what 16-bit kernels may differ by; a wrong mask is off by far more
LENGTHS = (9, 6)  # tokens
# Tokens of each sequence in each step.
CHUNKED = ((5, 6), (3, 0), (1, 0))  # chunked, packed, decoded
WHOLE = (LENGTHS,)
SERVED_LAYERS = {"full_attention", "sliding_attention"}  # as transformers' configurations call them


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a model says of a few tokens, by itself."""

    architecture: str
    token_ids: tuple[tuple[int, ...], ...]
    said: tuple[torch.Tensor, ...]  # of each sequence, a vector


@torch.inference_mode()
def expect(model: PreTrainedModel, says: Callable[[torch.Tensor], torch.Tensor]) -> Expectation:
    """Runs the untouched model. `says` tells what it says, as a vector, of token ids [1, num_tokens]."""
    vocab_size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocab_size, (1, n), generator=generator) for n in LENGTHS]
    said = tuple(says(row.to(model.device)).float() for row in rows)
    return Expectation(type(model).__name__, tuple(tuple(row[0].tolist()) for row in rows), said)


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
    asking: Callable[[str, tuple[int, ...]], GenerationRequest],
    says: Callable[[Items[Chunk]], Items[torch.Tensor] | torch.Tensor],
    memory: Memory,
    steps: Items[tuple[int, ...]],
) -> None:
    """Holds a forward pass over chunks against what the model itself says.

    Args:
        asking: makes a request, with its id, that wants what the model says of token ids.
        says: one vector for each chunk that brings what was asked, in their order.
        steps: tokens of each sequence in each step.

    Raises FailedPrecondition where they differ.
    """
    sequences = [
        Sequence(asking(str(i), ids), 0.0, list(ids)) for i, ids in enumerate(expected.token_ids)
    ]
    last: dict[int, torch.Tensor] = {}
    for counts in steps:
        chunks = [
            Chunk(sequence, count, slot=None)
            for sequence, count in zip(sequences, counts, strict=True)
            if count
        ]
        for chunk in chunks:
            if not memory.can_allocate(chunk.sequence, chunk.num_tokens):
                raise _no_room(memory)
            memory.allocate(chunk.sequence, chunk.num_tokens)
        asked = [sequences.index(chunk.sequence) for chunk in chunks if chunk.yields]
        try:
            last.update(zip(asked, says(chunks), strict=True))
        except Exception as error:
            raise _refused(
                expected.architecture, f"its forward pass fails ({type(error).__name__}: {error})"
            ) from error
        for chunk in chunks:
            chunk.sequence.num_computed_tokens += chunk.num_tokens
    for sequence in sequences:
        memory.free(sequence)
    for i, said in enumerate(expected.said):
        off = ((last[i].float() - said).norm() / said.norm().clamp(min=1e-9)).item()
        if not off <= TOLERANCE:  # NaN is off too
            raise _refused(
                expected.architecture,
                f"packed, what it says is off by {off:.2g} (at most {TOLERANCE} is right)",
            )


def _no_room(memory: Memory) -> InvalidArgument:
    return InvalidArgument(
        f"The KV memory holds {memory.num_blocks} blocks of {memory.most_tokens // memory.num_blocks} tokens, too few "
        "for two short prompts; give it more.",
        reason="BAD_ENGINE_CONFIG",
        field="kv_blocks",
        value=memory.num_blocks,
    )


def _refused(architecture: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{architecture} cannot be served: {why}. Lorry serves attention-only decoders and encoders; choose another "
        "base.",
        reason="BASE_NOT_SERVABLE",
        architecture=architecture,
    )
