"""`lorry convert DIR OUT`. Importing this module must stay cheap: `lorry --help` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorry_client.cli.output import note, print_data, print_error, print_json
from lorry_client.cli.session import JsonOption, session


def register(app: typer.Typer) -> None:
    """Add the command to `lorry`."""
    app.command("convert")(convert)


def convert(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT adapter folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="BASE", help="The base it was trained on, not the one it names."),
    ] = None,
    rank: Annotated[
        int, typer.Option(metavar="R", min=1, max=4096, help="The largest rank of a layer.")
    ] = 64,
    energy: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            min=0.0,
            max=1.0,
            help="The share of each layer's change to keep, by squared singular values. [default: all]",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the LoRA that changes the base as an adapter of another kind does (LoHa, LoKr, VeRA, OFT, …).

    `lorry push` does it by itself, with these defaults. Ends with 2 where the adapter cannot be converted.
    """
    shared = session(ctx, None, as_json)
    from rich.console import Console

    from lorry_trainer.errors import ConversionError, TrainerError

    console = Console(stderr=True)
    console.print("loading…", style="dim")
    try:
        try:
            from lorry_trainer.quiet import quiet_logs

            quiet_logs()
            from lorry_trainer.convert.convert import convert as convert_to_lora
            from lorry_trainer.convert.factors import EXACT
            from lorry_trainer.progress import Bars
        except ImportError as error:
            raise ConversionError(
                f"converting an adapter needs more libraries ({error}): pip install 'lorry[trainer]'"
            ) from error
        with Bars(console) as bars:
            done = convert_to_lora(
                folder,
                out,
                base=base,
                max_rank=rank,
                energy=EXACT if energy is None else energy,
                overwrite=overwrite,
                progress=bars,
            )
    except TrainerError as error:
        print_error(error, shared.as_json)
        raise typer.Exit(error.exit_code) from None
    note(str(done))
    if shared.as_json:
        layers = {path: {"rank": one.rank, "error": one.error} for path, one in done.layers.items()}
        print_json(
            {
                "output": str(out),
                "kind": done.kind,
                "rank": done.rank,
                "error": done.error,
                "layers": layers,
            }
        )
    else:
        print_data(str(out))
