"""How each kind of adapter is read into what it adds to a base.

A kind is a module of this folder and one line in READERS; the registry has judged its files by the module of the same
name in `lorry_registry/checks/kinds/`. What any kind may bring besides (`modules_to_save`, rows of tokens) is read by
`saved`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lorry_registry.checks import AdapterFiles
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.kinds.bottleneck import read_bottleneck
from lorry_server.engine.adapters.kinds.ia3 import read_ia3
from lorry_server.engine.adapters.kinds.lora import read_lora
from lorry_server.engine.adapters.kinds.virtual import read_virtual
from lorry_server.engine.adapters.kinds.whole import read_whole
from lorry_server.engine.adapters.tensors import Tensors

Reader = Callable[[AdapterFiles, Tensors, BaseView, WeightsBuilder], None]

READERS: Mapping[str, Reader] = {
    "BOTTLENECK": read_bottleneck,
    "CARTRIDGE": read_virtual,
    "CPT": read_virtual,
    "IA3": read_ia3,
    "LN_TUNING": read_whole,
    "LORA": read_lora,
    "PREFIX_TUNING": read_virtual,
    "PROMPT_TUNING": read_virtual,
    "P_TUNING": read_virtual,
    "TRAINABLE_TOKENS": read_whole,
}
