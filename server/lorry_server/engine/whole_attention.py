"""Attention within whole texts: every token of one looks at all of it, before and after, and at no other text.

Plugged into transformers as `attention.py` is, over the same packed row of tokens; no key is kept.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

import torch
from torch import nn

from lorry_server.engine.attention import Scoring, attend_grouped


class WholeAttention:
    """The attention of one model's layers, over the texts of the step at hand."""

    def __init__(self) -> None:
        self._texts: Items[slice] = ()
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def over(self, texts: Items[slice]) -> None:
        """Sets where the texts stand in the next step's row."""
        self._texts = texts
        self._masks = {}

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,  # [1, heads, num_tokens, key_dim]
        key: torch.Tensor,  # [1, kv_heads, num_tokens, key_dim]
        value: torch.Tensor,  # [1, kv_heads, num_tokens, value_dim]
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,  # [heads]: attention sinks
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Returns ([1, num_tokens, heads, value_dim], None)."""
        q = query[0].transpose(0, 1)  # [num_tokens, heads, key_dim]
        score = Scoring(q.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
        out = torch.empty(*q.shape[:2], value.shape[-1], dtype=q.dtype, device=q.device)
        for text in self._texts:
            mask = self._mask(text.stop - text.start, sliding_window, q.device)
            out[text] = attend_grouped(q[text], key[0, :, text], value[0, :, text], mask, score)
        return out[None], None

    def _mask(self, length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """[length, length], true where a token may look: so far before itself, and as far after. None: everywhere."""
        if window is None or length <= window:
            return None
        mask = self._masks.get((length, window))
        if mask is None:
            places = torch.arange(length, device=device)
            mask = (places[:, None] - places).abs() < window
            self._masks[length, window] = mask
        return mask
