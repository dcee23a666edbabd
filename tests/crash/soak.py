"""`scripts/soak`: a long night on the sandbox that is killed again and again."""

from __future__ import annotations

import argparse
import io
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tests.acceptance.firm import TestFirm, firm, line

ERROR_RATE = 0.02
LOST = 997  # every so manieth account has no rating
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Life:
    """One process: how it ended, and what it used. Memory is in KiB, time in seconds."""

    command: str
    code: int
    seconds: float
    peak: int
    done: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--restart", type=float, default=60.0, metavar="SECONDS", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        firm(Path(folder), options.accounts) as place,
    ):
        lost = [place.books.account_id(index) for index in range(0, options.accounts, LOST)]
        place.server.switch(error_rate=ERROR_RATE, accounts=dict.fromkeys(lost, "no_rating"))
        began = time.monotonic()
        lives = _live(place, options.restart)
        print(f"{'process':>9} {'ended with':>11} {'seconds':>9} {'accounts done':>14} {'peak KiB':>10}")
        for number, life in enumerate(lives, 1):
            print(f"{number:9} {life.code:11} {life.seconds:9.1f} {life.done:14,} {life.peak:10,}")
        print(f"{options.accounts:,} accounts in {time.monotonic() - began:,.0f} s, {len(lives)} processes")
        wrong = _wrong_rows(place)
    print(f"rows that are wrong: {wrong}")
    return 1 if wrong or lives[-1].code else 0


def _live(place: TestFirm, restart: float) -> list[Life]:
    lives: list[Life] = []
    while not lives or lives[-1].code:
        command = "run" if not lives or not place.done() else "resume"
        lives.append(_one_life(place, command, restart, SIGNALS[len(lives) % len(SIGNALS)]))
        if lives[-1].code not in (0, -signal.SIGKILL, 128 + signal.SIGTERM):
            break
    return lives


def _one_life(place: TestFirm, command: str, restart: float, blow: signal.Signals) -> Life:
    began = time.monotonic()
    peak = 0
    with place.process(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            if time.monotonic() - began > restart:
                process.send_signal(blow)
                process.communicate()
            time.sleep(POLL_SECONDS)
    return Life(command, process.returncode, time.monotonic() - began, peak, place.done())


def _peak(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(each.split()[1]) for each in fields if each.startswith("VmHWM:")), 0)


def _wrong_rows(place: TestFirm) -> int:
    opened = place.folder / "opened.csv"
    place.desk.decrypt(place.sealed, opened)
    with opened.open("rb") as rows:
        next(rows)
        wanted = (
            part
            for index in range(place.books.accounts)
            for part in io.BytesIO(line(place.books, index, failed=index % LOST == 0).encode())
        )
        return sum(ours != theirs for ours, theirs in zip_longest(rows, wanted))
