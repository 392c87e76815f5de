"""Which modules a configuration is for, as PEFT decides when it loads an adapter.

PEFT leaves out, with a warning at most, the tensors of a module that the configuration does not name. Here such a
file is refused: it would do less than its publisher thinks.
"""

import re
from itertools import pairwise

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.patterns import names_module

_FIRST_INDEX = re.compile(r".*?\.[^.]*\.(\d+)\.")


def is_targeted(config: AdapterConfig, module: str) -> bool:
    """Whether PEFT would put the adapter on `module`.

    Where `target_modules` or `exclude_modules` is one regular expression, it is not held against the module: the
    tensors already say which layers, and a stranger's expression is run only where its value is needed.
    """
    if names_module(config.exclude_modules, module):
        return False
    if config.target_modules is None or module in config.target_modules:
        return True
    if not names_module(config.target_modules, module):
        return False
    if not config.layers_to_transform:
        return True
    index = _layer_index(config, module)
    return index is not None and index in config.layers_to_transform


def _layer_index(config: AdapterConfig, module: str) -> int | None:
    if not config.layers_pattern:
        found = _FIRST_INDEX.match(module)
        return int(found[1]) if found else None
    # A layers_pattern is the name of the list that the layers are in: `layers`, `h`.
    parts = module.split(".")
    for name in config.layers_pattern:
        for part, following in pairwise(parts[:-1]):
            if part == name and following.isdecimal():
                return int(following)
    return None
