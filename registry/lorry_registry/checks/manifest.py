"""Which files a version may consist of, judged by their names, digests and sizes alone."""

import re
from collections.abc import Sequence

from lorry_registry.blobs import MAX_BLOB_BYTES
from lorry_registry.checks.adapter_config import MAX_CONFIG_BYTES, invalid_config
from lorry_registry.checks.labels import LABELS_FILE, check_size
from lorry_registry.digests import parse_digest
from lorry_registry.entities import File
from lorry_registry.errors import InvalidArgument
from lorry_registry.limits import MAX_MEDIA_TYPE_CHARACTERS, check_text

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_FILES = 256

# One folder deep, and a name on every file system: no separators, control characters, drive letters or hidden
# files.
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=@-]{0,199}")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check_manifest(files: Sequence[File]) -> None:
    """Raises InvalidArgument naming the file that must not be there, or the one that is missing."""
    if len(files) > MAX_FILES:
        raise InvalidArgument(
            f"the version has {len(files)} files, more than {MAX_FILES}: publish the adapter's alone",
            reason="MANIFEST_INVALID",
        )
    seen: set[str] = set()
    for file in files:
        _check_file(file)
        # Compared without case: on some systems the two would be one file when pulled.
        if file.path.casefold() in seen:
            raise _bad_file(
                file, "MANIFEST_INVALID", "stands in the manifest twice: name each file once"
            )
        seen.add(file.path.casefold())
    paths = {file.path for file in files}
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in paths:
            raise InvalidArgument(
                f"{name} is missing: publish a folder that PEFT's save_pretrained wrote",
                reason="FILE_MISSING",
                path=name,
            )


def _check_file(file: File) -> None:
    if not _PATH.fullmatch(file.path):
        raise _bad_file(
            file,
            "PATH_UNSAFE",
            "is no plain file name: use letters, digits and . _ - + = @, no folders",
        )
    name = file.path.casefold()
    if name.endswith(_PICKLES):
        raise _bad_file(
            file,
            "PICKLE_REFUSED",
            "may be a pickle, which can run code when it is read: leave it out, and save weights "
            "with safe_serialization=True",
        )
    if name.endswith(".safetensors") and file.path != WEIGHTS_FILE:
        raise _bad_file(
            file,
            "FILE_UNKNOWN",
            f"would have no effect: an adapter's tensors are all in {WEIGHTS_FILE}",
        )
    parse_digest(file.digest, what=f"the digest of {file.path}")
    check_text(file.media_type, f"the media type of {file.path}", MAX_MEDIA_TYPE_CHARACTERS)
    if not 0 <= file.size_bytes <= MAX_BLOB_BYTES:
        raise _bad_file(file, "MANIFEST_INVALID", f"has the size {file.size_bytes}")
    if file.path == CONFIG_FILE and file.size_bytes > MAX_CONFIG_BYTES:
        raise invalid_config(f"it has {file.size_bytes} bytes, more than {MAX_CONFIG_BYTES}")
    if file.path == LABELS_FILE:
        check_size(file.size_bytes)


def _bad_file(file: File, reason: str, fault: str) -> InvalidArgument:
    path = file.path[:120]
    return InvalidArgument(f"the file {path!r} {fault}", reason=reason, path=path)
