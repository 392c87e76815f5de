"""Answers that must have a form: they have it, whoever shares the batch; what no answer can have is refused unrun."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from dataclasses import replace

import grpc
import pytest

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import InvalidArgument, Unavailable
from lorry_server.services.forms import Form, FormCompiler
from lorry_server.services.text import TextCodec

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SUM = 'start: term ("+" term){0,3}\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]{1,2}/\n'


def request(text: str = "hello there", **sampling) -> pb.GenerateRequest:
    sampling = {"max_tokens": 150, "temperature": 1.0, **sampling}
    return pb.GenerateRequest(text=text, sampling=pb.SamplingParameters(**sampling))


def is_person(text: str) -> bool:
    read = json.loads(text)
    assert set(read) <= {"name", "age", "tags"}
    assert set(read.get("tags", ())) <= {"a", "b"}
    return len(read["name"]) <= 8 and 0 <= read["age"] <= 150


def is_sum(text: str) -> bool:
    return re.fullmatch(r"[0-9+()]+", text) is not None and isinstance(
        eval(re.sub(r"\b0+(?=\d)", "", text)), int
    )


FORMS = [
    ({"json_schema": json.dumps(PERSON)}, is_person),
    (
        {"regex": "(yes|no|may(be)?), [0-9]{2,4}"},
        re.compile("(yes|no|may(be)?), [0-9]{2,4}").fullmatch,
    ),
    ({"grammar": SUM}, is_sum),
]


async def test_answers_have_their_form_and_the_others_are_as_ever(start_real):
    """Sampled from a base that knows nothing of the forms, one by one and all in one batch."""
    async with start_real() as node:
        free = request(seed=3, max_tokens=40)
        alone = await node.inference.GenerateUnary(free)
        asked = [(request(seed=seed, **form), holds) for seed in range(3) for form, holds in FORMS]
        first = [await node.inference.GenerateUnary(one) for one, _ in asked]
        answers = await asyncio.gather(
            node.inference.GenerateUnary(free),
            *(node.inference.GenerateUnary(one) for one, _ in asked),
        )
        assert answers[0].token_ids == alone.token_ids
        complete = 0
        for (_, holds), before, answer in zip(asked, first, answers[1:], strict=True):
            assert answer.token_ids == before.token_ids
            if answer.completion.finish_reason == pb.FINISH_REASON_STOP:
                assert holds(answer.text), answer.text
                complete += 1
        assert complete >= 6


async def test_several_answers_each_have_the_form(start_real):
    async with start_real() as node:
        asked = request(n=4, seed=1, regex="[ab]{3}-[0-9]{2}")
        answer = await node.inference.GenerateUnary(asked)
        texts = [answer.text, *(other.text for other in answer.alternatives)]
        assert all(re.fullmatch("[ab]{3}-[0-9]{2}", text) for text in texts)
        assert len(set(texts)) > 1
        greedy = await node.inference.GenerateUnary(request(temperature=0, regex="(x|y){5}"))
        assert re.fullmatch("(x|y){5}", greedy.text)
        assert greedy.completion.finish_reason == pb.FINISH_REASON_STOP


def schema(value) -> dict[str, str]:
    return {"json_schema": json.dumps(value)}


IMPOSSIBLE = [
    (schema(False), "JSON_SCHEMA_INVALID"),
    (schema({"type": "integer", "minimum": 5, "maximum": 3}), "JSON_SCHEMA_INVALID"),
    (schema({"allOf": [{"type": "integer"}, {"type": "string"}]}), "JSON_SCHEMA_INVALID"),
    (schema({"enum": []}), "JSON_SCHEMA_INVALID"),
    (
        schema({"type": "object", "properties": {"a": False}, "required": ["a"]}),
        "JSON_SCHEMA_INVALID",
    ),
    (schema({"$ref": "https://example.org/schema.json"}), "JSON_SCHEMA_INVALID"),
    (schema({"type": "array", "uniqueItems": True}), "JSON_SCHEMA_INVALID"),
    (schema(5), "JSON_SCHEMA_INVALID"),
    ({"json_schema": '{"type":'}, "JSON_SCHEMA_INVALID"),
    ({"json_schema": "x" * (3 << 20)}, "JSON_SCHEMA_INVALID"),
    ({"json_schema": ""}, "JSON_SCHEMA_INVALID"),
    ({"json_schema": '{"items":' * 5000 + "{}" + "}" * 5000}, "JSON_SCHEMA_INVALID"),
    ({"regex": "[a-z"}, "REGEX_INVALID"),
    ({"regex": "(" * 20000 + "a" + ")" * 20000}, "REGEX_INVALID"),
    ({"grammar": "start: nowhere"}, "GRAMMAR_INVALID"),
    ({"grammar": "start: start"}, "GRAMMAR_INVALID"),
    ({"grammar": 'first: "a"'}, "GRAMMAR_INVALID"),
    ({"grammar": "start: " + "(" * 20000 + '"a"' + ")" * 20000}, "GRAMMAR_INVALID"),
    # Bombs: small texts that mean enormous ones.
    (
        schema(
            {
                "allOf": [
                    {
                        "oneOf": [
                            {
                                "type": "object",
                                "properties": {f"a{i}": {"const": j}},
                                "required": [f"a{i}"],
                            }
                            for j in range(4)
                        ]
                    }
                    for i in range(12)
                ]
            }
        ),
        "JSON_SCHEMA_INVALID",
    ),
    (
        {
            "grammar": "start: r0\n"
            + "".join(f"r{i}: " + f"r{i + 1} " * 8 + "\n" for i in range(3000))
            + 'r3000: "a"'
        },
        "GRAMMAR_INVALID",
    ),
    ({"regex": "x", "ignore_eos": True}, "IGNORE_EOS_INVALID"),
]


@pytest.mark.parametrize(
    ("form", "reason"),
    IMPOSSIBLE,
    ids=[f"{reason}-{i}" for i, (_, reason) in enumerate(IMPOSSIBLE)],
)
async def test_what_no_answer_can_have(node, form, reason):
    code, given, _ = await node.refusal(request(**form))
    assert (code, given) == (INVALID, reason)
    assert not node.engine.submitted
    await node.generate(request(max_tokens=2))


async def test_a_schema_of_10_mb_is_no_message_that_the_server_reads(node):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await node.generate(request(json_schema="x" * (10 << 20)))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await node.generate(request(max_tokens=2))


async def test_a_base_that_forms_cannot_be_held_against(start_node, base):
    for served in (replace(base, text=None), replace(base, eos_token_ids=frozenset())):
        async with start_node(served) as node:
            asked = request(regex="x")
            asked.tokens.token_ids.extend([5, 6])
            code, reason, _ = await node.refusal(asked)
            assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FORMS_NOT_SERVED")


@pytest.fixture
def compiler(base):
    made = FormCompiler(base)
    yield made
    made.close()


async def test_a_form_that_was_compiled_is_remembered_and_so_is_a_refusal(compiler, monkeypatch):
    compiled: list[Form] = []
    compile_form = compiler._compile
    monkeypatch.setattr(
        compiler, "_compile", lambda form: compiled.append(form) or compile_form(form)
    )
    for _ in range(3):
        assert await compiler.compile(Form("regex", "a+")) is not None
        with pytest.raises(InvalidArgument):
            await compiler.compile(Form("regex", "[a"))
    assert len(compiled) == 2
    for number in range(100):
        await compiler.compile(Form("regex", f"a{{{number + 1}}}"))
    assert len(compiler._known) <= 64


async def test_a_refused_regular_expression_says_what_is_wrong_with_it(compiler):
    """The refusal ended in "regex parse error:", and what stood below the drawing of the expression was lost."""
    for wrong, cause in (("(", "unclosed group"), ("(?=a)b", "look-ahead")):
        with pytest.raises(InvalidArgument) as refused:
            await compiler.compile(Form("regex", wrong))
        assert cause in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_a_form_that_takes_too_long_is_refused(compiler, monkeypatch):
    import time

    monkeypatch.setattr("lorry_server.services.forms.MAX_COMPILE_SECONDS", 0.05)
    monkeypatch.setattr(compiler, "_compile", lambda form: time.sleep(0.5))
    with pytest.raises(InvalidArgument) as refused:
        await compiler.compile(Form("regex", "a+"))
    assert refused.value.reason == "FORM_TOO_COMPLEX"


async def test_a_form_that_never_had_its_turn_is_not_refused_for_ever(compiler, monkeypatch):
    """Bug: while one form held the thread, those behind it ran out of time and were remembered as too complex."""
    begun, go_on = threading.Event(), threading.Event()
    compile_form = compiler._compile

    def slow(form):
        begun.set()
        assert go_on.wait(60)
        return compile_form(form)

    monkeypatch.setattr(compiler, "_compile", slow)
    first = asyncio.ensure_future(compiler.compile(Form("regex", "a+")))
    await asyncio.to_thread(begun.wait, 60)
    with monkeypatch.context() as hurried:
        hurried.setattr("lorry_server.services.forms.MAX_COMPILE_SECONDS", 0.01)
        with pytest.raises(Unavailable) as busy:
            await compiler.compile(Form("regex", "b+"))
    assert busy.value.reason == "FORMS_BUSY"
    go_on.set()
    assert await first is not None
    assert await compiler.compile(Form("regex", "b+")) is not None


def follow(constraint, ids: list[int], steps: int) -> None:
    """Any of the ids that may come next, one after the other."""
    dice = random.Random(0)
    for _ in range(steps):
        mask = constraint.allowed()
        constraint.accept(dice.choice([i for i in ids if mask[i // 8] >> i % 8 & 1]))


@pytest.mark.parametrize(
    "bomb",
    [
        Form("grammar", 'start: x\nx: x x x | "a" | ""'),
        Form("regex", "(.|\n)*a(.|\n){200}b"),
    ],
    ids=["ambiguous", "many states"],
)
async def test_what_explodes_as_it_runs_ends_its_own_sequence_within_a_bounded_time(
    compiler, tokenizer, bomb
):
    """It compiles, for it is small; each step costs more than the one before, until a limit is reached."""
    form = await compiler.compile(bomb)
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ab"]
    with pytest.raises(InvalidArgument) as ended:
        follow(form.constraint(), ids, steps=5000)
    assert ended.value.reason == "FORM_TOO_COMPLEX"
    # Sequences of one form share its lexer. Bug: one that had filled it spoiled the form for all that came after.
    again = await compiler.compile(bomb)
    assert again.constraint().allowed()


async def test_the_masks_know_a_tokenizer_that_falls_back_to_bytes(base, byte_fallback_tokenizer):
    """As sentencepiece makes them: a character without a token of its own is spelled in bytes."""
    tokenizer = byte_fallback_tokenizer
    served = replace(
        base,
        text=TextCodec(tokenizer),
        vocab_size=len(tokenizer),
        eos_token_ids=frozenset({tokenizer.eos_token_id}),
    )
    compiler = FormCompiler(served)
    form = await compiler.compile(Form("regex", "[éa]漢"))
    constraint = form.constraint()
    token_ids = [*"é漢".encode()]
    for byte in token_ids:
        token_id = tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>")
        assert constraint.allowed()[token_id // 8] >> token_id % 8 & 1
        constraint.accept(token_id)
    end = tokenizer.eos_token_id
    assert constraint.allowed()[end // 8] >> end % 8 & 1
    compiler.close()
