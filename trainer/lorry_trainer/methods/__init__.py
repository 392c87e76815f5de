"""Methods: how the base is held and what is learnt on it. A class in a family's file and a line in `METHODS` each.

Imports peft, so it is imported only when training is about to start.
"""

from __future__ import annotations

from lorry_trainer.methods.contract import Method
from lorry_trainer.methods.lora import Lora, QLora

METHODS: dict[str, Method] = {"lora": Lora(), "qlora": QLora()}
