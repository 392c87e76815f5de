"""The whole of Lorry on one machine in a few minutes: train, publish, serve side by side, upgrade under traffic.

    make demo

Everything happens through the product's own doors: the `lorry` command and `lorry_client.AsyncClient`.
Files go to a temporary folder and are gone afterwards, with the server.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from traffic import Question, measure, score, under_traffic
from training import train_all

import lorry_trainer.examples
from lorry_trainer.run import Result

EXAMPLES = Path(lorry_trainer.examples.__file__).parent
TASKS = ("intent", "shell", "redact")
UPGRADED = "intent"
QUICK = "intent-quick"  # fewer steps: the version that a better one takes over from
LORRY = [sys.executable, "-m", "lorry_client"]
CLIENTS = 24  # concurrent streams
ROUNDS = 3  # of base only against mixed

console = Console()


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lorry-demo-") as scratch:
        home = Path(scratch)

        say("1. Train an adapter for each task: LoRA on lorry-tiny, scored on held-out rows")
        recipes = [EXAMPLES / f"{name}.yaml" for name in (*TASKS, QUICK)]
        trained = train_all(recipes, home / "adapters", console)
        show_training(trained)

        say("2. Serve the base in 4 bits and publish the adapters")
        with server(home) as address:
            for task in TASKS:
                folder = trained[QUICK if task == UPGRADED else task].folder
                console.print(
                    f"   {lorry('push', folder, task, '--alias', 'production', at=address)}"
                )

            say(
                f"3. {CLIENTS} clients at once: every adapter and the bare base in the same batches"
            )
            questions = {task: held_out(task) for task in TASKS}
            ratios = asyncio.run(rounds(address, questions))

            say(f"4. Move `{UPGRADED}` to a better version while traffic runs")
            upgrade = asyncio.run(
                under_traffic(
                    address,
                    questions,
                    CLIENTS,
                    UPGRADED,
                    lambda: upgrade_to(trained[UPGRADED].folder, address),
                )
            )
            console.print(
                f"   {upgrade.requests} requests, {upgrade.failures} failed; "
                f"{upgrade.before} answers from version 1, {upgrade.after} from version 2, "
                f"{upgrade.stale} from version 1 to what was asked after the move"
            )

            say("5. Score the adapters through the server")
            served = {task: asyncio.run(score(address, task, questions[task])) for task in TASKS}

    show(trained, served, ratios)
    console.print(f"done in {time.monotonic() - started:.0f} s; nothing is left running")
    return 0 if upgrade.failures == upgrade.stale == 0 else 1


def say(line: str) -> None:
    console.print(f"\n[bold]{line}[/bold]")


def lorry(*words: object, at: str) -> str:
    """Runs a `lorry` command; its notes go to the terminal, its data comes back."""
    command = [*LORRY, *map(str, words), "--server", at]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def scores(result: Result) -> tuple[float, float]:
    """What the bare base and the adapter scored on the held-out rows."""
    metric = result.metric
    return result.metrics[f"base_test_{metric}"], result.metrics[f"test_{metric}"]


def show_training(trained: dict[str, Result]) -> None:
    table = Table("recipe", "held-out rows", "metric", "base", "adapter", "seconds")
    for name, result in trained.items():
        base, adapter = scores(result)
        rows, seconds = result.metrics["test_rows"], sum(result.seconds.values())
        table.add_row(
            name, f"{rows:.0f}", result.metric, f"{base:.2f}", f"{adapter:.2f}", f"{seconds:.0f}"
        )
    console.print(table)


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
            console.print("  ", line.rstrip(), markup=False, highlight=False)
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


def upgrade_to(folder: Path, address: str) -> None:
    lorry("push", folder, UPGRADED, at=address)
    lorry("aliases", "set", UPGRADED, "production", f"{UPGRADED}:2", at=address)


def show(trained: dict[str, Result], served: dict[str, float], ratios: list[float]) -> None:
    table = Table("task", "base", "adapter, through the server", "tokens/s mixed ÷ base only")
    for task in TASKS:
        adapter = f"{served[task]:.2f}"
        if task == UPGRADED:
            adapter += f"  (version 1: {scores(trained[QUICK])[1]:.2f})"
        table.add_row(task, f"{scores(trained[task])[0]:.2f}", adapter, f"{median(ratios):.2f}")
    console.print()
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
