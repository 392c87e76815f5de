"""`lorry versions`: what was published, and what is said of it since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli import insights, output, pairs
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from lorry_client.results import Lineage, Version

ChangesArgument = Annotated[
    list[str], typer.Argument(metavar="KEY=VALUE…", help="KEY=VALUE to set, KEY- to take away.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name.")]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="name, name@alias, name:3 or name@sha256:….")
]
WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="For those who ask later.", show_default=False)
]
OwedWhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="Those who use the version are told.")
]

_SHOWN_METRICS = 4


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="List versions, and say what is to be thought of them.", no_args_is_help=True
    )
    group.callback()(_shared_options)
    for command in (
        ls,
        show,
        label,
        annotate,
        describe,
        evals,
        deprecate,
        undeprecate,
        block,
        unblock,
    ):
        group.command(command.__name__)(command)
    insights.register(group)
    app.add_typer(group, name="versions")


def _shared_options(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    session(ctx, server, as_json)


def ls(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="[namespace/]name; without, all adapters'."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NS", help="Only this namespace's, without a NAME.")
    ] = None,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="F",
            help='Such as: rank <= 16 AND labels.team = "x" AND metrics.test_exact_match >= 0.9',
            show_default=False,
        ),
    ] = "",
    order_by: Annotated[
        str,
        typer.Option(
            metavar="FIELD", help="Such as: 'metrics.test_exact_match desc'.", show_default=False
        ),
    ] = "",
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List versions, newest first."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        versions = client.versions(name, namespace=namespace, filter=filter_, order_by=order_by)
    if shared.as_json:
        output.print_json({"versions": versions})
    else:
        print_versions(versions, named=name is None)


def show(
    ctx: typer.Context,
    reference: ReferenceArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a version: its files, its lineage and its state."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        version = client.resolve(reference)
    if shared.as_json:
        output.print_json(version)
    else:
        _print_version(version)


def label(
    ctx: typer.Context,
    reference: ReferenceArgument,
    changes: ChangesArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set and take away labels: KEY=VALUE, KEY-."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        version = client.resolve(reference)
        labels = pairs.changed(version.labels, changes)
        version = client.update_version(version.reference, labels=labels, etag=version.etag or None)
    _noted(version, pairs.shown(version.labels), shared.as_json)


def annotate(
    ctx: typer.Context,
    reference: ReferenceArgument,
    changes: ChangesArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set and take away annotations: KEY=VALUE, KEY-."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        version = client.resolve(reference)
        notes = pairs.changed(version.annotations, changes)
        version = client.update_version(
            version.reference, annotations=notes, etag=version.etag or None
        )
    _noted(version, pairs.shown(version.annotations), shared.as_json)


def describe(
    ctx: typer.Context,
    reference: ReferenceArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is new, in a sentence.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say anew what is new in a version."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        version = client.update_version(reference, description=text)
    _noted(version, version.description, shared.as_json)


def evals(
    ctx: typer.Context,
    reference: ReferenceArgument,
    add: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Add an evaluation, with --metric.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="A figure; repeatable.")
    ] = None,
    dataset: Annotated[
        str, typer.Option(metavar="NAME", help="What it was measured on.", show_default=False)
    ] = "",
    dataset_digest: Annotated[
        str, typer.Option(metavar="DIGEST", help="sha256:… of its bytes.", show_default=False)
    ] = "",
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="How, in a sentence.", show_default=False)
    ] = "",
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a version's evaluations, newest first, or add one, which then stays."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        if add is not None:
            from lorry_client.results import Dataset

            told = Dataset(dataset, dataset_digest, "", 0) if dataset or dataset_digest else None
            client.add_evaluation(
                reference,
                add,
                pairs.numbers(metric or ()),
                dataset=told,
                description=description,
            )
        found = client.evaluations(reference)
    if shared.as_json:
        output.print_json({"evaluations": found})
        return
    output.print_table(
        ["NUMBER", "TITLE", "METRICS", "DATA", "WHO", "TIME", "DESCRIPTION"],
        [
            [
                str(one.number),
                one.title,
                " ".join(f"{name}={value:.4g}" for name, value in sorted(one.metrics.items())),
                "" if one.dataset is None else one.dataset.name or one.dataset.digest,
                one.principal,
                output.time(one.create_time),
                one.description,
            ]
            for one in found
        ],
    )


def deprecate(
    ctx: typer.Context,
    reference: ReferenceArgument,
    why: OwedWhyOption,
    replacement: Annotated[
        str, typer.Option(metavar="REF", help="What to use instead.", show_default=False)
    ] = "",
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a version should not be used any more: its answers carry a warning."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        _said(client.deprecate(reference, why, replacement=replacement), shared.as_json)


def undeprecate(
    ctx: typer.Context,
    reference: ReferenceArgument,
    why: WhyOption = "",
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a deprecation back."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        _said(client.undeprecate(reference, why=why), shared.as_json)


def block(
    ctx: typer.Context,
    reference: ReferenceArgument,
    why: OwedWhyOption,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forbid the use of a version: servers refuse it, end what runs with it, and unload it."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        _said(client.block(reference, why), shared.as_json)


def unblock(
    ctx: typer.Context,
    reference: ReferenceArgument,
    why: WhyOption = "",
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a block back."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        _said(client.unblock(reference, why=why), shared.as_json)


def print_versions(versions: list[Version], *, named: bool = False) -> None:
    """A table; `named` with the adapters' names."""
    output.print_table(
        ["VERSION", "DIGEST", "RANK", "SIZE", "CREATED", "STATE", "METRICS", "DESCRIPTION"],
        [
            [
                f"{version.adapter}:{version.number}" if named else str(version.number),
                output.short_digest(version.digest),
                str(version.spec.max_rank),
                output.size(version.size_bytes),
                output.time(version.create_time),
                "" if version.state == "active" else version.state,
                _metrics(version.lineage),
                version.description,
            ]
            for version in versions
        ],
    )


def print_lineage(version: Version) -> None:
    lineage = version.lineage
    base = f"{lineage.base_name}  {output.short_digest(lineage.base_fingerprint)}".strip()
    lines = [("base", base), ("producer", lineage.producer), ("code", lineage.code_revision)]
    lines += [
        (
            "data",
            f"{one.split}: {one.name}, {one.row_count} rows  {output.short_digest(one.digest)}",
        )
        for one in lineage.datasets
    ]
    lines += [("parent", output.short_digest(parent)) for parent in lineage.parents]
    if any(value for _, value in lines):
        output.print_data(f"\nlineage of version {version.number}")
        output.print_pairs(lines)


def _print_version(version: Version) -> None:
    output.print_data(f"{version.adapter}:{version.number}")
    lines = [
        ("digest", version.digest),
        ("about", version.description),
        ("created", output.time(version.create_time)),
        ("rank", str(version.spec.max_rank)),
        ("metrics", _metrics(version.lineage)),
        ("labels", pairs.shown(version.labels)),
        ("notes", pairs.shown(version.annotations)),
        ("state", _state(version)),
    ]
    lines += [
        ("file", f"{file.path}  {output.size(file.size_bytes)}  {output.short_digest(file.digest)}")
        for file in version.files
    ]
    output.print_pairs(lines)
    print_lineage(version)


def _noted(version: Version, text: str, as_json: bool) -> None:
    if as_json:
        output.print_json(version)
    else:
        output.print_data(f"{version.adapter}:{version.number}  {text}".rstrip())


def _said(version: Version, as_json: bool) -> None:
    if as_json:
        output.print_json(version)
        return
    output.print_data(version.reference)
    output.note(f"{version.adapter}:{version.number} is {_state(version)}")


def _state(version: Version) -> str:
    if version.block_reason is not None:
        return f"blocked: {version.block_reason}"
    if version.deprecation is None:
        return version.state
    instead = version.deprecation.replacement
    return f"deprecated: {version.deprecation.reason}" + (f"; use {instead}" if instead else "")


def _metrics(lineage: Lineage) -> str:
    """The first few of the whole, those of held-out rows where there are any; `--json` has all of them.

    What is told of parts (`conversion_error/<layer>`) and of how sure a figure is would hide the rest.
    """
    whole = {
        name: value
        for name, value in lineage.metrics.items()
        if "/" not in name and not name.endswith(("_low", "_high"))
    }
    held_out = {name: value for name, value in whole.items() if name.startswith("test_")}
    figures = sorted((held_out or whole).items())
    shown = [f"{name}={value:.4g}" for name, value in figures[:_SHOWN_METRICS]]
    return " ".join([*shown, "…"] if len(figures) > _SHOWN_METRICS else shown)
