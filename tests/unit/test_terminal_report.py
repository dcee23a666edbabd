"""The report on a terminal: all of it at any width, without colour, and nothing that data could draw."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from esgbatch.model import Stage, Tally
from esgbatch.reporting import terminal
from esgbatch.reporting.night import Night
from tests.nights import night, past
from tests.summaries import NASTY


def shown(width: int, *, told: Night | None = None, days: int = 0) -> list[str]:
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None, highlight=False)
    if told is not None:
        terminal.report(told, console)
    else:
        terminal.history(past(days), console)
    lines = written.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return lines


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_night_at_every_width(width: int) -> None:
    text = " ".join(" ".join(shown(width, told=night())).replace("│", " ").split())
    for told in (
        "Revision 2 is delivered",
        "esgbatch rerun --failed",
        "100,210",
        "no_rating 200",
        "The request limit",
    ):
        assert told in text, told


def test_a_wide_terminal_shows_more_of_each_day() -> None:
    narrow, wide = shown(80, days=30), shown(200, days=30)
    assert len([line for line in narrow if line.startswith("2026-")]) == 30
    assert "Overall ESG Score" not in narrow[0]
    assert "Overall ESG Score" in wide[0]
    assert any(line.startswith("to spare   ") for line in wide)


@pytest.mark.parametrize("width", [80, 120, 159, 160, 200])
def test_no_figure_of_the_history_is_cut_off(width: int) -> None:
    assert "…" not in "".join(shown(width, days=3))


def test_a_day_that_has_just_begun() -> None:
    told = night()
    run = replace(told.summary.run, stage=Stage.LISTING)
    begun = replace(told.summary, run=run, tally=Tally(), revisions=(), executions=())
    assert any("Not delivered" in line for line in shown(80, told=replace(told, summary=begun, samples=())))


def test_data_cannot_draw() -> None:
    told = night()
    revision = replace(told.summary.revisions[0], location=NASTY)
    execution = replace(told.summary.executions[0], host=NASTY, ended=None)
    summary = replace(told.summary, revisions=(revision,), executions=(execution,))
    text = "".join(shown(120, told=replace(told, summary=summary)))
    assert "\x1b" not in text
    assert "\u202e" not in text
