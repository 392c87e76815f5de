"""`lorry generate`: text out of the base and any adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli.output import note, print_json
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_client.compositions import is_expression, parse

if TYPE_CHECKING:
    from lorry_client.compositions import Composition
    from lorry_client.results import Completion
    from lorry_client.sampling import Message, Prompt, Sampling


def register(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to continue.", show_default=False)
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            "-a",
            metavar="REF",
            help="name, name@alias, name:3 or name@sha256:…; several as one: a*0.7+b*0.3. Without, the bare base.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="How several adapters become one: sum (exact), svd, ties, …",
            show_default=False,
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(metavar="D", help="The share that ties, dare_… and magnitude_prune keep."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="At most this many new tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="0 chooses the likeliest token.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="N", help="Choose among this many likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Choose among tokens of this probability.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Choose among tokens P times as likely as the likeliest."),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Above 1: tokens seen before are less likely.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Off the logits of what the answer has.")
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="The same, for each time that it has it.")
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=X", help="Add X to the logit of a token id; repeatable."),
    ] = None,
    bad_word: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Must not occur; repeatable.")
    ] = None,
    min_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="No end before this many tokens.")
    ] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(metavar="JSON|@FILE", help="A schema that the answer must have."),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(metavar="RE", help="What the answer must match.")
    ] = None,
    grammar: Annotated[
        str | None, typer.Option(metavar="LARK|@FILE", help="A grammar that it must have.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", help="So many answers; needs a temperature.")
    ] = None,
    best_of: Annotated[
        int | None, typer.Option(metavar="N", help="Generate so many, and show the best.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="The same seed gives the same text.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; repeatable.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on past the end-of-sequence token.")
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Report log-probabilities and N alternatives; with --json."),
    ] = None,
    prompt_logprobs: Annotated[
        int | None, typer.Option(metavar="N", help="The same for the prompt; with --json.")
    ] = None,
    token_ids: Annotated[
        str | None, typer.Option(metavar='"1 2 3"', help="The prompt as token ids.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send PROMPT as a user's message, not as plain text.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message before it; means --chat.")
    ] = None,
    sticky_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Who asks: the same key gets the same version of a divided alias."
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option("--merged", help="Begin once the adapter is merged into the weights."),
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after this long.")
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text; without --json a single answer streams."""
    shared = session(ctx, server, as_json)
    if (logprobs is not None or prompt_logprobs is not None) and not shared.as_json:
        raise typer.BadParameter("log-probabilities are printed with --json only.")
    sent = _prompt(prompt, token_ids, chat or system is not None, system)
    sampling: Sampling = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "logit_bias": _biases(logit_bias or ()),
        "bad_words": bad_word or (),
        "min_tokens": min_tokens,
        "json_schema": _read(json_schema),
        "regex": regex,
        "grammar": _read(grammar),
        "n": n,
        "best_of": best_of,
        "seed": seed,
        "stop": stop or (),
        "ignore_eos": ignore_eos,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
    }
    target = composed(adapter, method, density)
    with shared.connect() as client:
        if shared.as_json or (n is not None and n > 1):
            whole = client.generate(
                sent, target, sticky_key=sticky_key, merged=merged, timeout=timeout, **sampling
            )
            if shared.as_json:
                print_json(whole)
            else:
                _print_all([whole, *whole.alternatives])
            return
        completion = None
        text = ""
        answer = client.stream(
            sent, target, sticky_key=sticky_key, merged=merged, timeout=timeout, **sampling
        )
        with closing(answer) as chunks:
            for chunk in chunks:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
                text = chunk.text or text
                completion = chunk.completion
    if not text.endswith("\n"):
        sys.stdout.write("\n")
    for warning in completion.warnings if completion is not None else ():
        note(f"warning: {warning}")
    if completion is not None and sys.stderr.isatty():
        note(_summary(completion))


def composed(
    adapter: str | None, method: str | None, density: float | None
) -> str | Composition | None:
    """What acts, with the options of a composition put to those that stand in the expression itself."""
    if method is None and density is None:
        return adapter
    if adapter is None or not is_expression(adapter):
        raise typer.BadParameter("--method and --density are for several adapters: -a a*0.7+b*0.3.")
    read = parse(adapter)
    return replace(
        read,
        method=read.method if method is None else method,
        density=read.density if density is None else density,
    )


def _print_all(answers: list[Completion]) -> None:
    for number, answer in enumerate(answers, start=1):
        note(f"answer {number} of {len(answers)}")
        sys.stdout.write(answer.text if answer.text.endswith("\n") else f"{answer.text}\n")
        sys.stdout.flush()


def _read(written: str | None) -> str | None:
    """What was written, or what the file after an @ holds."""
    if written is None or not written.startswith("@"):
        return written
    try:
        return Path(written[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{written[1:]} cannot be read: {error}.") from error


def _biases(written: Sequence[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for one in written:
        token_id, _, bias = one.partition("=")
        try:
            biases[int(token_id)] = float(bias)
        except ValueError as error:
            raise typer.BadParameter(f"--logit-bias takes ID=X, not {one!r}.") from error
    return biases


def _prompt(prompt: str | None, token_ids: str | None, chat: bool, system: str | None) -> Prompt:
    if token_ids is not None:
        if prompt is not None or chat:
            raise typer.BadParameter(
                "--token-ids is the whole prompt; leave PROMPT and --chat out."
            )
        try:
            return [int(one) for one in token_ids.replace(",", " ").split()]
        except ValueError as error:
            raise typer.BadParameter(f"--token-ids takes whole numbers: {error}.") from error
    if prompt is None:
        raise typer.BadParameter("PROMPT is missing; give it, or --token-ids.")
    if not chat:
        return prompt
    turns: list[Message] = [{"role": "user", "content": prompt}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _summary(completion: Completion) -> str:
    seconds = completion.timings.total_seconds
    rate = f", {completion.usage.completion_tokens / seconds:.0f} tokens/s" if seconds else ""
    return (
        f"{completion.adapter or 'bare base'}: {completion.usage.completion_tokens} tokens after "
        f"{completion.usage.prompt_tokens}, {completion.finish_reason}{rate}"
    )
