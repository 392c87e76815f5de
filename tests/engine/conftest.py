"""What the engine's tests share: the folders of random bases.

torch is imported only where it is needed: the tests of what decides run without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .rig import Rig


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a base by its name in `bases.CONFIGS`, saved once; or of a shipped one."""
    from lorry_bases import resolve

    from .bases import CONFIGS, random_model

    root, saved = tmp_path_factory.mktemp("bases"), dict[str, Path]()

    def folder(name: str) -> Path:
        if name not in saved:
            if name in CONFIGS:
                random_model(CONFIGS[name]).save_pretrained(root / name)
                saved[name] = root / name
            else:
                saved[name] = Path(resolve(name))
        return saved[name]

    return folder


@pytest.fixture(scope="session")
def adapters(
    base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Four adapters for the base `llama`: `a` to `d`, of ranks 4 to 32."""
    from .bases import save_adapter

    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(
            base_folder("llama"), root / name, seed=i, r=4 << i, target_modules="all-linear"
        )
        for i, name in enumerate("abcd")
    }


@pytest.fixture
def make_rig(base_folder: Callable[[str], Path], adapters: dict[str, Path]) -> Callable[..., Rig]:
    """Makes engines on the base `llama` with those adapters, each on a copy of its own: an engine keeps its model."""
    from lorry_bases.load import load_base

    from .rig import Rig

    def make(**config: Any) -> Rig:
        return Rig(load_base(str(base_folder("llama")), device="cpu"), adapters, **config)

    return make
