"""The way into the house: who may come in, how many at once, until when, and whom they ask for."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.canaries import check_sticky_key
from lorry_registry.errors import DeadlineExceeded, LorryError, ResourceExhausted, Unavailable
from lorry_server.adapters import AdapterDirectory, ResolvedAdapter
from lorry_server.compositions import requested
from lorry_server.services.submission import House

Targeted = (
    pb.GenerateRequest
    | pb.ScoreRequest
    | pb.EmbedRequest
    | pb.ClassifyRequest
    | pb.ClassifyTokensRequest
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request came, and until when somebody waits for it: time.monotonic() seconds."""

    moment: float
    deadline: float | None


class Door:
    """Lives on the event loop."""

    def __init__(self, house: House, adapters: AdapterDirectory, max_requests: int) -> None:
        self._house = house
        self._adapters = adapters
        self._max_requests = max_requests
        self._num_preparing = 0  # read or looked up; the engine has not seen them
        self._draining = False

    def drain(self) -> None:
        """Lets nobody in any more; those in flight go on."""
        self._draining = True

    @contextmanager
    def entering(self, context: Any) -> Iterator[Arrival]:
        """Around everything until the engine has a request: takes a place, and counts what is turned away."""
        moment = time.monotonic()
        with self._counting_refusals():
            if self._draining:
                raise Unavailable(
                    "The server is stopping and takes no new requests; try another, or again later.",
                    reason="DRAINING",
                )
            deadline = _deadline(context, moment)
            with self.place():
                yield Arrival(moment, deadline)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue before the engine's: whoever waits for the tokenizer or the registry takes one too."""
        num_here = self._num_preparing + self._house.dispatcher.num_unfinished
        if num_here >= self._max_requests:
            raise ResourceExhausted(
                f"The server holds {num_here} requests, and no more than {self._max_requests}; "
                "retry in a second, or add a server.",
                reason="QUEUE_FULL",
                retry_after_seconds=1,
                max_requests=self._max_requests,
            )
        self._num_preparing += 1
        try:
            yield
        finally:
            self._num_preparing -= 1

    async def target(self, request: Targeted) -> ResolvedAdapter | None:
        """What acts beside the base; None for nothing."""
        key = _sticky_key(request)
        if request.WhichOneof("target") == "composition":
            return await self._adapters.compose(requested(request.composition), key)
        return await self._adapters.resolve(request.adapter, key) if request.adapter else None

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        metrics = self._house.metrics
        try:
            yield
        except DeadlineExceeded:
            metrics.turned_away("deadline")
            raise
        except LorryError:
            metrics.turned_away("refused")
            raise
        except asyncio.CancelledError:
            metrics.turned_away("cancelled")
            raise
        except Exception:
            metrics.turned_away("error")
            raise


def on_end(context: Any, close: Callable[[], None]) -> None:
    """Calls `close` however the RPC ends: answered, refused, cancelled, out of time, its client gone."""
    context.add_done_callback(lambda _: close())


def _sticky_key(request: Targeted) -> bytes:
    """What chooses among an alias's versions; a request that brings none falls where it falls."""
    if request.HasField("sticky_key"):
        return check_sticky_key(request.sticky_key)
    return secrets.token_bytes(8)


def _deadline(context: Any, now: float) -> float | None:
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return None
    if remaining <= 0:
        raise DeadlineExceeded(
            "The deadline had passed before the request was read; allow more time.",
            reason="DEADLINE_EXCEEDED",
        )
    return now + remaining
