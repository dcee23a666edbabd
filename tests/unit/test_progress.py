"""What people see of a run: the bar, the plain lines, and that neither can disturb the job."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from loguru import logger

from esgbatch.config.model import Logging
from esgbatch.config.secrets import remember
from esgbatch.errors import ExitCode, StopRequested
from esgbatch.model import Snapshot, Stage, Step
from esgbatch.observability import logs
from esgbatch.observability.bar import ProgressBar
from esgbatch.observability.progress import Broadcast, PlainProgress, people_listener

CHICAGO = ZoneInfo("America/Chicago")
START = datetime(2026, 11, 24, 5, 0, tzinfo=CHICAGO).timestamp()
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

SNAPSHOT = Snapshot(
    at=START, stage=Stage.RATING, done=42_000, total=100_000, failed=12, rate=50.12, in_flight=25,
    eta=datetime(2026, 11, 24, 8, 12, tzinfo=CHICAGO).timestamp(),
)  # fmt: skip
HELD = replace(SNAPSHOT, held="throttled", held_until=datetime(2026, 11, 24, 5, 47, tzinfo=CHICAGO).timestamp())


class FakeClock:
    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return START + self.passed

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return ANSI.sub("", self.getvalue())


@pytest.fixture(autouse=True)
def known_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# --- plain lines ---


def test_a_plain_line_at_each_stage_and_every_thirty_seconds(clock: FakeClock) -> None:
    stream = io.StringIO()
    with PlainProgress(stream, CHICAGO, clock) as plain:
        plain.event("run_started", command="run")
        plain.event("accounts_page", page=1, rows=1000)
        plain.event("accounts_page", page=2, rows=1000)
        clock.passed = 30
        plain.event("accounts_page", page=3, rows=1000)
        plain.event("rating_started", pending=100_000)
        for second in range(31, 95):
            clock.passed = second
            plain.progress(replace(SNAPSHOT, done=second))
            plain.event("account_failed", account_id="A-1", reason="no_rating", attempts=1)
        plain.event("sealing_started")
        plain.event("delivery_started")
        plain.event("delivery_step", step=Step.UPLOADED, detail="")
        plain.event("delivered", location="/drop/esg/FirmESGRatings_20261124.csv.pgp")
    rated = "ETA 08:12 CST, 50.1/s, 12 failed, 25 in flight"
    assert stream.getvalue().splitlines() == [
        "05:00:00 CST run started",
        "05:00:00 CST listing: page 1 of the account list: 1,000 rows",
        "05:00:30 CST listing: page 3 of the account list: 1,000 rows",
        "05:00:30 CST rating: 100,000 accounts to rate",
        f"05:01:00 CST rating: 60/100,000 (0%), {rated}",
        f"05:01:30 CST rating: 90/100,000 (0%), {rated}",
        "05:01:34 CST sealing: encrypting the file",
        "05:01:34 CST delivering: bringing the file to the drop folder",
        "05:01:34 CST delivered: file and manifest are in place: /drop/esg/FirmESGRatings_20261124.csv.pgp",
    ]


def test_each_line_is_out_at_once(clock: FakeClock, tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream, PlainProgress(stream, CHICAGO, clock) as plain:
        plain.event("sealing_started")
        assert "sealing" in (tmp_path / "stderr").read_text()


def plain_line(clock: FakeClock, snapshot: Snapshot) -> str:
    stream = io.StringIO()
    PlainProgress(stream, CHICAGO, clock).progress(snapshot)
    return stream.getvalue()


def test_a_hold_is_told_first_with_its_end_in_the_jobs_zone(clock: FakeClock) -> None:
    assert "(42%), throttled until 05:47 CST, ETA" in plain_line(clock, HELD)
    assert "(42%), outage, ETA" in plain_line(clock, replace(HELD, held="outage", held_until=None))


@pytest.mark.parametrize(
    ("eta", "shown"),
    [
        (None, "ETA unknown,"),
        (float("inf"), "ETA unknown,"),
        (1e18, "ETA unknown,"),
        (START + 86_400, "ETA Wed 05:00 CST,"),
        (datetime(2026, 7, 1, 8, 0, tzinfo=CHICAGO).timestamp(), "ETA Wed 08:00 CDT,"),
    ],
)
def test_ends_that_are_unknown_or_on_another_day(clock: FakeClock, eta: float | None, shown: str) -> None:
    assert shown in plain_line(clock, replace(SNAPSHOT, eta=eta))


def test_an_empty_run_is_whole(clock: FakeClock) -> None:
    assert "0/0 (100%)" in plain_line(clock, replace(SNAPSHOT, done=0, total=0))


# --- the bar ---


def test_the_bar_shows_stage_count_and_facts(clock: FakeClock) -> None:
    terminal = Terminal()
    with ProgressBar(terminal, CHICAGO) as bar:
        bar.event("accounts_page", page=7, rows=1000)
        assert "listing  page 7 of the account list: 1,000 rows" in terminal.text
        bar.progress(HELD)
        assert re.search(r"rating  [━╺]+ +42,000/100,000 \(42%\)", terminal.text)
        assert "throttled until 05:47 CST, ETA 08:12 CST, 50.1/s, 12 failed, 25 in flight" in terminal.text
        terminal.seek(0)
        terminal.truncate()
        bar.event("account_failed", account_id="A-1", reason="no_rating", attempts=1)
        assert terminal.getvalue() == "", "thousands of these must not draw"
        bar.event("delivery_started")
        assert "delivering  bringing the file" in terminal.text
        assert "42,000" not in terminal.text.split("delivering")[-1]


def test_the_cursor_and_stderr_come_back_whatever_happens() -> None:
    terminal, before = Terminal(), sys.stderr

    def stopped() -> None:
        with ProgressBar(terminal, CHICAGO) as bar:
            bar.progress(SNAPSHOT)
            assert "\x1b[?25l" in terminal.getvalue()
            raise StopRequested("stopped", ExitCode.SIGINT)

    with pytest.raises(StopRequested):
        stopped()
    assert terminal.getvalue().endswith("\x1b[?25h")
    assert sys.stderr is before


def test_warnings_stand_above_the_bar_and_stdout_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    out = sys.stdout
    with ProgressBar(terminal, CHICAGO) as bar:
        bar.progress(SNAPSHOT)
        assert sys.stdout is out
        sys.stderr.write("warning: [bold]as it is[/bold]\n")
        sys.stderr.write("[bold]half a line[/bold]")
        sys.stderr.flush()
    shown = terminal.text
    assert shown.index("(42%)") < shown.index("warning: [bold]as it is[/bold]\n") < shown.rindex("(42%)")
    assert "[bold]half a line[/bold]" in shown


def colours(terminal: Terminal) -> list[str]:
    return re.findall(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])[;m]", terminal.getvalue())


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool) -> None:
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    with ProgressBar(terminal, CHICAGO) as bar:
        bar.progress(SNAPSHOT)
    assert bool(colours(terminal)) is coloured
    assert "(42%)" in terminal.text


@pytest.mark.parametrize("columns", [1, 20, 80, 300])
def test_no_width_is_too_small_or_too_large(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    with ProgressBar(terminal, CHICAGO) as bar:
        bar.progress(HELD)
    assert max(len(line.strip("\r")) for line in terminal.text.splitlines()) <= columns


# --- both ---


def test_data_cannot_draw_and_secrets_are_not_shown(clock: FakeClock) -> None:
    remember("canary-55e1")
    terminal, plain = Terminal(), io.StringIO()
    for listener in (ProgressBar(terminal, CHICAGO), PlainProgress(plain, CHICAGO, clock)):
        with listener:
            listener.event("delivery_started")
            gate = "\x1b[2J\x07\u202e canary-55e1 [red]1[/red]"
            listener.event("gate_withheld", gate=gate, figure=2.0, limit=1.0)
            listener.progress(replace(HELD, held="\x1b]0;title\x07canary-55e1"))
    assert "\x1b[2J" not in terminal.getvalue()
    for text in (plain.getvalue(), terminal.text):
        assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)
        assert r"\x1b[2J\x07\u202e [redacted] [red]1[/red]" in text
        assert r"\x1b]0;title\x07[redacted]" in text
        assert "canary" not in text


def test_a_terminal_gets_a_bar_and_everything_else_plain_lines(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, device = os.openpty()
    with os.fdopen(device, "w") as terminal:
        assert isinstance(people_listener(terminal, CHICAGO, clock), ProgressBar)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(people_listener(terminal, CHICAGO, clock), PlainProgress)
        monkeypatch.delenv("TERM")
        assert isinstance(people_listener(terminal, CHICAGO, clock), PlainProgress)
    os.close(controller)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(people_listener(io.StringIO(), CHICAGO, clock), PlainProgress)


# --- Broadcast ---


class RecordingListener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def event(self, name: str, /, **fields: object) -> None:
        self.heard.append((name, fields))

    def progress(self, snapshot: Snapshot) -> None:
        self.heard.append(snapshot)


class Broken:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def event(self, name: str, /, **fields: object) -> None:
        raise self.error

    def progress(self, snapshot: Snapshot) -> None:
        raise self.error


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    yield logs.configure(Logging(directory=tmp_path), environment="test", business_date=date(2026, 11, 24))
    logger.remove()
    logging.getLogger().removeHandler(logs._libraries)


def test_a_broken_listener_is_logged_once_and_harms_nobody(log_file: Path) -> None:
    before, after = RecordingListener(), RecordingListener()
    everybody = Broadcast(
        [before, Broken(ValueError("Smith Family Trust")), after, Broken(OSError(28, "full"))]
    )
    for _ in range(3):
        everybody.event("token_refused")
        everybody.progress(SNAPSHOT)
    assert before.heard == after.heard == [("token_refused", {}), SNAPSHOT] * 3
    entries = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [(entry["event"], entry["listener"]) for entry in entries] == [("listener_failed", "Broken")] * 2
    assert "Smith" not in log_file.read_text()


def test_a_broken_log_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(logs.LogListener, "event", fails)
    after = RecordingListener()
    Broadcast([logs.LogListener(), after]).event("token_refused")
    assert len(after.heard) == 1


def test_a_stop_goes_through() -> None:
    stop = Broken(StopRequested("stopped", ExitCode.SIGTERM))
    with pytest.raises(StopRequested):
        Broadcast([stop]).event("token_refused")
    with pytest.raises(StopRequested):
        Broadcast([stop]).progress(SNAPSHOT)
