"""Does a question cost more where the registry is large?

    python loadtests/registry_scale.py [--large N] [--database sqlite|postgresql|both] [--rounds N] [--json FILE]

Two registries, one of 1,000 adapters and one of N (100,000), each adapter with ten versions, an alias and a label, made
by the database itself. The same questions are asked of both, in turn, of adapters drawn at random; a figure is the
median in milliseconds, through the catalogue and without a network. What the product promises is 3× for what is marked.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from registry_crash import postgres_database
from sqlalchemy import Engine

from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, AliasTarget
from lorry_registry.searches import BY_NAME, Search
from lorry_registry.sql.database import WRITE

SMALL, LARGE, VERSIONS = 1_000, 100_000, 10
PROMISED = 3.0
MARKED = (
    "get",
    "first page",
    "page in the middle",
    "alias move",
    "resolve a name",
    "resolve a number",
    "resolve a digest",
)
_NAMESPACES, _LABELS = 10, 50
_WORDS = {  # what the databases say differently: numbers 1 to n, a digest, a name, now, no
    "sqlite": (
        "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {}) SELECT i FROM s)",
        "'sha256:' || printf('%064x', {})",
        "printf('adapter-%06d', {})",
        "'2026-01-01 00:00:00.000000'",
        "0",
    ),
    "postgresql": (
        "(SELECT generate_series(1, {}) AS i)",
        "'sha256:' || lpad(to_hex({}), 64, '0')",
        "'adapter-' || lpad(({})::text, 6, '0')",
        "now()",
        "false",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--large", type=int, default=LARGE)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kinds = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    found, slow = {}, False
    for kind in kinds:
        found[kind] = compare(kind, options.large, options.rounds)
        print(f"\n{kind}: {SMALL:,} adapters against {options.large:,}, {VERSIONS} versions each\n")
        print("| question | ms | ms, large | ratio | promised |\n| --- | --: | --: | --: | --: |")
        for question, (small, large) in found[kind].items():
            promised = f"{PROMISED:g}" if question in MARKED else ""
            print(f"| {question} | {small:.2f} | {large:.2f} | {large / small:.2f} | {promised} |")
            slow |= question in MARKED and large / small > PROMISED
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(slow)


def compare(kind: str, large: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The medians in milliseconds of each question, in the small and in the large registry."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorry-scale-")))
        asked = []
        for size in (SMALL, large):
            database = stack.enter_context(postgres_database()) if kind == "postgresql" else ""
            catalogue = open_catalogue(folder / str(size), database=database)
            stack.enter_context(closing(catalogue))
            fill(catalogue._store._engine, size)  # type: ignore[attr-defined]
            asked.append(questions(catalogue, size))
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in asked[0]}
        for _ in range(rounds):
            for name, pair in times.items():
                for side, spent in zip(asked, pair, strict=True):
                    started = time.perf_counter()
                    side[name]()
                    spent.append((time.perf_counter() - started) * 1000)
    return {name: (statistics.median(a), statistics.median(b)) for name, (a, b) in times.items()}


def questions(catalogue: Catalogue, size: int) -> dict[str, Callable[[], object]]:
    """What is asked, each time of an adapter drawn at random."""
    chance = random.Random(0)

    def key() -> AdapterKey:
        number = chance.randrange(1, size + 1)
        return AdapterKey(f"team-{number % _NAMESPACES}", f"adapter-{number:06d}")

    def digest_of(one: AdapterKey) -> str:
        return f"sha256:{int(one.adapter_id.rpartition('-')[2]) * 100 + 3:064x}"

    def middle() -> object:
        return catalogue._store.search_adapters(
            None, Search(None, BY_NAME), after=("", key()), limit=51
        )

    def label() -> object:
        return catalogue.list_adapters(
            None, filter_text=f'labels.team = "t{chance.randrange(_LABELS)}"'
        )

    def move() -> object:
        one = key()
        etag = catalogue.get_alias(one, "production").etag
        target = AliasTarget(chance.randrange(1, VERSIONS + 1))
        return catalogue.set_alias(one, "production", [target], etag=etag)

    def by_digest() -> object:
        one = key()
        return catalogue.resolve(f"{one}@{digest_of(one)}")

    return {
        "get": lambda: catalogue.get_adapter(key()),
        "first page": lambda: catalogue.list_adapters(None),
        "page in the middle": middle,
        "page of a namespace": lambda: catalogue.list_adapters("team-3"),
        "page by label": label,
        "page of versions": lambda: catalogue.list_versions(key()),
        "alias move": move,
        "resolve a name": lambda: catalogue.resolve(str(key())),
        "resolve a number": lambda: catalogue.resolve(f"{key()}:3"),
        "resolve a digest": by_digest,
    }


def fill(engine: Engine, size: int) -> None:
    """Adapters 1 to `size`, each with VERSIONS versions of two files, an alias and a label."""
    with engine.connect().execution_options(**WRITE) as connection, connection.begin():
        for statement in _statements(engine.dialect.name, size):
            # psycopg reads `%` as a placeholder's beginning.
            escaped = statement.replace("%", "%%") if engine.name == "postgresql" else statement
            connection.exec_driver_sql(escaped).close()
    with engine.connect().execution_options(**WRITE) as connection, connection.begin():
        connection.exec_driver_sql("ANALYZE").close()


def _statements(dialect: str, size: int) -> list[str]:
    series, digest, name, now, no = _WORDS[dialect]
    adapters, versions = f"{series.format(size)} a", f"{series.format(VERSIONS)} v"
    both = f"{adapters} CROSS JOIN {versions}"
    version = f"((a.i - 1) * {VERSIONS} + v.i)"
    lineage = """'{"recipe": "rank: 16", "producer": "scale", "metrics": {"exact": 0.5}}'"""
    return [
        "INSERT INTO adapters "
        "(id, namespace, name, description, latest_version, create_time, update_time, etag) "
        f"SELECT a.i, 'team-' || (a.i % {_NAMESPACES}), {name.format('a.i')}, '', {VERSIONS}, {now}, {now}, 'e' "
        f"FROM {adapters}",
        "INSERT INTO adapter_labels (adapter_id, key, value) "
        f"SELECT a.i, 'team', 't' || (a.i % {_LABELS}) FROM {adapters}",
        "INSERT INTO versions (id, adapter_id, number, digest, description, base_fingerprint, lineage, peft_type, "
        "max_rank, module_count, parameter_count, size_bytes, rank_stabilized, create_time) "
        f"SELECT {version}, a.i, v.i, {digest.format('a.i * 100 + v.i')}, '', {digest.format('a.i % 10')}, {lineage}, "
        f"'LORA', 16, 4, 1000, 4000, {no}, {now} FROM {both}",
        *(
            "INSERT INTO version_files (version_id, path, digest, size_bytes, media_type) "
            f"SELECT {version}, '{path}', {digest.format(blob)}, 4000, '' FROM {both}"
            for path, blob in (
                ("adapter_config.json", "a.i"),
                ("adapter_model.safetensors", version),
            )
        ),
        "INSERT INTO aliases (id, adapter_id, name, update_time, etag) "
        f"SELECT a.i, a.i, 'production', {now}, 'e' FROM {adapters}",
        "INSERT INTO alias_targets (alias_id, position, version_id, weight) "
        f"SELECT a.i, 0, (a.i - 1) * {VERSIONS} + 1, 1 FROM {adapters}",
    ]


if __name__ == "__main__":
    main()
