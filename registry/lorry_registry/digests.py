"""Digests: of bytes, of files, and of a version.

A version's digest is taken over its canonical manifest: the files alone (path, digest, size), sorted by path, as
JSON without spaces. Media types, lineage and description do not count, so that the same bytes are the same
version whoever publishes them and whatever is told about them.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from lorry_registry.entities import File
from lorry_registry.errors import InvalidArgument

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


def is_digest(text: str) -> bool:
    """Whether `text` is `sha256:` and 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def parse_digest(text: str, *, what: str) -> str:
    """Returns `text` where it is a digest. Raises InvalidArgument naming `what` where it is not."""
    if not is_digest(text):
        raise InvalidArgument(
            f"{what} {text[:100]!r} is no digest: write 'sha256:' and 64 lower-case hex digits",
            reason="DIGEST_INVALID",
            field=what,
            value=text[:100],
        )
    return text


def digest_bytes(data: bytes) -> str:
    """Digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_file(path: Path) -> str:
    """Digest of a file's bytes, read in pieces. Raises OSError."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


def canonical_manifest(files: Iterable[File]) -> bytes:
    """The bytes that a version's digest is taken over."""
    entries = [
        {"digest": file.digest, "path": file.path, "size": file.size_bytes}
        for file in sorted(files, key=lambda file: file.path)
    ]
    return json.dumps({"files": entries}, separators=(",", ":"), sort_keys=True).encode()


def version_digest(files: Iterable[File]) -> str:
    """The identity of a version's content."""
    return digest_bytes(canonical_manifest(files))
