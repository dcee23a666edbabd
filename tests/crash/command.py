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
from tests.crash.points import SCOPES, Census, Fault, Group, Point, groups, sample
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
    chosen = (options.scopes, options.fault, options.syscalls)
    tally = try_sample(workers, options.sample, *chosen) if options.sample else try_all(workers, *chosen)
    print(table(tally))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    for failure in tally.failures:
        print(f"\nscripts/crashtest --point {failure.point}", *failure.problems, sep="\n  ")
    return not tally.failures


def try_all(
    workers: Sequence[Worker], scopes: Sequence[str], faults: Sequence[str], calls: Sequence[str]
) -> Tally:
    """Every point of these, the longest groups first, so that the workers end together."""
    census = take_census(workers, scopes)
    chosen = sorted(_chosen(census, faults, calls), key=lambda group: -len(census[group.scope, group.call]))
    print(
        f"about {sum(len(census[group.scope, group.call]) for group in chosen)} points of {len(chosen)} kinds"
    )
    tally, lock = Tally(_tell), threading.Lock()
    in_parallel(workers, [_finishing(group, census[group.scope, group.call], tally, lock) for group in chosen])
    return tally


def try_sample(
    workers: Sequence[Worker], size: int, scopes: Sequence[str], faults: Sequence[str], calls: Sequence[str]
) -> Tally:
    """Some points of these."""
    census = take_census(workers, scopes)
    points = sample(_chosen(census, faults, calls), census, size)
    tally, lock = Tally(_tell), threading.Lock()
    in_parallel(workers, [_trying(point, tally, lock) for point in points])
    return tally


def _chosen(census: Census, faults: Sequence[str], calls: Sequence[str]) -> list[Group]:
    return [group for group in groups(census) if group.fault in faults and (not calls or group.call in calls)]


def take_census(workers: Sequence[Worker], scopes: Sequence[str]) -> Census:
    """What there is to strike in these scopes."""
    found: dict[tuple[str, str], list[int]] = {}

    def taking(scope: str) -> Callable[[Worker], None]:
        return lambda worker: found.update(worker.census(scope))

    in_parallel(workers, [taking(scope) for scope in scopes])
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
    outcome = ("survived" if verdict.survived else "FAILED") if verdict.call else "not struck"
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
