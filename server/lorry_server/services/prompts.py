"""A request's prompt as token ids: read from text or a conversation, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.base import ServedBase
from lorry_server.services.text import ROLES, Place, TextCodec

_T = TypeVar("_T")
Prompted = (
    pb.GenerateRequest | pb.ScoreRequest | pb.EmbedRequest | pb.ClassifyRequest | pb.TokenizeRequest
)


# What any tokenizer reads in a moment. A text beyond it is refused unread where it cannot fit the context, and waits
# its turn behind others of its kind where it can.
_SHORT_CHARACTERS = 1 << 16
_BETWEEN = "\n\n"  # two texts on a decoder


@dataclass(frozen=True, slots=True)
class ReadText:
    """A prompt, of one text or of two."""

    token_ids: tuple[int, ...]
    token_types: tuple[int, ...] = ()  # which text each token is of, where the base is told
    places: tuple[Place, ...] = ()  # of each token, where the tokenizer tells it


class _Lane:
    """One thread with a tokenizer of its own: a tokenizer is not to be used by two at once."""

    def __init__(self, name: str, codec: Callable[[], TextCodec]) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._codec = cache(codec)  # called on the thread alone

    async def run(self, work: Callable[[TextCodec], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(self._codec())
        )

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class PromptReader:
    """Reads prompts off the event loop; a long one holds up no short one."""

    def __init__(self, base: ServedBase) -> None:
        self._base = base
        self._short = _Lane("lorry-tokenizer", self._codec)
        self._long = _Lane("lorry-long-tokenizer", lambda: self._codec().copy())

    def close(self) -> None:
        for lane in (self._short, self._long):
            lane.close()

    async def token_ids(self, request: Prompted) -> tuple[int, ...]:
        """The ids of the prompt, at least one; ids that the client sent are taken as they are."""
        match request.WhichOneof("prompt"):
            case "text":
                token_ids: Sequence[int] = await self._encode(request.text)
            case "chat":
                token_ids = await self._render(request.chat)
            case "tokens" if not isinstance(request, pb.TokenizeRequest):
                token_ids = request.tokens.token_ids
            case _:
                raise InvalidArgument(
                    "The request has no prompt; set `text`, `chat` or `tokens`.",
                    reason="PROMPT_MISSING",
                )
        if not token_ids:
            raise _empty()
        return tuple(token_ids)

    async def read(self, request: pb.ClassifyRequest) -> ReadText:
        """As `token_ids`, with what an encoder is told of each token; perhaps of two texts."""
        if request.WhichOneof("prompt") != "text":
            if request.pair:
                raise InvalidArgument(
                    "The request has a pair, and no text that it belongs to; send both as text, or both in `tokens`.",
                    reason="PAIR_WITHOUT_TEXT",
                )
            return ReadText(await self.token_ids(request))
        return await self.read_texts(request.text, request.pair)

    async def read_texts(self, first: str, second: str) -> ReadText:
        """One text or two as training reads them, with where each token stands."""
        if not first:
            raise _empty()
        text, pair = first, second
        if second and not self._base.is_encoder:  # which has nothing to part them with
            text, pair = f"{first}{_BETWEEN}{second}", ""
        size = len(text) + len(pair)
        self._check_length(size, self._codec())
        ids, types, places = await self._lane(size).run(lambda codec: codec.encode_pair(text, pair))
        if second and not pair:
            places = [_parted(place, len(first) + len(_BETWEEN)) for place in places]
        if not ids:
            raise _empty()
        if self._base.token_types == 0:
            types = []
        elif max(types, default=0) >= self._base.token_types:
            raise FailedPrecondition(
                f"The tokenizer of {self._base.name} tells {max(types) + 1} texts apart, and the base "
                f"{self._base.token_types}: send token ids, or repair the tokenizer's files.",
                reason="TOKEN_TYPES_UNKNOWN",
                base=self._base.name,
            )
        return ReadText(tuple(ids), tuple(types), tuple(places))

    async def continuations(
        self, continuations: Sequence[pb.Continuation]
    ) -> list[tuple[int, ...]]:
        """The ids of each, without special tokens; ids that the client sent are taken as they are."""
        return [
            tuple(await self._encode(each.text, special_tokens=False))
            if each.WhichOneof("form") == "text"
            else tuple(each.tokens.token_ids)
            for each in continuations
        ]

    async def spellings(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The sequences of ids by which words occur in a text."""
        if not words:
            return []
        size = sum(map(len, words))
        spelled = await self._lane(size).run(lambda codec: [codec.spellings(w) for w in words])
        return [ids for spellings in spelled for ids in spellings]

    async def text(self, token_ids: Sequence[int]) -> str:
        """What the ids read as; nothing where the base has no tokenizer."""
        if self._base.text is None:
            return ""
        return await self._lane(len(token_ids)).run(lambda codec: codec.decode(token_ids))

    async def _encode(self, text: str, *, special_tokens: bool = True) -> Sequence[int]:
        codec = self._codec()
        if not text:
            raise _empty()
        self._check_length(len(text), codec)
        return await self._lane(len(text)).run(
            lambda codec: codec.encode(text, special_tokens=special_tokens)
        )

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
        size = sum(len(role) + len(content) for role, content in messages)
        self._check_length(size, codec)
        return await self._lane(size).run(lambda codec: codec.render_chat(messages))

    def _lane(self, size: int) -> _Lane:
        return self._short if size <= _SHORT_CHARACTERS else self._long

    def _check_length(self, characters: int, codec: TextCodec) -> None:
        """Refuses what cannot fit even if every token of it were the longest: reading it would take long."""
        most = max(_SHORT_CHARACTERS, self._base.context_length * codec.longest_token)
        if characters > most:
            raise InvalidArgument(
                f"The prompt has {characters} characters; {self._base.context_length} tokens, the context of "
                f"{self._base.name}, never hold more than {most}. Shorten the prompt.",
                reason="PROMPT_TOO_LONG",
                characters=characters,
                max_characters=most,
                context_length=self._base.context_length,
            )

    def _codec(self) -> TextCodec:
        if self._base.text is None:
            raise FailedPrecondition(
                f"The base {self._base.name} has no tokenizer; send the prompt as `tokens`.",
                reason="NO_TOKENIZER",
                base=self._base.name,
            )
        return self._base.text


def _parted(place: Place, second: int) -> Place:
    """A place in two texts that were read as one, of which the second begins at that character."""
    if place.start < second:
        return place
    return Place(True, place.start - second, place.end - second)


def _empty() -> InvalidArgument:
    return InvalidArgument(
        "The prompt is empty; a base continues at least one token.", reason="PROMPT_EMPTY"
    )
