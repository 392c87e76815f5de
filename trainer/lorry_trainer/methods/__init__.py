"""Methods: how the base is held and what is learnt on it. A class in a family's file and a line in `METHODS` each.

Imports peft, so it is imported only when training is about to start.
"""

from __future__ import annotations

from lorry_trainer.methods.bottleneck import Bottleneck
from lorry_trainer.methods.contract import Method
from lorry_trainer.methods.full import Full
from lorry_trainer.methods.ia3 import Ia3
from lorry_trainer.methods.loftq import LoftQ
from lorry_trainer.methods.lora import Lora
from lorry_trainer.methods.pissa import Pissa
from lorry_trainer.methods.virtual import PrefixTuning, PromptTuning, PTuning

METHODS: dict[str, Method] = {
    "lora": Lora(),
    "qlora": Lora(),
    "rslora": Lora(rslora=True),
    "dora": Lora(dora=True),
    "lora_plus": Lora(learning_rate_ratio=16.0),
    "pissa": Pissa(),
    "loftq": LoftQ(),
    "prefix_tuning": PrefixTuning(),
    "prompt_tuning": PromptTuning(),
    "p_tuning": PTuning(),
    "ia3": Ia3(),
    "bottleneck": Bottleneck(),
    "full": Full(),
}
