"""Text out of token ids that arrive one by one: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_server.services.text import TextCodec

_UNDECODED = "\ufffd"  # what a decoder writes for bytes that are no character, or not one yet
_LONGEST_CHARACTER = 4  # bytes, hence at most as many tokens
_MAX_HELD_TOKENS = 16


class Detokenizer:
    """Turns a growing sequence of ids into text, piece by piece.

    All pieces together are the text of all ids, special tokens left out. A token's text depends on its neighbours, so
    each piece is what a short window of ids says beyond what its first part said alone. The work per token does not
    grow with the sequence. A run of byte tokens is read as a whole, for one wrong byte makes all of it unreadable: it
    waits for its end.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._window: list[
            int
        ] = []  # ids whose text is out, as context, then ids whose text is not
        self._num_context = 0
        self._context_text = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that became certain with these ids."""
        self._window += self._codec.without_special(token_ids)
        if self._num_held == 0 or self._window[-1] in self._codec.byte_ids:
            return ""
        text = self._codec.decode(self._window)
        if not text.endswith(_UNDECODED):
            return self._release(len(self._window), text)
        if self._num_held > _MAX_HELD_TOKENS:
            return self._release_garbage(text)
        return ""

    def flush(self) -> str:
        """The rest, once no more ids will come: an unfinished character as U+FFFD."""
        if self._num_held == 0:
            return ""
        return self._release(len(self._window), self._codec.decode(self._window))

    @property
    def _num_held(self) -> int:
        return len(self._window) - self._num_context

    def _release(self, end: int, text: str) -> str:
        """Lets out the ids up to `end`, which together with the context read `text`."""
        piece = text[len(self._context_text) :]
        self._window = self._window[self._num_context :]
        self._num_context = end - self._num_context
        self._context_text = self._codec.decode(self._window[: self._num_context])
        return piece

    def _release_garbage(self, text: str) -> str:
        """Lets out bytes that will never be characters, all but an end that still may become one.

        A cut runs through no character exactly where both sides, decoded alone, read as the whole does.
        """
        for end in range(len(self._window) - _LONGEST_CHARACTER, self._num_context, -1):
            left, right = (
                self._codec.decode(self._window[:end]),
                self._codec.decode(self._window[end:]),
            )
            if left + right == text:
                return self._release(end, left)
        return ""


class StopStrings:
    """Cuts a text before the first stop string, however the text is split into pieces.

    The first is the one that is complete first; of two complete at once, the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""  # an end of the text that may begin a stop string

    def push(self, text: str) -> tuple[str, str | None]:
        """What may be shown now, and the stop string if one is complete: nothing is to be shown after it."""
        if not self._stops:
            return text, None
        text = self._held + text
        found = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        if found:
            _, start, stop = min(found)
            self._held = ""
            return text[:start], stop
        cut = len(text) - self._num_suspect(text)
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held

    def _num_suspect(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop string."""
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0


class TextStream:
    """What the client reads of a sequence of ids. Without a tokenizer: nothing."""

    def __init__(self, codec: TextCodec | None, stops: Sequence[str]) -> None:
        self._detokenizer = None if codec is None else Detokenizer(codec)
        self._stops = StopStrings(stops)

    def push(self, token_id: int) -> tuple[str, str | None]:
        """The text that one more id lets out, and the stop string that it completes."""
        if self._detokenizer is None:
            return "", None
        return self._stops.push(self._detokenizer.push((token_id,)))

    def finish(self) -> tuple[str, str | None]:
        """The rest of the text."""
        if self._detokenizer is None:
            return "", None
        text, stop = self._stops.push(self._detokenizer.flush())
        return text + self._stops.flush(), stop
