"""Bars: one per stage, a stage that ends early is done, and what users wrote is no markup."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from lorry_trainer.progress import Bars


def test_bars() -> None:
    text = io.StringIO()
    with Bars(Console(file=text, width=100)) as bars:
        bars.start("scoring base", 4)
        bars.advance(4)
        bars.start("training", 100)
        bars.advance(note="loss 1.500")
        bars.advance()
        bars.say("[b] rows left out")
        bars.start("scoring adapter", 4)
    shown = text.getvalue()
    assert "[b] rows left out" in shown
    assert "2/2" in shown  # stopped after 2 of 100
    assert "loss 1.500" in shown
    assert "0/4" in shown


def test_a_log_file_hears_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars move on terminals alone: in the log of a run of an hour there was nothing until its end."""
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    text = io.StringIO()
    with Bars(Console(file=text, width=100)) as bars:
        bars.start("training", 100)
        for _ in range(50):
            clock += 2
            bars.advance(note="loss 1.500")
        said = text.getvalue().splitlines()
    assert [line.split("  ")[:3] for line in said] == [
        ["training", f"{done}/100", "loss 1.500"] for done in (15, 30, 45)
    ]
