"""`lorry registry migrate`, `gc` and `fsck`: looking after the stores, on a machine that reaches them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_registry.store_options import BlobsOption, DatabaseOption, HomeOption

if TYPE_CHECKING:
    from lorry_registry.catalogue import Catalogue
    from lorry_registry.upkeep.fsck import Checked

_DEFAULT_GRACE_HOURS = 24.0


def register(group: typer.Typer) -> None:
    """Adds the commands to `lorry registry`."""
    group.command("migrate")(migrate)
    group.command("gc")(gc)
    group.command("fsck")(fsck)


def migrate(home: HomeOption = None, database: DatabaseOption = "") -> None:
    """Bring the database to the newest schema; says what it did."""
    from lorry_registry.config import default_home
    from lorry_registry.sql.opening import migrate_database

    done = migrate_database(home or default_home(), database)
    if not done.changed:
        typer.echo(f"the schema is the newest already: {done.after}")
    elif done.before is None:
        typer.echo(f"made the tables: {done.after}")
    else:
        typer.echo(f"the schema went from {done.before} to {done.after}")


def gc(
    home: HomeOption = None,
    database: DatabaseOption = "",
    blobs: BlobsOption = "",
    grace_hours: Annotated[
        float,
        typer.Option(min=0, metavar="H", help="What is younger than this stays: pushes go on."),
    ] = _DEFAULT_GRACE_HOURS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and leave it.")
    ] = False,
) -> None:
    """Purge what was deleted long ago, collect blobs that no version names and what writes left; safe at any time."""
    catalogue = _open(home, database, blobs)
    try:
        done = catalogue.collect(grace_seconds=grace_hours * 3600, dry_run=dry_run)
    finally:
        catalogue.close()
    typer.echo(
        f"{'would purge' if dry_run else 'purged'} {done.purged} deleted adapters and versions, and "
        f"{'collect' if dry_run else 'collected'} {done.blobs} blobs ({done.blob_bytes} bytes) "
        f"and {done.writes} unfinished writes ({done.write_bytes} bytes)"
    )


def fsck(
    home: HomeOption = None,
    database: DatabaseOption = "",
    blobs: BlobsOption = "",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Set corrupt blobs aside, so that pushing their files heals them."
        ),
    ] = False,
) -> None:
    """Check every blob against its digest and every version for its blobs; exits 1 where something is wrong."""
    from lorry_registry.upkeep.fsck import Checked

    checked, wrong = Checked(), 0
    catalogue = _open(home, database, blobs)
    try:
        for finding in catalogue.check(repair=repair, checked=checked):
            typer.echo(str(finding))
            # A corrupt blob that no version names and that is out of the way leaves nothing to do.
            wrong += bool(finding.versions) or not finding.set_aside
    finally:
        catalogue.close()
    typer.echo(_summary(checked, wrong))
    if wrong:
        raise typer.Exit(1)


def _open(home: Path | None, database: str, blobs: str) -> "Catalogue":
    """The catalogue of a registry that is there: a new one, made here, would be found in the best of order."""
    from lorry_registry.config import default_home
    from lorry_registry.embedded import open_catalogue
    from lorry_registry.errors import NotFound

    where = home or default_home()
    if not database and not where.is_dir():
        raise NotFound(
            f"there is no registry at {where}: name its home with --home or LORRY_HOME",
            reason="HOME_NOT_FOUND",
            home=where,
        )
    return open_catalogue(where, database=database, blobs=blobs)


def _summary(checked: "Checked", wrong: int) -> str:
    looked = f"{checked.versions} versions, {checked.blobs} blobs, {checked.blob_bytes} bytes"
    return f"{looked}: {f'{wrong} problems' if wrong else 'all is well'}"
