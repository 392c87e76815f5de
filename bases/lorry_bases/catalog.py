"""Find the folder of a base, from the name that a user gave.

Three kinds of name, tried in this order: a base that Lorry ships, a folder, a repository on the
Hugging Face hub.

Knows nothing about quantization, and opens no weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from lorry_bases.weights import weight_files

DEFAULT_BASE = "lorry-tiny"

_SHIPPED = Path(__file__).parent
_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# No code and no pickle: what executes on loading is never fetched. Top level only, where
# transformers looks.
_FETCHED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
]
_NOT_FETCHED = ["*/*"]


class BaseNotFound(LookupError):
    """No usable base under that name. The message names the value, the rule and the way out."""


def shipped() -> list[str]:
    """Names of the bases that come with Lorry."""
    return sorted(folder.parent.name for folder in _SHIPPED.glob("*/config.json"))


def resolve(base: str) -> Path:
    """The folder of `base`: a shipped name, a folder, or a hub id `org/name[@revision]`.

    A shipped name wins over a folder of the same name (`./name` is always the folder), and a folder
    wins over the hub. A hub id is downloaded once and then found in the hub's own cache, also
    without a network.
    Raises BaseNotFound unless the folder holds a `config.json` and safetensors weights.
    """
    if base in shipped():
        return _SHIPPED / base
    folder = Path(base).expanduser()
    if folder.is_dir() and base:
        return _checked(folder.resolve(), base)
    if folder.is_file():
        raise BaseNotFound(
            f"base {base!r} is a file; name the folder that holds config.json and the weights"
        )
    if base.startswith((".", "/", "~")):
        raise BaseNotFound(
            f"base {base!r} looks like a folder, and there is none at {folder.absolute()}"
        )
    if hub_id := _HUB_ID.fullmatch(base):
        return _checked(_from_hub(base, hub_id["repository"], hub_id["revision"]), base)
    raise BaseNotFound(
        f"base {base!r} is not one that Lorry ships ({', '.join(shipped())}), not a folder, "
        "and not a hub id like Qwen/Qwen2.5-0.5B-Instruct or org/name@revision"
    )


def _checked(folder: Path, base: str) -> Path:
    if not (folder / "config.json").is_file():
        raise BaseNotFound(
            f"base {base!r} has no config.json in {folder}; "
            "a base is a folder written by save_pretrained (an adapter's own folder is not one)"
        )
    try:
        weight_files(folder)
    except FileNotFoundError as error:
        raise BaseNotFound(
            f"base {base!r} cannot be used: {error}. Pickled weights (.bin, .pt) are never loaded; "
            "load the model where you trust it and write it with save_pretrained"
        ) from error
    return folder


def _from_hub(base: str, repository: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise BaseNotFound(
            f"base {base!r} looks like a hub id, and fetching it needs huggingface_hub: "
            "pip install 'lorry[server]', or give a folder"
        ) from error
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=_FETCHED,
                ignore_patterns=_NOT_FETCHED,
            )
        )
    except (
        OSError,
        ValueError,
    ) as error:  # every error of the hub and of the network below it is one of these
        reason = str(error).strip().partition("\n")[0]
        raise BaseNotFound(
            f"base {base!r} could not be fetched from the hub ({type(error).__name__}: {reason}). "
            "Check the name, the revision, the network and access (HF_TOKEN, HF_ENDPOINT), "
            "or give a folder instead"
        ) from error
