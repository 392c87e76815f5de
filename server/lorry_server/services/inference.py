"""The inference service: requests are checked, their adapters looked up, and the engine does the rest."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry.inference.v1 import inference_service_pb2_grpc as pb_grpc
from lorry_registry.canaries import check_sticky_key
from lorry_registry.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LorryError,
    ResourceExhausted,
    Unavailable,
)
from lorry_registry.rpc.host import MAX_MESSAGE_BYTES
from lorry_server.adapters import AdapterDirectory, ResolvedAdapter
from lorry_server.base import ServedBase
from lorry_server.compositions import requested
from lorry_server.metrics.requests import RequestMetrics
from lorry_server.services import adjustments
from lorry_server.services.generation import Accepted, Generation
from lorry_server.services.outputs import OutputDispatcher
from lorry_server.services.prompts import PromptReader
from lorry_server.services.submission import Asked, GeneratingEngine, House
from lorry_server.services.validation import check_prompt, decoding

_DEFAULT_PAGE = 50
_LARGEST_PAGE = 1000
_LARGEST_ANSWER = MAX_MESSAGE_BYTES - 1024  # a sum of parts may be a few bytes less than the whole
_PAGE_MARK = "models:"  # before the registry's own token, which is empty on its first page


class InferenceService(pb_grpc.InferenceServiceServicer):
    """Lives on the event loop and never blocks it."""

    def __init__(
        self,
        *,
        base: ServedBase,
        engine: GeneratingEngine,
        adapters: AdapterDirectory,
        dispatcher: OutputDispatcher,
        metrics: RequestMetrics,
        prompts: PromptReader,
        max_requests: int,
    ) -> None:
        self.house = House(engine, dispatcher, metrics)
        self._base = base
        self._engine = engine
        self._adapters = adapters
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._prompts = prompts
        self._max_requests = max_requests
        self._num_preparing = 0  # read or looked up; the engine has not seen them
        self._draining = False

    def drain(self) -> None:
        """Refuses new generations; those in flight go on."""
        self._draining = True

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        generation = await self._begin(request, context)
        async for response in generation.responses():
            yield response

    async def GenerateUnary(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        generation = await self._begin(request, context)
        return await generation.whole(_LARGEST_ANSWER)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        with self._place():
            token_ids = await self._prompts.token_ids(request)
            text = await self._prompts.text(token_ids)
        answer = pb.TokenizeResponse(
            token_ids=token_ids, text=text, context_length=self._base.context_length
        )
        if answer.ByteSize() > MAX_MESSAGE_BYTES:
            raise ResourceExhausted(
                f"The answer has {answer.ByteSize()} bytes, more than the {MAX_MESSAGE_BYTES} that one message may "
                "have; tokenize the text in parts.",
                reason="RESPONSE_TOO_LARGE",
                max_bytes=MAX_MESSAGE_BYTES,
            )
        return answer

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        size = _page_size(request.page_size)
        response = pb.ListModelsResponse()
        if not request.page_token:
            response.models.add(
                digest=self._base.fingerprint, display_name=self._base.name, resident=True
            )
            size -= 1
        elif not request.page_token.startswith(_PAGE_MARK):
            raise InvalidArgument(
                "The page token is not one of ListModels.", reason="PAGE_TOKEN_INVALID"
            )
        token = request.page_token.removeprefix(_PAGE_MARK)
        if size == 0:
            response.next_page_token = _PAGE_MARK
            return response
        page = await self._adapters.page(size, token)
        in_slots = {info.digest for info in self._engine.stats().residents if info.tier == "slot"}
        for adapter in page.adapters:
            response.models.add(
                reference=adapter.name,
                digest=adapter.digest,
                resident=adapter.digest in in_slots,
                warnings=adapter.warnings,
            )
        if page.next_page_token:
            response.next_page_token = _PAGE_MARK + page.next_page_token
        return response

    async def _begin(self, request: pb.GenerateRequest, context: Any) -> Generation:
        arrival = time.monotonic()
        with self._counting_refusals():
            if self._draining:
                raise Unavailable(
                    "The server is stopping and takes no new requests; try another, or again later.",
                    reason="DRAINING",
                )
            deadline = _deadline(context, arrival)
            with self._place():
                prompt = await self._prompts.token_ids(request)
                check_prompt(prompt, self._base)
                words = adjustments.words(request.sampling, self._base)
                how = decoding(
                    request.sampling,
                    prompt_tokens=len(prompt),
                    base=self._base,
                    spellings=await self._prompts.spellings(words),
                )
                adapter = await self._target(request)
                generation = Generation(
                    Accepted(prompt, how, Asked(adapter, arrival, deadline)),
                    codec=self._base.text,
                    house=self.house,
                )
        # Called however the RPC ends: answered, refused, cancelled, out of time, its client gone.
        context.add_done_callback(lambda _: generation.close())
        return generation

    async def _target(self, request: pb.GenerateRequest) -> ResolvedAdapter | None:
        """What acts beside the base; None for nothing."""
        key = _sticky_key(request)
        if request.WhichOneof("target") == "composition":
            return await self._adapters.compose(requested(request.composition), key)
        return await self._adapters.resolve(request.adapter, key) if request.adapter else None

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the queue before the engine's: whoever waits for the tokenizer or the registry takes one too."""
        num_here = self._num_preparing + self._dispatcher.num_unfinished
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

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except DeadlineExceeded:
            self._metrics.turned_away("deadline")
            raise
        except LorryError:
            self._metrics.turned_away("refused")
            raise
        except asyncio.CancelledError:
            self._metrics.turned_away("cancelled")
            raise
        except Exception:
            self._metrics.turned_away("error")
            raise


def _sticky_key(request: pb.GenerateRequest) -> bytes:
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


def _page_size(requested: int) -> int:
    if requested < 0:
        raise InvalidArgument(
            f"page_size is {requested}; it must be 0 (the default) or more.",
            reason="PAGE_SIZE_INVALID",
            page_size=requested,
        )
    return min(requested or _DEFAULT_PAGE, _LARGEST_PAGE)
