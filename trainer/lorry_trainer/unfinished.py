"""The checkpoints of a run that has not ended yet, in a folder beside the one that it will write.

The folder says whose they are: recipe, data, base and libraries. Only the same run may go on from them, because only
then is the result that of a run that was never broken off.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lorry_trainer import processes
from lorry_trainer.errors import OutputError, RecipeError
from lorry_trainer.lineage import producer
from lorry_trainer.prepare import Prepared

_WHOSE = "run.json"
_STATE = "trainer_state.json"  # what transformers writes last into a checkpoint


class Unfinished:
    def __init__(self, target: Path, run: Prepared) -> None:
        place = target.resolve()
        self.folder = place.with_name(f".{place.name}.checkpoints")
        self.abandoned = False  # whether `open` took away what could have been gone on from
        self._whose = {
            "recipe": run.recipe.model_dump(
                mode="json", exclude={"output": True, "training": {"processes"}}
            ),
            "datasets": sorted(f"{d.split} {d.digest}" for d in run.data.datasets),
            "base": run.base.fingerprint,
            "producer": producer(),
            "reward": [r.digest if r else None for r in (run.rewards.training, run.rewards.test)],
            "number of processes": processes.count(),
        }

    def open(self, *, resume: bool) -> Path | None:
        """Make the folder ready; the checkpoint to go on from where one is wanted and there. Raises RecipeError where
        those that are there are another run's, or OutputError. For the first of several processes."""
        if resume:
            self._refuse_others()
            self._drop_halves()
            if found := self._last():
                return found
        self.abandoned = not resume and self._last() is not None
        self.discard()
        try:
            self.folder.mkdir(parents=True)
            (self.folder / _WHOSE).write_text(json.dumps(self._whose, indent=2), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot write checkpoints to {self.folder}: {error.strerror}"
            ) from error
        return None

    def last(self) -> Path | None:
        """What `open` gave the first process, for the others, which come after it. Raises OutputError where they do
        not see its folder."""
        if not self.folder.is_dir():
            raise OutputError(
                f"this process does not see {self.folder}, where the first of the run keeps checkpoints; all processes "
                "need one folder"
            )
        return self._last()

    def _last(self) -> Path | None:
        return max(
            self.folder.glob("checkpoint-*"),
            key=lambda path: int(path.name.rpartition("-")[2]),
            default=None,
        )

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _refuse_others(self) -> None:
        whose = _read(self.folder / _WHOSE)
        if whose is None:
            return
        if others := [name for name, value in self._whose.items() if whose.get(name) != value]:
            raise RecipeError(
                f"the checkpoints in {self.folder} are of a run that differs in its {' and '.join(others)}; run "
                "without --resume to start anew, or go back to what it was"
            )

    def _drop_halves(self) -> None:
        """Killed while it was written, a checkpoint has no state, or half of one."""
        for path in self.folder.glob("checkpoint-*"):
            if _read(path / _STATE) is None:
                shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> dict[str, object] | None:
    try:
        found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
