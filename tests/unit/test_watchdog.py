"""Whom the watchdog ends, and whom never: real processes, and leases that name them rightly or wrongly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from esgbatch.alerting.conditions import Change, Condition, Name
from esgbatch.checkpoint.lease import Owner, lock_path
from esgbatch.config.model import Alerts, Checkpoint, Job, Logging, Metrics
from esgbatch.config.salvage import Essentials
from esgbatch.deadline import moment
from esgbatch.errors import CheckpointError, NothingToDo
from esgbatch.operations.watchdog import Opened, Verdict, Watchdog
from esgbatch.records import Records
from tests.checkpoints import Books
from tests.simulated import SimulatedClock

DAY = date(2026, 11, 24)
CHICAGO = ZoneInfo("America/Chicago")
NINE = moment(DAY, time(9), CHICAGO).timestamp()

HOLDER = """
import pathlib, signal, sys, time
from datetime import date
from esgbatch.checkpoint.lease import lease
if sys.argv[3] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with lease(pathlib.Path(sys.argv[1]), date.fromisoformat(sys.argv[2]), "run", float(sys.argv[4])):
    print("held", flush=True)
    time.sleep(1 if sys.argv[3] == "ending" else 60)
"""


def nothing() -> AbstractContextManager[Opened]:
    raise NothingToDo("nothing was ever run")


def unreadable() -> AbstractContextManager[Opened]:
    raise CheckpointError("no database")


class Nine:
    """The watchdog at some time of the day, with what it changed."""

    def __init__(self, folder: Path, at: float = NINE + 30, opener: object = nothing) -> None:
        self.changes: list[Change] = []
        essentials = Essentials(Job(state_dir=folder), Alerts(), Checkpoint(), Logging(), Metrics())
        self.watchdog = Watchdog(
            essentials,
            DAY,
            opener,
            SimulatedClock(at),
            self.changes.append,
            grace=0.5,  # type: ignore[arg-type]
        )

    def check(self) -> Verdict:
        return self.watchdog.check()

    @property
    def names(self) -> list[Name]:
        return [each.name for each in self.changes if isinstance(each, Condition)]


def holding(folder: Path, manner: str = "well", until: float = NINE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), DAY.isoformat(), manner, str(until)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(
    ("manner", "signum", "words"),
    [
        ("well", signal.SIGTERM, "it ended after SIGTERM"),
        ("stopped", signal.SIGTERM, "it ended after SIGTERM"),
        ("deaf", signal.SIGKILL, "it ended after SIGKILL"),
    ],
)
def test_what_still_goes_on_is_ended(tmp_path: Path, manner: str, signum: signal.Signals, words: str) -> None:
    with holding(tmp_path, manner) as process:
        if manner == "stopped":
            process.send_signal(signal.SIGSTOP)
        nine = Nine(tmp_path)
        verdict = nine.check()
        assert process.wait(10) == -signum
    assert not verdict.well
    assert words in verdict.text
    assert f"process {process.pid}" in verdict.text
    assert nine.names == [Name.DEADLINE_PASSED]


def test_before_the_deadline_and_before_its_own_nothing_is_ended(tmp_path: Path) -> None:
    with holding(tmp_path, until=NINE + 7200) as process:
        early, late = Nine(tmp_path, NINE - 120), Nine(tmp_path, NINE + 60)
        assert early.check().well
        assert early.names == []
        verdict = late.check()
        assert (verdict.well, late.names) == (False, [Name.DEADLINE_PASSED])
        assert "may be until 11:00 CST" in verdict.text
        assert process.poll() is None
        process.kill()


@pytest.mark.parametrize("at", [NINE - 30, NINE, NINE + 5])
def test_a_run_that_stops_itself_at_nine_is_given_the_time(tmp_path: Path, at: float) -> None:
    with holding(tmp_path, "ending") as process:
        nine = Nine(tmp_path, at)
        nine.check()
        assert process.wait(10) == 0
    assert nine.names == [Name.NOT_STARTED], "nobody is at work any more, and this checkpoint knows of no run"


def test_a_stranger_with_the_number_of_the_owner_is_left_alone(tmp_path: Path) -> None:
    """The same number after a reboot, with another start time, on another machine."""
    path = lock_path(tmp_path, DAY)
    path.parent.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        start = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        named = replace(Owner.this_process("run", NINE), pid=stranger.pid, start_ticks=start)
        assert named.is_alive()
        for wrong, name in (
            (replace(named, boot_id="before the reboot"), Name.NOT_STARTED),
            (replace(named, start_ticks=start + 1), Name.NOT_STARTED),
            (replace(named, boot_id="its own", host="elsewhere"), Name.DEADLINE_PASSED),
            (replace(named, host="elsewhere"), Name.DEADLINE_PASSED),
        ):
            path.write_text(json.dumps(asdict(wrong)))
            nine = Nine(tmp_path)
            assert not nine.check().well
            assert nine.names[-1] is name
            assert stranger.poll() is None
        stranger.kill()


def test_where_nobody_can_tell_people_are_told(tmp_path: Path) -> None:
    nine = Nine(tmp_path, opener=unreadable)
    verdict = nine.check()
    assert (verdict.well, nine.names) == (False, [Name.JOB_FAILED])
    assert "Nobody can tell whether there is a file of 2026-11-24: no database." in verdict.text


def test_a_run_on_another_host_is_not_ended_and_is_no_dead_one(tmp_path: Path) -> None:
    """The database says so, where several hosts share a checkpoint."""
    other = replace(Owner.this_process("run", NINE), host="elsewhere")
    with Books(f"sqlite:///{tmp_path}/checkpoint.sqlite") as books:
        books.history.begin(books.enrolled(6, DAY), "run")
        records = Records(books.runs, books.outcomes, books.ledger, books.history, cast("Any", None))
        for at, well in ((NINE - 120, True), (NINE + 30, False)):
            nine = Nine(tmp_path, at, lambda: nullcontext((records, other)))
            verdict = nine.check()
            assert verdict.well is well
            assert f"process {other.pid} on elsewhere" in verdict.text
            assert nine.names == ([] if well else [Name.DEADLINE_PASSED])
        longer = replace(other, until=NINE + 3600)
        late = Nine(tmp_path, NINE + 30, lambda: nullcontext((records, longer))).check()
        assert "may be until 10:00" in late.text
        assert "is left to go on" in late.advice
        died = Nine(tmp_path, NINE - 120, lambda: nullcontext((records, None)))
        assert "died at stage rating" in died.check().text


@pytest.mark.parametrize("day", [date(2026, 3, 8), date(2026, 11, 1), DAY], ids=str)
def test_a_run_that_was_never_started_is_missed_from_a_quarter_past_five(tmp_path: Path, day: date) -> None:
    five = datetime.combine(day, time(5), CHICAGO).timestamp()
    for minutes, well in ((-1, True), (14, True), (16, False), (241, False)):
        changes: list[Change] = []
        essentials = Essentials(Job(state_dir=tmp_path), Alerts(), Checkpoint(), Logging(), Metrics())
        watchdog = Watchdog(essentials, day, nothing, SimulatedClock(five + minutes * 60), changes.append)
        assert watchdog.check().well is well, minutes
        assert len(changes) == (not well)


def test_a_lock_file_that_says_nothing_is_nobody(tmp_path: Path) -> None:
    path = lock_path(tmp_path, DAY)
    path.parent.mkdir()
    path.write_text("{")
    nine = Nine(tmp_path)
    assert nine.check().advice.startswith("`esgbatch run --date 2026-11-24`")
