"""Write the circuit that copies into an untrained model, by hand.

Small models find out by themselves, after some millions of tokens, that what followed a word before
may follow it again. The circuit they build is known (an induction head: Olsson et al., 2022), and a
few weights hold it, so `lorry-tiny` starts with it and spends its training on using it:

    layer 0  each token attends to the one before it, and notes that token's identity;
    layer 1  each token attends to those that noted the identity it has itself, that is, to what
             followed its earlier occurrences, and makes their identity its prediction.

Without any training the model then continues a repeated run of random tokens with the right token
nineteen times in twenty. Everything else starts silent: what a layer adds is zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

ROPE_THETA = 500_000.0  # slow enough for layer 1 to find an identity hundreds of tokens back

# The hidden state's 256 places, as embeddings use them.
IDENTITY = 159  # 0..158: random, a token's identity
CONSTANT = 159  # the same for every token, for attention that looks at positions only
SPREAD = 0.05  # of an embedding's places
LEVEL = 0.1  # of the constant place

SLOWEST_FROM = 6  # rotary pairs from this one on turn by less than 4 degrees in ten tokens
SHARPNESS_OF_POSITION = 20.0  # how far the token before stands out, in units of an attention score
SHARPNESS_OF_MATCH = 40.0


@torch.no_grad()
def write_copying_circuit(model: LlamaForCausalLM) -> None:
    """Change the weights of an untrained `model` of lorry-tiny's shape in place."""
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    heads_per_group = config.num_attention_heads // config.num_key_value_heads
    half = head // 2  # rotary pairs are (i, i + half)
    frequencies = [ROPE_THETA ** (-pair / half) for pair in range(half)]
    slow = [*range(SLOWEST_FROM, half), *range(half + SLOWEST_FROM, head)]
    noted = config.hidden_size - config.num_key_value_heads * len(slow)  # notes stand from here on

    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(std=SPREAD)
    embeddings[:, CONSTANT] = LEVEL
    embeddings[:, noted:] = 0.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()

    # What a normalised hidden state holds: RMSNorm divides by the root of the mean square.
    rms = math.sqrt((SPREAD**2 * (noted - 1) + LEVEL**2) / config.hidden_size)
    constant, identity = LEVEL / rms, SPREAD / rms
    before, match = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    position = math.sqrt(SHARPNESS_OF_POSITION * math.sqrt(head)) / constant
    likeness = math.sqrt(SHARPNESS_OF_MATCH * math.sqrt(head) / len(slow)) / identity

    for group in range(config.num_key_value_heads):
        key, query = head * group, head * group * heads_per_group  # first row of each

        # Layer 0. A query turned back by one step meets the key of the token before head-on.
        for pair, frequency in enumerate(frequencies[:3]):  # the fast ones tell neighbours apart
            _only(before.k_proj, key + pair, CONSTANT, position)
            _only(before.q_proj, query + pair, CONSTANT, position * math.cos(frequency))
            _only(before.q_proj, query + pair + half, CONSTANT, -position * math.sin(frequency))
        for place, slot in enumerate(slow):
            read = len(slow) * group + place  # each group takes its own part of the identity
            _only(before.v_proj, key + place, read, 0.2)
            before.o_proj.weight[noted + read, query + place] = 0.2

            # Layer 1. A note is like an identity exactly where the same token stood before.
            _only(match.k_proj, key + slot, noted + read, likeness)
            _only(match.q_proj, query + slot, read, likeness)

        # What is found outweighs what the token at hand says about itself by about five.
        for place in range(head):
            _only(match.v_proj, key + place, key + place, 0.5)
            match.o_proj.weight[key + place, query + place] = 0.5


def circuit_parameters(model: LlamaForCausalLM) -> list[torch.nn.Parameter]:
    """The parameters that hold the circuit, or that could drown it before it is read."""
    layers = model.model.layers
    parts = (model.model.embed_tokens, layers[0], layers[1].input_layernorm, layers[1].self_attn)
    return [parameter for part in parts for parameter in part.parameters()]


def _only(layer: torch.nn.Linear, output: int, place: int, weight: float) -> None:
    """Let one output depend on one place of the hidden state."""
    layer.weight[output] = 0.0
    layer.weight[output, place] = weight
