"""Forms that an answer must have (a JSON schema, a regular expression, a grammar) as masks over the next token.

llguidance reads them: it computes a mask from the state of the text when it is asked, so that a form costs little
before it runs; it refuses what no text fulfils and what it does not implement, instead of letting it pass; and it stops
at limits, in each step too. Whatever a stranger writes here ends in a mask or in a refusal, within a bounded time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, InvalidArgument, Unavailable
from lorry_server.base import ServedBase
from lorry_server.remembering import remember
from lorry_server.services.checks import invalid

Kind = Literal["json_schema", "regex", "grammar"]

MAX_FORM_BYTES = 64 << 10
MAX_COMPILE_SECONDS = (
    20.0  # what passes the other limits takes far less on a machine that is not overloaded
)
MAX_STEP_SECONDS = 0.5  # of the engine's thread's own time, for one token
_REMEMBERED = 64  # compiled forms

# Two orders of magnitude above what schemas of APIs take. A step that reaches them has taken some 30 ms.
_LIMITS = {
    "max_grammar_size": 50_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_items_in_row": 1_000,
    "max_lexer_states": 50_000,
}
# What is wrong with a regular expression stands below a drawing of it.
_REGEX_CAUSE = "error: "
# Between the parts of a JSON text: nothing, a space, or a line break and its indentation. A model that likes spaces
# would write nothing else, were they free.
_JSON = {"whitespace_pattern": r"(\x20|\x0A[\x20\x09]{0,32})?"}


@dataclass(frozen=True, slots=True)
class Form:
    """What a client wrote."""

    kind: Kind
    text: str


class Constrained:
    """Follows one sequence: a `TokenConstraint` of the engine."""

    def __init__(self, form: CompiledForm, matcher: Any) -> None:
        self._form = form
        self._matcher = matcher
        self._num_tokens = 0

    def allowed(self) -> bytes:
        started = time.thread_time()
        mask: bytes = self._matcher.compute_bitmask()
        self._check(started)
        return mask

    def accept(self, token_id: int) -> None:
        started = time.thread_time()
        self._matcher.consume_token(token_id)
        self._num_tokens += 1
        self._check(started)

    def _check(self, started: float) -> None:
        took = time.thread_time() - started
        if not self._matcher.is_error() and took <= MAX_STEP_SECONDS:
            return
        self._form.spent = True
        why = _first_line(self._matcher.get_error()) or f"one token took {took:.1f} s"
        raise InvalidArgument(
            f"After {self._num_tokens} tokens the form that the answer must have became too complex: {why}. "
            "Make it less ambiguous.",
            reason="FORM_TOO_COMPLEX",
            completion_tokens=self._num_tokens,
        )


class CompiledForm:
    """Makes a fresh constraint for each sequence.

    They share what the lexer has learnt, and with it the limit on its states: where one sequence reaches it, the form
    is spent, and is to be compiled anew for those that come after.
    """

    def __init__(self, matcher: Any) -> None:
        self.spent = False
        self._matcher = matcher

    def constraint(self) -> Constrained:
        return Constrained(self, self._matcher.deep_copy())


class FormCompiler:
    """Compiles on a thread of its own, and remembers the last of what it compiled, refusals included."""

    def __init__(self, base: ServedBase) -> None:
        self._base = base
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lorry-forms")
        self._tokenizer: Any = None  # made where it is first needed, on the thread
        self._known: OrderedDict[Form, CompiledForm | InvalidArgument] = OrderedDict()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def compile(self, form: Form | None) -> CompiledForm | None:
        """Raises InvalidArgument for a form that cannot be had, FailedPrecondition where the base allows none.

        Unavailable where others' forms take the time: nothing is known of this one then, and nothing remembered.
        """
        if form is None:
            return None
        self._check_base()
        known = self._known.get(form)
        if known is None or (isinstance(known, CompiledForm) and known.spent):
            known = await self._in_time(form)
        remember(self._known, form, known, _REMEMBERED)
        if isinstance(known, InvalidArgument):
            raise known
        return known

    async def _in_time(self, form: Form) -> CompiledForm | InvalidArgument:
        work = self._thread.submit(self._compile, form)
        try:
            async with asyncio.timeout(MAX_COMPILE_SECONDS):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            if work.cancelled():  # it had not begun
                raise Unavailable(
                    f"Other forms are being compiled, and {form.kind} waited {MAX_COMPILE_SECONDS:g} s for its turn; "
                    "retry in a moment.",
                    reason="FORMS_BUSY",
                ) from None
            return InvalidArgument(
                f"{form.kind} was not compiled within {MAX_COMPILE_SECONDS:g} s; make it simpler.",
                reason="FORM_TOO_COMPLEX",
                field=form.kind,
            )

    def _compile(self, form: Form) -> CompiledForm | InvalidArgument:
        from llguidance import LLMatcher, LLParserLimits

        try:
            if form.kind == "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(form.text, defaults=_JSON)
            elif form.kind == "regex":
                grammar = LLMatcher.grammar_from_regex(form.text)
            else:
                grammar = LLMatcher.grammar_from_lark(form.text)
        except ValueError as error:
            return _refused(form, str(error))
        limits = LLParserLimits(**_LIMITS, verbose_errors=False)
        matcher = LLMatcher(self._read_tokenizer(), grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # and what is done once is done before the engine asks
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            return _refused(form, matcher.get_error())
        return CompiledForm(matcher)

    def _read_tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            assert self._base.text is not None
            self._tokenizer = LLTokenizer(
                self._base.text.serialized(),
                n_vocab=self._base.vocab_size,
                eos_token=sorted(self._base.eos_token_ids),
            )
        return self._tokenizer

    def _check_base(self) -> None:
        text = self._base.text
        if text is None or text.serialized() is None or not self._base.eos_token_ids:
            what = (
                "end-of-sequence token" if text is not None and text.serialized() else "tokenizer"
            )
            raise FailedPrecondition(
                f"The base {self._base.name} has no {what} that forms could be held against; ask without "
                "json_schema, regex and grammar.",
                reason="FORMS_NOT_SERVED",
                base=self._base.name,
            )


def requested_form(requested: pb.SamplingParameters) -> Form | None:
    """What the request says, within bounds. Raises InvalidArgument beyond them."""
    kind = requested.WhichOneof("form")
    if kind is None:
        return None
    text: str = getattr(requested, kind)
    size = len(text.encode())
    if not 1 <= size <= MAX_FORM_BYTES:
        raise invalid(kind, f"{size} bytes long", f"1 to {MAX_FORM_BYTES} bytes long")
    if requested.ignore_eos:
        raise InvalidArgument(
            f"ignore_eos goes on past the end, and {kind} says where the end is; ask for one of them.",
            reason="IGNORE_EOS_INVALID",
        )
    return Form(kind, text)


def _refused(form: Form, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"No answer can have the form that {form.kind} describes: {_reason(why)}.",
        reason=f"{form.kind.upper()}_INVALID",
        field=form.kind,
    )


def _reason(why: str) -> str:
    """What llguidance says in its first line, and below it, after a drawing, where a regular expression is wrong."""
    cause = next((line for line in why.splitlines() if line.startswith(_REGEX_CAUSE)), None)
    if cause is None:
        return _first_line(why)
    return f"{_first_line(why).rstrip(':')}: {cause.removeprefix(_REGEX_CAUSE)[:300]}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300].rstrip(".")
