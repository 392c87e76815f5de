"""The whole of Lorry on one machine in a few minutes: train, publish, serve side by side, upgrade under traffic.

    make demo

Everything happens through the product's own doors: the `lorry` command and `lorry_client.AsyncClient`.
Files go to a temporary folder and are gone afterwards, with the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from traffic import Question, measure, score, under_traffic

import lorry_trainer.examples

EXAMPLES = Path(lorry_trainer.examples.__file__).parent
TASKS = ("intent", "booking", "redact")
LORRY = [sys.executable, "-m", "lorry_client"]
CLIENTS = 24  # concurrent streams
ROUNDS = 3  # of base only against mixed

console = Console()


@dataclass(frozen=True)
class Trained:
    """A folder that the trainer wrote, and what it scored there."""

    folder: Path
    base_score: float
    adapter_score: float


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lorry-demo-") as scratch:
        home = Path(scratch)

        say("1. Train an adapter for each task: LoRA on lorry-tiny, scored on held-out rows")
        quick = train("intent-quick", home)
        trained = {task: train(task, home) for task in TASKS}

        say("2. Serve the base in 4 bits and publish the adapters")
        with server(home) as address:
            for task in TASKS:
                folder = quick.folder if task == "intent" else trained[task].folder
                console.print(
                    f"   {lorry('push', folder, task, '--alias', 'production', at=address)}"
                )

            say(
                f"3. Ask all of them at once: {CLIENTS} streams, every adapter and the bare base in the same batches"
            )
            questions = {task: held_out(task) for task in TASKS}
            ratios = asyncio.run(rounds(address, questions))

            say("4. Move `intent` to a better version while traffic runs")
            upgrade = asyncio.run(
                under_traffic(
                    address, questions, CLIENTS, lambda: publish(trained["intent"], address)
                )
            )
            console.print(
                f"   {upgrade.requests} requests, {upgrade.failures} failed; {upgrade.before} answers came from the old "
                f"version, {upgrade.after} from the new one, {upgrade.stale} from the old one after the move"
            )

            say("5. Score the adapters through the server")
            served = {task: asyncio.run(score(address, task, questions[task])) for task in TASKS}

    show(trained, quick, served, ratios)
    console.print(f"done in {time.monotonic() - started:.0f} s; nothing is left running")
    return 0 if upgrade.failures == upgrade.stale == 0 else 1


def say(line: str) -> None:
    console.print(f"\n[bold]{line}[/bold]")


def lorry(*words: object, at: str) -> str:
    """Runs a `lorry` command; its notes go to the terminal, its data comes back."""
    command = [*LORRY, *map(str, words), "--server", at]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def train(recipe: str, home: Path) -> Trained:
    folder = home / "adapters" / recipe
    command = [*LORRY, "train", EXAMPLES / f"{recipe}.yaml", "--output", folder, "--json"]
    console.print(f"   lorry train {recipe}.yaml")
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(ran.stdout)
    metric, metrics = result["metric"], result["metrics"]
    return Trained(folder, metrics[f"base_test_{metric}"], metrics[f"test_{metric}"])


@contextmanager
def server(home: Path) -> Iterator[str]:
    """A server of its own on free ports; gone when the block ends."""
    command = [
        *LORRY,
        "serve",
        "--home",
        home / "home",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            console.print(f"   {line.rstrip()}", markup=False, highlight=False)
            if found := re.search(r"listening on (\S+)", line):
                # The pipe must not fill up while the server talks on.
                os.set_blocking(process.stderr.fileno(), False)
                yield found[1]
                break
        else:
            raise RuntimeError(f"the server did not start (exit code {process.wait()})")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def held_out(task: str) -> list[Question]:
    """The task's test rows: the same that the trainer scored, and never trained on."""
    from lorry_trainer.data import choose, load
    from lorry_trainer.recipe_file import read_recipe

    recipe = read_recipe(EXAMPLES / f"{task}.yaml")
    rows = load(recipe.data, EXAMPLES, recipe.training.seed).test
    chosen = choose(rows, recipe.evaluation.max_rows, recipe.training.seed)
    return [Question(row.prompt, row.answer) for row in chosen]


async def rounds(address: str, questions: dict[str, list[Question]]) -> list[float]:
    """Tokens/s with every adapter in the batch ÷ tokens/s of the base alone, round by round."""
    ratios: list[float] = []
    adapters = [None, *questions]
    await measure(
        address, questions, CLIENTS, adapters
    )  # every adapter is loaded, every path is warm
    for _ in range(ROUNDS):
        base = await measure(address, questions, CLIENTS, [None])
        mixed = await measure(address, questions, CLIENTS, adapters)
        ratios.append(mixed / base)
        console.print(f"   base only {base:.0f} tokens/s, mixed {mixed:.0f} tokens/s")
    return ratios


def publish(trained: Trained, address: str) -> None:
    lorry("push", trained.folder, "intent", at=address)
    lorry("aliases", "set", "intent", "production", "intent:2", at=address)


def show(
    trained: dict[str, Trained], quick: Trained, served: dict[str, float], ratios: list[float]
) -> None:
    table = Table("task", "base", "adapter, through the server", "tokens/s mixed ÷ base only")
    for task in TASKS:
        adapter = f"{served[task]:.2f}"
        if task == "intent":
            adapter += f"  (version 1: {quick.adapter_score:.2f})"
        table.add_row(task, f"{trained[task].base_score:.2f}", adapter, f"{median(ratios):.2f}")
    console.print()
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
