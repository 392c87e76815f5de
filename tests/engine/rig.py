"""A real engine with its two neighbours: where adapters come from, and where outputs go."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lorry_bases.describe import describe
from lorry_bases.load import Base
from lorry_registry.errors import NotFound
from lorry_server.engine.adapters.recipe import Recipe
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.engine import Engine
from lorry_server.engine.plan import Chunk, Sampled
from lorry_server.engine.request import GenerationRequest, RequestOutput, SamplingParams
from lorry_server.engine.sampling.constraint import TokenConstraint
from lorry_server.engine.stats import EngineStats

PATIENCE = 60.0  # seconds; far beyond what anything here takes


class Folders:
    """An `AdapterSource` over folders. A digest in `gates` is not delivered before its gate opens."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)
        self.gates: dict[str, threading.Event] = {}
        self.fetched: list[str] = []
        self.recipes: dict[str, Recipe] = {}
        self.stored: dict[str, Path] = {}  # compositions that were computed; dropped at the end

    def recipe(self, digest: str) -> Recipe | None:
        return self.recipes.get(digest)

    def local(self, digest: str) -> Path | None:
        """No version is ever on disk already."""
        return self.stored.get(digest)

    def store(self, digest: str, rank: int, write: Callable[[Path], None]) -> None:
        folder = Path(tempfile.mkdtemp())
        write(folder)
        self.stored[digest] = folder

    def refetch(self, digest: str) -> Path:
        return self.folders[digest]

    def fetch(self, digest: str) -> Path:
        self.fetched.append(digest)
        if digest in self.gates:
            assert self.gates[digest].wait(PATIENCE)
        if digest not in self.folders:
            raise NotFound(f"no version {digest}", reason="VERSION_NOT_FOUND", digest=digest)
        return self.folders[digest]


class Answers:
    """A sink. Checks what every output owes: nothing follows the last, and the first and the last have stats."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.outputs: dict[str, list[RequestOutput]] = {}
        self.order: list[str] = []  # in which requests had their last output
        self.faults: list[str] = []

    def __call__(self, outputs: Items[RequestOutput]) -> None:
        with self._changed:
            for output in outputs:
                earlier = self.outputs.setdefault(output.request_id, [])
                if earlier and earlier[-1].finished:
                    self.faults.append(f"{output} follows {earlier[-1]}")
                first = bool(output.token_ids) and not any(each.token_ids for each in earlier)
                if (output.stats is not None) != (first or output.finish_reason is not None):
                    self.faults.append(f"{output}: the first and the last output have stats")
                earlier.append(output)
                if output.finished:
                    self.order.append(output.request_id)
            self._changed.notify_all()

    def until(self, predicate: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(predicate, PATIENCE), "nothing came"

    def of(self, name: str) -> list[RequestOutput]:
        return self.outputs.get(name, [])

    def ended(self, name: str) -> bool:
        outputs = self.of(name)
        return bool(outputs) and outputs[-1].finished


class Rig:
    """`with Rig(base, folders, slots=2) as rig:` starts an engine, and stops it at the end."""

    def __init__(self, base: Base, folders: Mapping[str, Path], **config: Any) -> None:
        self.answers = Answers()
        self.source = Folders(folders)
        described = describe(base)
        self.engine = Engine(
            base.model,
            EngineConfig(**{"slots": 4, "block_size": 8, "max_sequences": 8, **config}),
            source=self.source,
            sink=self.answers,
            linear_shapes=described.modules,
            context_length=base.context_length,
            encoders_parameters=described.parameters if base.is_encoder else None,
        )

    def __enter__(self) -> Rig:
        self.engine.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for gate in self.source.gates.values():
            gate.set()
        self.engine.stop(drain_seconds=0)
        for folder in self.source.stored.values():
            shutil.rmtree(folder)
        if error is None:
            assert not self.answers.faults, self.answers.faults

    def submit(
        self,
        name: str,
        prompt: Iterable[int],
        adapter: str | None = None,
        *,
        max_tokens: int = 8,
        deadline: float | None = None,
        merged: bool = False,
        constraint: TokenConstraint | None = None,
        **sampling: Any,
    ) -> str:
        params = SamplingParams(max_tokens=max_tokens, **sampling)
        request = GenerationRequest(
            name, tuple(prompt), params, adapter, deadline, merged=merged, constraint=constraint
        )
        self.engine.submit(request)
        return name

    def compose(self, recipe: Recipe) -> str:
        """Makes a composition known to the source; returns its digest."""
        self.source.recipes[recipe.digest] = recipe
        return recipe.digest

    def slow_down(self, seconds: float) -> None:
        """Makes every step take longer, so that what a test does meanwhile is in time on any machine."""
        run = self.engine._runner.run

        def slowly(chunks: Items[Chunk]) -> list[Sampled]:
            time.sleep(seconds)
            return run(chunks)

        self.engine._runner.run = slowly  # type: ignore[method-assign]

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """The engine stands still where its next step would run, until the block ends."""
        run = self.engine._runner.run
        reached, go_on = threading.Event(), threading.Event()

        def held(chunks: Items[Chunk]) -> list[Sampled]:
            reached.set()
            assert go_on.wait(PATIENCE)
            return run(chunks)

        self.engine._runner.run = held  # type: ignore[method-assign]
        try:
            assert reached.wait(PATIENCE), "no step came"
            yield
        finally:
            self.engine._runner.run = run  # type: ignore[method-assign]
            go_on.set()

    def wait(self, *names: str) -> None:
        """Until each of these requests has had its last output."""
        self.answers.until(lambda: all(self.answers.ended(name) for name in names))

    def wait_for_tokens(self, name: str, count: int) -> None:
        self.answers.until(lambda: len(self.tokens(name)) >= count)

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.answers.of(name) for token in output.token_ids]

    def last(self, name: str) -> RequestOutput:
        return self.answers.of(name)[-1]

    def error(self, name: str) -> Exception | None:
        return self.last(name).error

    def generate(self, prompt: Iterable[int], adapter: str | None = None, **how: Any) -> list[int]:
        """One request, from the queue to its last token."""
        name = self.submit(f"alone-{len(self.answers.outputs)}", prompt, adapter, **how)
        self.wait(name)
        assert self.error(name) is None, self.error(name)
        return self.tokens(name)

    def until(self, predicate: Callable[[EngineStats], bool]) -> EngineStats:
        """The first snapshot that fulfils something."""
        end = time.monotonic() + PATIENCE
        while not predicate(stats := self.engine.stats()):
            assert time.monotonic() < end, stats
            time.sleep(0.002)
        return stats

    def idle(self) -> EngineStats:
        """Nothing of any request is left: no queue, no KV blocks, no slot in use."""
        stats = self.until(lambda s: not (s.running or s.waiting or s.kv_blocks_used))
        assert stats.waiting_for_adapter == 0
        assert [resident.in_flight for resident in stats.residents if resident.in_flight] == []
        return stats
