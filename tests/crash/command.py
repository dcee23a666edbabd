"""`scripts/crashtest`."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.crash.driver import Count, Tally, Verdict, Worker, every, in_parallel
from tests.crash.points import SCOPES, Fault, Group, Point, groups, sample
from tests.crash.site import sites


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.nice(5)
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    failed = True
    try:
        with sites(folder, 1 if options.point else options.jobs) as places:
            if options.point:
                failed = not _one(Worker(places[0]), options.point)
            else:
                failed = not _many([Worker(place) for place in places], options)
    finally:
        if failed:
            print(f"The last nights are in {folder}.")
        else:
            shutil.rmtree(folder)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("crashtest", description="A crash at every step of a small night.")
    add = parser.add_argument
    add("--scopes", type=_list, default=list(SCOPES), metavar="A,B", help=f"of {', '.join(SCOPES)}")
    add("--syscalls", type=_list, default=[], metavar="A,B", help="only these system calls")
    add("--fault", type=_list, default=list(Fault), metavar="A,B", help=f"of {', '.join(Fault)}")
    add("--sample", type=int, default=0, metavar="N", help="only N points, spread over all; the same each time")
    add("--jobs", type=int, default=2, metavar="N", help="nights at a time (default: 2)")
    add("--point", type=Point.parse, metavar="SCOPE:CALL:FAULT:N", help="one point, with all that was said")
    return parser


def _list(text: str) -> list[str]:
    return text.split(",")


def _one(worker: Worker, point: Point) -> bool:
    verdict = worker.attempt(point)
    print(*verdict.story, sep="\n")
    _tell(verdict)
    return verdict.survived and bool(verdict.call)


def _many(workers: list[Worker], options: argparse.Namespace) -> bool:
    began = time.monotonic()
    lock = threading.Lock()
    census = take_census(workers, options.scopes)
    chosen = [
        group
        for group in groups(census)
        if group.fault in options.fault and (not options.syscalls or group.call in options.syscalls)
    ]
    tally = Tally(_tell)
    tasks: list[Callable[[Worker], None]]
    if options.sample:
        points = sample(chosen, census, options.sample)
        print(f"{len(points)} points of {len(chosen)} kinds")
        tasks = [_trying(point, tally, lock) for point in points]
    else:
        length = {group: len(census[group.scope, group.call]) for group in chosen}
        print(f"about {sum(length.values())} points of {len(chosen)} kinds")
        # The longest first, so that the workers end together.
        longest = sorted(chosen, key=lambda group: -length[group])
        tasks = [_finishing(group, census[group.scope, group.call], tally, lock) for group in longest]
    in_parallel(workers, tasks)
    print(table(tally))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    for failure in tally.failures:
        print(f"\nscripts/crashtest --point {failure.point}", *failure.problems, sep="\n  ")
    return not tally.failures


def take_census(workers: Sequence[Worker], scopes: Sequence[str]) -> dict[tuple[str, str], list[int]]:
    """What there is to strike in these scopes."""
    found: dict[tuple[str, str], list[int]] = {}
    in_parallel(workers, [lambda worker, scope=scope: found.update(worker.census(scope)) for scope in scopes])
    return found


def _trying(point: Point, tally: Tally, lock: threading.Lock) -> Callable[[Worker], None]:
    def task(worker: Worker) -> None:
        verdict = worker.attempt(point)
        with lock:
            tally.add(verdict)

    return task


def _finishing(
    group: Group, numbers: Sequence[int], tally: Tally, lock: threading.Lock
) -> Callable[[Worker], None]:
    return lambda worker: every(worker, group, numbers, tally, lock)


def _tell(verdict: Verdict) -> None:
    outcome = "not struck" if not verdict.call else "survived" if verdict.survived else "FAILED"
    print(f"{outcome:10}  {verdict.point!s:30}  {verdict.call[:110]}", flush=True)
    for problem in verdict.problems:
        print(f"            {problem}", flush=True)


def table(tally: Tally) -> str:
    """Tried / struck / survived by system call and fault."""
    lines: dict[tuple[str, str], dict[Fault, Count]] = defaultdict(dict)
    total = Count()
    for group, count in sorted(tally.counts.items()):
        lines[group.scope, group.call][group.fault] = count
        total.tried += count.tried
        total.struck += count.struck
        total.survived += count.survived
    head = ["where", "call", *Fault]
    body = [
        [scope, call, *(_cell(found.get(fault)) for fault in Fault)] for (scope, call), found in lines.items()
    ]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *body)
    ]
    return "\n".join(
        (
            "",
            "tried/struck/survived",
            *rows,
            f"all: {total.tried} tried, {total.struck} struck, {total.survived} survived",
        )
    )


def _cell(count: Count | None) -> str:
    return "" if count is None else f"{count.tried}/{count.struck}/{count.survived}"
