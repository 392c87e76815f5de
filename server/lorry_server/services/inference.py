"""The inference service: requests are checked, their adapters looked up, and the engine does the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry.inference.v1 import inference_service_pb2_grpc as pb_grpc
from lorry_registry.errors import (
    InvalidArgument,
    ResourceExhausted,
)
from lorry_registry.rpc.host import MAX_MESSAGE_BYTES
from lorry_server.adapters import AdapterDirectory
from lorry_server.base import ServedBase
from lorry_server.compositions import requested
from lorry_server.labels import LabelNames
from lorry_server.services import adjustments, classification, embedding, token_labels
from lorry_server.services.door import Door, on_end
from lorry_server.services.export import folder_of
from lorry_server.services.forms import FormCompiler, requested_form
from lorry_server.services.generation import Accepted, Generation
from lorry_server.services.prompts import PromptReader
from lorry_server.services.scoring import Scoring, check_continuations
from lorry_server.services.submission import Asked, House, Submission
from lorry_server.services.validation import (
    check_fits,
    check_prompt,
    check_writes,
    decoding,
    wants_merged,
)

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
        adapters: AdapterDirectory,
        house: House,
        prompts: PromptReader,
        forms: FormCompiler,
        labels: LabelNames,
        max_requests: int,
    ) -> None:
        self._base = base
        self._adapters = adapters
        self._house = house
        self._prompts = prompts
        self._forms = forms
        self._labels = labels
        self._door = Door(house, adapters, max_requests)

    def drain(self) -> None:
        """Refuses new requests; those in flight go on."""
        self._door.drain()

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        generation = await self._begin(request, context)
        async for response in generation.responses():
            yield response

    async def GenerateUnary(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        generation = await self._begin(request, context)
        return await generation.whole(_LARGEST_ANSWER)

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        with self._door.entering(context) as arrival:
            check_writes(self._base, "Score")
            prompt = await self._prompts.token_ids(request)
            check_continuations(request.continuations)
            wanted = Scoring(
                prompt, await self._prompts.continuations(request.continuations), request.logprobs
            )
            wanted.check(self._base)
            asked = Asked(await self._door.target(request), arrival.moment, arrival.deadline)
            submission = Submission(wanted.requests(asked), asked, self._house)
        on_end(context, submission.close)
        return await wanted.answer(submission, asked)

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        with self._door.entering(context) as arrival:
            prompt = await self._prompts.token_ids(request)
            check_fits(prompt, self._base)
            asked = Asked(await self._door.target(request), arrival.moment, arrival.deadline)
            submission = Submission([embedding.pooled(prompt, request, asked)], asked, self._house)
        on_end(context, submission.close)
        return await embedding.answer(submission, request, asked)

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        with self._door.entering(context) as arrival:
            text = await self._prompts.read(request)
            check_fits(text.token_ids, self._base)
            asked = Asked(await self._door.target(request), arrival.moment, arrival.deadline)
            wanted = classification.classified(text, asked, self._base)
            submission = Submission([wanted], asked, self._house)
        on_end(context, submission.close)
        return await classification.answer(submission, asked, self._labels)

    async def ClassifyTokens(
        self, request: pb.ClassifyTokensRequest, context: Any
    ) -> pb.ClassifyTokensResponse:
        with self._door.entering(context) as arrival:
            text = await self._prompts.read_texts(request.text, request.pair)
            check_fits(text.token_ids, self._base)
            asked = Asked(await self._door.target(request), arrival.moment, arrival.deadline)
            wanted = token_labels.of_each_token(text, asked, self._base)
            submission = Submission([wanted], asked, self._house)
        on_end(context, submission.close)
        return await token_labels.answer(submission, text, asked, self._labels)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        with self._door.place():
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

    async def Compose(
        self, request: pb.ComposeRequest, context: Any
    ) -> AsyncIterator[pb.ComposeResponse]:
        with self._door.entering(context):
            check_writes(self._base, "Compose")
            composition = await self._adapters.compose(requested(request.composition))
            pieces = folder_of(composition, self._base, self._house.engine)
            async for piece in pieces:
                yield piece

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
        in_slots = {
            info.digest for info in self._house.engine.stats().residents if info.tier == "slot"
        }
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
        with self._door.entering(context) as arrival:
            check_writes(self._base, "Generate")
            prompt = await self._prompts.token_ids(request)
            check_prompt(prompt, self._base)
            words = adjustments.words(request.sampling, self._base)
            how = decoding(
                request.sampling,
                prompt_tokens=len(prompt),
                base=self._base,
                spellings=await self._prompts.spellings(words),
                form=await self._forms.compile(requested_form(request.sampling)),
            )
            adapter = await self._door.target(request)
            merged = wants_merged(request.execution, of_adapter=adapter is not None)
            asked = Asked(adapter, arrival.moment, arrival.deadline, merged)
            accepted = Accepted(prompt, how, asked)
            generation = Generation(accepted, codec=self._base.text, house=self._house)
        on_end(context, generation.close)
        return generation


def _page_size(requested: int) -> int:
    if requested < 0:
        raise InvalidArgument(
            f"page_size is {requested}; it must be 0 (the default) or more.",
            reason="PAGE_SIZE_INVALID",
            page_size=requested,
        )
    return min(requested or _DEFAULT_PAGE, _LARGEST_PAGE)
