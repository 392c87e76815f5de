"""Bytes straight between this machine and the registry's store, by links that the registry signs.

The steps here wait for HTTP themselves; the awaiting client takes every step in a thread. A link is a secret while it
lasts: no error repeats it.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from lorry_client._steps import Pause, Steps
from lorry_client._transfer import CHUNK_BYTES
from lorry_client.errors import (
    FailedPrecondition,
    LorryError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    Unavailable,
)

SILENCE_SECONDS = 60.0
"""How long the store may say nothing."""

_MAX_ANSWER_BYTES = 4096
_KINDS: dict[int, tuple[type[LorryError], str]] = {
    403: (
        PermissionDenied,
        "A link lasts minutes: begin anew, and see that the registry's clock is right; without --direct the bytes go "
        "through the registry",
    ),
    404: (NotFound, "It may have been deleted meanwhile: begin anew"),
    409: (Unavailable, "Another client writes the same part: retry"),
    412: (OutOfRange, "Another client wrote the part first: continue behind it"),
    429: (Unavailable, "It is busy: retry"),
}


def get(url: str, offset: int, take: Callable[[bytes], None]) -> Steps[None]:
    """Reads from an offset to the end. Raises as `put`."""
    request = _request(url, "GET", {"Range": f"bytes={offset}-"} if offset else {})
    with _store_errors(url), urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:
        while data := answer.read(CHUNK_BYTES):
            take(data)
            yield Pause(0)  # so that whoever cancels need not wait for the whole


def put(url: str, headers: dict[str, str], data: Iterable[bytes], size_bytes: int) -> Steps[None]:
    """Sends so many bytes.

    Raises:
        PermissionDenied: `LINK_REFUSED`, the link has ended.
        OutOfRange: another client was first.
        Unavailable: the store does not answer.
        FailedPrecondition: whatever else it says.
    """
    # urllib would call them a form otherwise, and send them in chunks.
    plain = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
    request = _request(url, "PUT", {**headers, **plain}, data)
    with _store_errors(url), urllib.request.urlopen(request, timeout=SILENCE_SECONDS):
        yield Pause(0)


def _request(
    url: str, method: str, headers: dict[str, str], data: Iterable[bytes] | None = None
) -> urllib.request.Request:
    if urlsplit(url).scheme not in ("http", "https"):  # urllib would open files as well
        raise FailedPrecondition(
            "The registry's link does not begin with http or https.", reason="LINK_INVALID"
        )
    return urllib.request.Request(url, data, headers, method=method)


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    host = urlsplit(url).netloc
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            said = _said(error)
        kind, way_out = _KINDS.get(
            error.code,
            (Unavailable, "Retry")
            if error.code >= 500
            else (FailedPrecondition, "Without --direct the bytes go through the registry"),
        )
        raise kind(
            f"The store at {host} refused the registry's link: {error.code} {said}. {way_out}.",
            reason="LINK_REFUSED",
            metadata={"store": host, "status": str(error.code)},
        ) from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Unavailable(
            f"No answer from the store at {host}: {why}. Without --direct the bytes go through the registry.",
            reason="STORE_UNAVAILABLE",
            metadata={"store": host},
        ) from None


def _said(error: urllib.error.HTTPError) -> str:
    """The message in S3's XML, or else HTTP's word."""
    text = error.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    _, found, rest = text.partition("<Message>")
    return rest.partition("</Message>")[0].rstrip(".") if found else str(error.reason)
