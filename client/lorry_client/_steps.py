"""Work that needs several calls, written once for both clients.

Such work is a generator of *steps*: it yields what should be asked of the server and is sent the answer, or thrown the
error. It decides and touches local files; the client that runs it, blocking or awaiting, does the asking.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lorry_client._channel import Stubs

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One request with its answer, or with a stream of them, each read by `read`.

    Attributes:
        method: picks the method off the stubs.
        timeout: the deadline in seconds where the caller gives none; None for what goes on until somebody ends it.
    """

    method: Callable[[Stubs], Any]
    request: Message
    read: Callable[[Any], Result]
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Upload:
    """A stream of requests with one answer. `pieces` must not raise: gRPC would hide the error."""

    method: Callable[[Stubs], Any]
    pieces: Iterator[Message]
    timeout: float


@dataclass(frozen=True, slots=True)
class Download:
    """A request whose answers are handed to `take` as they come."""

    method: Callable[[Stubs], Any]
    request: Message
    take: Callable[[Any], None]
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Time to wait before the next step."""

    seconds: float


Step = Call[Any] | Upload | Download | Pause
Steps = Generator[Step, Any, Result]


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """The steps' result: there are no more."""

    result: Result


def ask(call: Call[Result]) -> Steps[Result]:
    """A call as a step: `answer = yield from ask(call)`."""
    answer: Result = yield call
    return answer


def advance(steps: Steps[Result], answer: object, failure: Exception | None) -> Step | Done[Result]:
    """Goes on with the last step's answer, or with its failure, to the next step."""
    try:
        return steps.send(answer) if failure is None else steps.throw(failure)
    except StopIteration as end:
        return Done(end.value)


@dataclass(frozen=True, slots=True)
class Page(Generic[Result]):
    """A page of a list; an empty token means that it is the last."""

    items: list[Result]
    next_page_token: str


def first_of(page_at: Callable[[int, str], Call[Page[Result]]], limit: int) -> Steps[list[Result]]:
    """At most `limit` items of a list, page by page."""
    items: list[Result] = []
    token = ""
    while len(items) < limit:
        page = yield from ask(page_at(limit - len(items), token))
        items.extend(page.items)
        token = page.next_page_token
        if not token:
            break
    return items[:limit]


def all_pages(page_at: Callable[[str], Call[Page[Result]]]) -> Steps[list[Result]]:
    """Every item of a list, page by page."""
    items: list[Result] = []
    token = ""
    while True:
        page = yield from ask(page_at(token))
        items.extend(page.items)
        token = page.next_page_token
        if not token:
            return items
