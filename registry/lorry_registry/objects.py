"""What `object_blobs` asks of an object store: whole objects by key, of which a key's first writer wins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorry_registry.links import Link


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object. `tag` changes with its bytes; `modified` is seconds since 1970."""

    key: str
    size_bytes: int
    tag: str
    modified: float


class Objects(Protocol):
    """Objects by key. Every method is safe from any thread and any process; nothing is cached.

    Raises Unavailable `BLOBS_UNAVAILABLE` where the store does not answer.
    """

    part_bytes: int
    """How large a part should be at least for `assemble` to move no bytes through this process."""

    def create(self, key: str, data: bytes) -> StoredObject | None:
        """Makes the object; None where the key has one, which stays as it is."""
        ...

    def look(self, key: str) -> StoredObject | None: ...

    def find(self, prefix: str) -> Iterator[StoredObject]:
        """Those whose keys begin with `prefix`, in the order of keys."""
        ...

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of an object. Raises FileNotFoundError."""
        ...

    def sign_read(self, key: str) -> Link:
        """A link for HTTP's GET. Raises FailedPrecondition `LINKS_UNSUPPORTED`."""
        ...

    def sign_create(self, key: str, *, size_bytes: int) -> Link:
        """A link for HTTP's PUT of so many bytes; 412 where the key has an object. Raises as `sign_read`."""
        ...

    def assemble(self, parts: Sequence[StoredObject], key: str) -> None:
        """Makes one object of parts, one after the other; it appears whole or not at all, in another's place.

        Raises FileNotFoundError where a part is gone, or another by now.
        """
        ...

    def touch(self, key: str) -> None:
        """Makes an object as young as a new one. Raises FileNotFoundError."""
        ...

    def move(self, key: str, target: str) -> None:
        """Raises FileNotFoundError."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Keys that have no object are passed over."""
        ...

    def abandoned(self, prefix: str) -> Iterator[StoredObject]:
        """Assemblies that were not finished; `tag` names one of several under a key."""
        ...

    def abandon(self, assembly: StoredObject) -> None:
        """Ends an assembly that was not finished."""
        ...

    def close(self) -> None: ...
