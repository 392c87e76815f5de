"""`lorry score`, `lorry embed` and `lorry classify`: what an adapter makes of a prompt, without generating."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from lorry_client.cli.output import print_data, print_json, print_table
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_client.sampling import Pooling

if TYPE_CHECKING:
    from lorry_client.results import TokenClassification

AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="REF",
        help="name, name@alias, name:3, name@sha256:… or a*0.7+b*0.3; without, the bare base.",
    ),
]
TimeoutOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Give up after this long.")
]


def register(app: typer.Typer) -> None:
    app.command("score")(score)
    app.command("embed")(embed)
    app.command("classify")(classify)


def score(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What they continue.")],
    continuations: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="What may follow, spaces included.")
    ],
    adapter: AdapterOption = None,
    logprobs: Annotated[
        int, typer.Option(metavar="N", help="The N likeliest beside each token; with --json.")
    ] = 0,
    timeout: TimeoutOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score continuations of a prompt: their log-probabilities, likeliest first."""
    shared = session(ctx, server, as_json)
    if logprobs and not shared.as_json:
        raise typer.BadParameter("log-probabilities of tokens are printed with --json only.")
    with shared.connect() as client:
        scored = client.score(prompt, continuations, adapter, logprobs=logprobs, timeout=timeout)
    if shared.as_json:
        print_json(scored)
        return
    ranked = sorted(zip(scored.scores, continuations, strict=True), key=lambda one: -one[0].logprob)
    print_table(
        ("LOGPROB", "BY TOKEN", "TOKENS", "GREEDY", "TEXT"),
        [
            (
                f"{one.logprob:.4f}",
                f"{one.mean_logprob:.4f}",
                str(len(one.tokens)),
                "yes" if one.greedy else "",
                text,
            )
            for one, text in ranked
        ],
    )


def embed(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to embed.")],
    adapter: AdapterOption = None,
    pooling: Annotated[
        str, typer.Option(metavar="HOW", help="last: the last token's state; mean: of all.")
    ] = "last",
    normalize: Annotated[bool, typer.Option("--normalize", help="To length 1.")] = False,
    timeout: TimeoutOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a prompt as a vector, its numbers separated by spaces."""
    shared = session(ctx, server, as_json)
    how = cast(Pooling, pooling)  # what is none is refused by name
    with shared.connect() as client:
        embedding = client.embed(prompt, adapter, pooling=how, normalize=normalize, timeout=timeout)
    if shared.as_json:
        print_json(embedding)
    else:
        print_data(" ".join(f"{value:.7g}" for value in embedding.vector))


def classify(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to classify.")],
    adapter: Annotated[
        str,
        typer.Option("--adapter", "-a", metavar="REF", help="One that was trained to classify."),
    ],
    pair: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A second text, for heads that judge two together."),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Tell the likeliest label of every token.")
    ] = False,
    timeout: TimeoutOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify a prompt by an adapter's own head: its labels, likeliest first, by name where it names them."""
    shared = session(ctx, server, as_json)
    if tokens:
        with shared.connect() as client:
            each = client.classify_tokens(prompt, adapter, pair=pair, timeout=timeout)
        _tell_tokens(each, (prompt, pair or ""), shared.as_json)
        return
    with shared.connect() as client:
        told = client.classify(prompt, adapter, pair=pair, timeout=timeout)
    if shared.as_json:
        print_json(told)
        return
    ranked = sorted(told.labels, key=lambda label: -label.logit)
    print_table(
        ("LABEL", "PROBABILITY", "LOGIT"),
        [
            (one.name or str(one.index), f"{one.probability:.4f}", f"{one.logit:.4f}")
            for one in ranked
        ],
    )


def _tell_tokens(told: TokenClassification, texts: tuple[str, str], as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    rows = []
    for token in told.tokens:
        if token.start < token.end:
            best = token.best
            name = told.labels[best] if told.labels else str(best)
            place = texts[token.in_pair][token.start : token.end]
            rows.append((place, name, f"{token.logits[best]:.4f}"))
    print_table(("TOKEN", "LABEL", "LOGIT"), rows)
