"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorry_trainer.errors import OutputError

MARK = "adapter_config.json"  # what makes a folder one that we may replace


def refuse_taken(target: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless `target` can be written: before training, not after it."""
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise OutputError(
            f"{target} exists; choose another --output, or replace it with --overwrite"
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / MARK).is_file()):
        raise OutputError(
            f"{target} is not an adapter folder, so --overwrite leaves it alone; choose another --output"
        )


@contextmanager
def appearing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder beside `target`, which takes its place when the block ends well and is gone when it does not."""
    refuse_taken(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        partial.mkdir()
    except OSError as error:
        raise OutputError(f"cannot write beside {target}: {error.strerror}") from error
    try:
        yield partial
        readable = (
            partial.stat().st_mode & 0o666
        )  # as the umask has it; safetensors makes its files private
        for file in partial.iterdir():
            file.chmod(readable)
        _replace(partial, target, overwrite=overwrite)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, target: Path, *, overwrite: bool) -> None:
    refuse_taken(target, overwrite=overwrite)  # someone else may have been faster
    old = partial.with_suffix(".old")
    if target.exists():
        os.rename(target, old)
    os.rename(partial, target)
    shutil.rmtree(old, ignore_errors=True)
