"""status --watch from another shell while a run is at work: on a real terminal, and in a pipe."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esgbatch.checkpoint.lease import lease
from esgbatch.model import Run, Snapshot, Stage
from tests.acceptance.test_terminal import Tmux
from tests.checkpoints import DAY, Books, deferral, failure, success

ROOT = Path(__file__).parents[2]
CHICAGO = ZoneInfo("America/Chicago")


class AtWork:
    """A run in a state folder that this process holds; it tells how it goes, as a job would."""

    def __init__(self, folder: Path, books: Books) -> None:
        self.folder = folder
        self.books = books
        self.run: Run = books.enrolled(8)
        books.outcomes.record(self.run, [success(0), success(1), failure(2), deferral(3)])
        template = (ROOT / "esgbatch" / "config" / "template.toml").read_text()
        self.config = folder / "esgbatch.toml"
        self.config.write_text(template.replace("/var/lib/esgbatch", str(folder)))

    def tell(self, **changes: object) -> None:
        now = time.time()
        snapshot = Snapshot(
            at=now, stage=Stage.RATING, done=3, total=8, failed=1, rate=1048.9, request_rate=1061.0,
            rate_limit=2000.0, in_flight=37, concurrency=64, retries_waiting=1203, attempts=11,
            latency_p50=0.05, latency_p95=2.0, eta=now + 725, forecast=now + 731, deadline=now + 7200,
        )  # fmt: skip
        self.books.history.show(self.run, replace(snapshot, **changes))  # type: ignore[arg-type]

    @property
    def command(self) -> list[str]:
        words = ["status", "--watch", "--date", DAY.isoformat(), "--config", str(self.config)]
        return [sys.executable, "-m", "esgbatch", *words]


@contextmanager
def at_work(folder: Path) -> Iterator[tuple[AtWork, Callable[[], None]]]:
    """The run, and how its process ends."""
    with Books(f"sqlite:///{folder}/checkpoint.sqlite") as books:
        job = AtWork(folder, books)
        held = lease(folder, DAY, "run")
        held.__enter__()
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True
            held.__exit__(None, None, None)

        yield job, end
        if not ended:
            end()


def until(look: Callable[[], str], wanted: str) -> str:
    deadline = time.monotonic() + 30
    while wanted not in (shown := look()):
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)
    return shown


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_it_stays_in_place_and_leaves_it_in_order(tmp_path: Path, columns: int) -> None:
    with at_work(tmp_path) as (job, _):
        job.tell(
            held="throttled",
            held_until=datetime(2026, 11, 24, 5, 47, tzinfo=CHICAGO).timestamp(),
            at_risk=True,
            fits=7,
        )
        shell = f"trap : INT; {shlex.join(job.command)}; echo the code is $?; exec sleep 60"
        terminal = Tmux(tmp_path, columns, ["sh", "-c", shell])
        try:
            shown = until(terminal.screen, "AT RISK")
            seen = [line.rstrip() for line in shown.splitlines()]
            assert seen[0].startswith(f"{DAY}, revision 1: rating  ━")
            assert max(map(len, seen)) <= columns
            told = "\n".join(seen)
            for words in (
                r"^done +3 of 8  \(37\.5%\)",
                r"^failed +1  \(no_rating 1\)",
                r"^last pass +1 accounts wait for it",
                r"^rate +1,048\.9 accounts a second",
                r"^requests +1,061\.0 a second, 53% of the limit",
                r"^in flight +37 of 64, 1,203 retries waiting",
                r"^held +throttled until 05:47:00 CST",
                r"^ends about +\d\d:\d\d:\d\d C[SD]T, in \d+ min \d\d s; deadline ",
                r"^AT RISK +7 accounts would be done in time, not 8",
            ):
                assert re.search(words, told, re.MULTILINE), (words, told)
            job.tell(held="", at_risk=False)
            shown = until(lambda: "changed" if "AT RISK" not in terminal.screen() else "", "changed")
            assert terminal.screen().count("revision 1") == 1, "in place, not below"
            terminal.press("C-c")
            shown = until(terminal.screen, "the code is 130")
            assert "Traceback" not in shown
            assert terminal.cursor_is_shown()
        finally:
            terminal.close()


def test_it_ends_when_the_run_does(tmp_path: Path) -> None:
    with at_work(tmp_path) as (job, end):
        job.tell()
        terminal = Tmux(
            tmp_path, 80, ["sh", "-c", f"{shlex.join(job.command)}; echo the code is $?; exec sleep 60"]
        )
        try:
            until(terminal.screen, "in flight")
            job.books.runs.advance(job.run, Stage.DELIVERED)
            end()
            shown = until(terminal.screen, "the code is 0")
            assert f"{DAY}, revision 1: delivered" in shown
            assert "at work" not in shown
        finally:
            terminal.close()


def test_in_a_pipe_it_writes_plain_lines_and_the_end(tmp_path: Path) -> None:
    with at_work(tmp_path) as (job, end):
        job.tell()
        process = subprocess.Popen(
            job.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        assert re.fullmatch(r"\d\d:\d\d:\d\d C[SD]T rating: 3/8 \(37%\), ETA .*, 37 in flight\n", first)
        job.books.runs.advance(job.run, Stage.DELIVERED)
        end()
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "\x1b" not in first + out
        assert out.startswith(f"{DAY}, revision 1: delivered\n")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_says_no_more_than_it_must(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    with at_work(tmp_path) as (job, _):
        job.tell()
        command = [*job.command, "--json"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["in_flight"] == 37
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
        assert process.returncode == code
        assert "Traceback" not in err
        assert "resume" not in err


def test_no_color(tmp_path: Path) -> None:
    with at_work(tmp_path) as (job, _):
        job.tell(at_risk=True, fits=7)
        terminal = Tmux(tmp_path, 80, ["env", "NO_COLOR=1", *job.command])
        try:
            until(terminal.screen, "AT RISK")
            assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|38;|9[0-7])[;\dm]", terminal.screen(colours=True))
        finally:
            terminal.close()
