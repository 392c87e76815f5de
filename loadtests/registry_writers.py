"""64 writers and readers on one adapter: is its history one line?

    python loadtests/registry_writers.py [--threads N] [--moves N] [--database sqlite|postgresql|both]

A quarter of the threads publish versions, half move one alias from the state that they last saw, and a quarter read,
each through one of four stores with connections of its own, as four processes have them. Afterwards: every number was
given once and without a gap; every move starts where the move before it ended, and there are as many as succeeded; no
reader saw an alias whose version was not there, or versions with a gap.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from registry_crash import postgres_database

from lorry_registry.entities import AdapterKey, AdapterSpec, AliasTarget, File, Lineage
from lorry_registry.errors import Aborted
from lorry_registry.sql.opening import open_database
from lorry_registry.sql.store import SqlStore

KEY = AdapterKey("default", "one")
SPEC = AdapterSpec("LORA", 8, 4, 1000, 4000, rank_stabilized=False)
ALIAS = "production"
STORES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--moves", type=int, default=8, help="of each thread")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    options = parser.parse_args()
    kinds = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    wrong = []
    print("| database | threads | versions | moves | refused as stale | reads | wrong | s |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for kind in kinds:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorry-writers-")))
            url = stack.enter_context(postgres_database()) if kind == "postgresql" else ""
            stores = [SqlStore(open_database(folder, url)) for _ in range(STORES)]
            for store in stores:
                stack.enter_context(closing(store))
            run = Run(stores, options.moves)
            started = time.monotonic()
            found = run.all(options.threads)
            print(
                f"| {kind} | {options.threads} | {run.versions} | {run.moves} | {run.stale} | {run.reads} | "
                f"{len(found)} | {time.monotonic() - started:.1f} |"
            )
            wrong += [f"{kind}: {line}" for line in found]
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(bool(wrong))


class Run:
    """One run. What the threads count they append to lists, which needs no lock."""

    def __init__(self, stores: list[SqlStore], each: int) -> None:
        self._stores = stores
        self._each = each
        self._wrong: list[str] = []
        self._published: list[int] = []
        self._moved: list[int] = []
        self._stale: list[int] = []
        self._reads: list[int] = []

    versions = property(lambda self: len(self._published) + 1)
    moves = property(lambda self: len(self._moved) + 1)
    stale = property(lambda self: len(self._stale))
    reads = property(lambda self: len(self._reads))

    def all(self, threads: int) -> list[str]:
        """Everybody at once; returns what was wrong."""
        store = self._stores[0]
        store.create_adapter(KEY, description="", labels={}, annotations={})
        self._publish(store, 0)
        store.set_alias(KEY, ALIAS, targets=[AliasTarget(1)], etag="*")
        self._published.clear()
        kinds: list[Callable[[SqlStore, int], None]] = [
            self._publish_some,
            self._move_some,
            self._move_some,
            self._read_some,
        ]
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(kinds[number % 4], self._stores[(number // 4) % STORES], number + 1)
                for number in range(threads)
            ]
            for job in jobs:
                job.result()
        return self._wrong + self._examine(store)

    def _publish(self, store: SqlStore, number: int) -> None:
        digest = f"sha256:{number:064x}"
        made = store.create_version(
            KEY,
            digest=digest,
            files=[File("adapter_config.json", digest, 1)],
            lineage=Lineage(),
            spec=SPEC,
            description="",
        )
        self._published.append(made.number)

    def _publish_some(self, store: SqlStore, thread: int) -> None:
        for turn in range(self._each):
            self._publish(store, thread * 1000 + turn)

    def _move_some(self, store: SqlStore, thread: int) -> None:
        for _ in range(self._each):
            while True:
                seen = store.get_alias(KEY, ALIAS)
                newest = store.list_versions(KEY, after=None, limit=1)[0].number
                try:
                    store.set_alias(KEY, ALIAS, targets=[AliasTarget(newest)], etag=seen.etag)
                except Aborted:
                    self._stale.append(thread)
                    continue
                self._moved.append(thread)
                break

    def _read_some(self, store: SqlStore, thread: int) -> None:
        for _ in range(self._each * 4):
            alias = store.get_alias(KEY, ALIAS)
            version = store.get_version_by_digest(KEY, alias.targets[0].digest)
            if version.number != alias.targets[0].version:
                self._wrong.append(f"a reader saw {alias} and {version.number}")
            numbers = [one.number for one in store.list_versions(KEY, after=None, limit=10_000)]
            if numbers != list(range(len(numbers), 0, -1)):
                self._wrong.append(f"a reader saw the versions {numbers}")
            self._reads.append(thread)

    def _examine(self, store: SqlStore) -> list[str]:
        wrong = []
        if sorted(self._published) != list(range(2, len(self._published) + 2)):
            wrong.append(f"the numbers given were {sorted(self._published)}")
        moves = store.list_alias_moves(KEY, ALIAS, after=None, limit=1_000_000)[::-1]
        if [move.number for move in moves] != list(range(1, len(self._moved) + 2)):
            wrong.append(
                f"{len(moves)} moves are written down, and {len(self._moved) + 1} were made"
            )
        for one, following in itertools.pairwise(moves):
            if one.after != following.before:
                wrong.append(f"move {following.number} does not begin where {one.number} ended")
        if store.get_alias(KEY, ALIAS).targets != moves[-1].after:
            wrong.append("the alias is not where its last move put it")
        return wrong


if __name__ == "__main__":
    main()
