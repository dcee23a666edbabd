"""`scripts/startrace`: two runs of one date, started at once."""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.acceptance.firm import TestFirm, firm

ACCOUNTS = 2000
RATE = 5.0  # slow enough that nobody finishes
PATIENCE = 30.0


def main(times: int) -> int:
    """Returns the exit code: 1 when both worked, or none."""
    endings: Counter[tuple[int, ...]] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="startrace-") as folder,
        firm(Path(folder), ACCOUNTS, rate=RATE) as place,
    ):
        for _ in range(times):
            endings[race(place)] += 1
    for codes, count in endings.items():
        print(f"{count:5} times the two ended with {codes[0]} and {codes[1]}")
    print("11: another process holds the run; 143: ended by this script, so it was at work")
    return int(set(endings) != {(11, 143)})


def race(place: TestFirm) -> tuple[int, ...]:
    """Start two, wait for one to end, end the other; their exit codes, in order.

    A run that the last race has ended is gone on with.
    """
    both = [place.process("run"), place.process("run")]
    until = time.monotonic() + PATIENCE
    while all(each.poll() is None for each in both) and time.monotonic() < until:
        time.sleep(0.01)
    for each in both:
        each.send_signal(signal.SIGTERM)
        each.communicate(timeout=PATIENCE)
    return tuple(sorted(each.returncode for each in both))
