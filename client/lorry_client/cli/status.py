"""`lorry status`: what a server runs, how busy it is and which adapters it holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from lorry_client.results import Merge, RegistryLink, Resident, Status


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show what the server runs and how busy it is."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        current = client.status()
        residents = client.residents()
    if shared.as_json:
        output.print_json({**asdict(current), "residents": residents})
        return
    for label, value in _lines(current):
        output.print_data(f"{label:<13}{value}")
    if residents:
        output.print_data("")
        output.print_table(
            [
                "ADAPTER",
                "DIGEST",
                "TIER",
                "RANK",
                "SIZE",
                "EFFECT",
                "PINNED",
                "IN FLIGHT",
                "LAST USED",
            ],
            [_row(resident) for resident in residents],
        )


def _lines(current: Status) -> list[tuple[str, str]]:
    blocks = f"{current.kv_blocks_used} of {current.kv_blocks_total}"
    merge = [("merged", _merge(current.merge))] if current.merge is not None else []
    return [
        ("base", current.base),
        ("fingerprint", current.base_fingerprint),
        ("device", current.device),
        ("context", f"{current.context_length} tokens"),
        ("requests", f"{current.running_requests} running, {current.queued_requests} queued"),
        *([("KV blocks", blocks)] if current.kv_blocks_total else []),  # an encoder has none
        ("slots", f"{current.slots_used} of {current.slots_total}, rank up to {current.max_rank}"),
        *merge,
        ("registry", _registry(current.registry)),
        ("since", output.time(current.start_time)),
        ("version", current.version),
    ]


def _registry(link: RegistryLink | None) -> str:
    if link is None:
        return ""
    if link.connected:
        return f"{link.address}, followed up to event {link.position}"
    return f"{link.address}, CUT OFF for {link.silence_seconds:.0f} s: what was known is served on"


def _merge(merge: Merge) -> str:
    name = ", ".join(merge.references) or output.short_digest(merge.digest)
    state = f"{output.size(merge.size_bytes)}, " if merge.active else "in the making, "
    return f"{name}, {state}by {merge.cause}"


def _row(resident: Resident) -> list[str]:
    return [
        ", ".join(resident.references),
        output.short_digest(resident.digest),
        resident.tier,
        str(resident.rank),
        output.size(resident.size_bytes),
        "" if resident.logit_change is None else f"{resident.logit_change:.2g}",
        "yes" if resident.pinned else "",
        str(resident.requests_in_flight or ""),
        output.time(resident.last_used_time),
    ]
