"""A request's prompt as token ids: read from text or a conversation, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.base import ServedBase
from lorry_server.services.text import ROLES, TextCodec


class PromptReader:
    """Reads prompts off the event loop, on one thread: a tokenizer is not to be used by two at once."""

    def __init__(self, base: ServedBase) -> None:
        self._base = base
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lorry-tokenizer")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def token_ids(self, request: pb.GenerateRequest | pb.TokenizeRequest) -> tuple[int, ...]:
        """The ids of the prompt, at least one; ids that the client sent are taken as they are."""
        match request.WhichOneof("prompt"):
            case "text":
                token_ids: Sequence[int] = await self._encode(request.text)
            case "chat":
                token_ids = await self._render(request.chat)
            case "tokens" if isinstance(request, pb.GenerateRequest):
                token_ids = request.tokens.token_ids
            case _:
                raise InvalidArgument(
                    "The request has no prompt; set `text`, `chat` or `tokens`.",
                    reason="PROMPT_MISSING",
                )
        if not token_ids:
            raise _empty()
        return tuple(token_ids)

    async def _encode(self, text: str) -> Sequence[int]:
        codec = self._codec()
        if not text:
            raise _empty()
        return await self._on_thread(lambda: codec.encode(text))

    async def _render(self, chat: pb.ChatPrompt) -> Sequence[int]:
        codec = self._codec()
        if not chat.messages:
            raise _empty()
        for index, message in enumerate(chat.messages):
            if message.role not in ROLES:
                raise InvalidArgument(
                    f"The role of message {index} is {message.role[:40]!r}; it must be one of {', '.join(ROLES)}.",
                    reason="ROLE_UNKNOWN",
                    index=index,
                    role=message.role[:40],
                )
        messages = [(message.role, message.content) for message in chat.messages]
        return await self._on_thread(lambda: codec.render_chat(messages))

    def _codec(self) -> TextCodec:
        if self._base.text is None:
            raise FailedPrecondition(
                f"The base {self._base.name} has no tokenizer; send the prompt as `tokens`.",
                reason="NO_TOKENIZER",
                base=self._base.name,
            )
        return self._base.text

    async def _on_thread(self, encode: Callable[[], list[int]]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, encode)


def _empty() -> InvalidArgument:
    return InvalidArgument(
        "The prompt is empty; a base continues at least one token.", reason="PROMPT_EMPTY"
    )
