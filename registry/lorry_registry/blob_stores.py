"""Which BlobStore a URL means."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lorry_registry.blobs import BlobStore
from lorry_registry.errors import InvalidArgument
from lorry_registry.folder_blobs import FolderBlobStore


def open_blobs(home: Path, url: str = "") -> BlobStore:
    """The store at `url`: a folder (a path, `file:///…`), `s3://BUCKET/PREFIX` or `memory://`; else that in `home`.

    Raises:
        InvalidArgument: `BLOBS_INVALID`.
        FailedPrecondition: `HOME_UNWRITABLE`, `BLOBS_UNWRITABLE`, `BLOBS_UNSUITABLE`, `MODULE_MISSING`.
        Unavailable: `BLOBS_UNAVAILABLE`.
    """
    if "://" not in url:
        return FolderBlobStore(Path(url) if url else home)
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return FolderBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and not parts.query:
        from lorry_registry.object_blobs import ObjectBlobStore
        from lorry_registry.s3_objects import S3Objects

        prefix = parts.path.strip("/")
        return ObjectBlobStore(S3Objects(parts.netloc, prefix and f"{prefix}/"))
    if url == "memory://":
        from lorry_registry.memory_objects import MemoryObjects
        from lorry_registry.object_blobs import ObjectBlobStore

        return ObjectBlobStore(MemoryObjects())
    raise InvalidArgument(
        f"--blobs is {url!r}: write a folder's path, s3://BUCKET/PREFIX or memory://",
        reason="BLOBS_INVALID",
        blobs=url,
    )
