"""Tries points: strikes, completes the night as the program advises, compares, counts."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.crash.oracle import Oracle, misbehaviour
from tests.crash.points import SCOPES, Fault, Group, Point
from tests.crash.site import Ran, Site
from tests.crash.strike import HUNG, Struck, census, strike

MORE_COMMANDS = 3
BEYOND = 2  # so many misses in a row end a group
LONGEST = 400

# What a fault of the disk may come to, by the file it struck; the first pattern that is found decides.
CODES: tuple[tuple[str, frozenset[int]], ...] = (
    (r"traces/(out|err)", frozenset({0})),
    (r"logs/errors-", frozenset({0, 10})),
    (r"logs\b", frozenset({0, 10})),
    (r"checkpoint\.sqlite", frozenset({0, 17})),
    (r"audit\.jsonl", frozenset({0, 17})),
    (r"/locks\b", frozenset({0, 17})),
    (r"/keyring\b", frozenset({0, 10, 15})),
    (r"/archive\b", frozenset({15})),
    (r"socket:", frozenset({0, 12, 13, 16})),
)
OF_DISKS = (Fault.ENOSPC, Fault.EIO)  # a pipe never fails like this
ANY_CLEAR = frozenset({0, 10, 12, 13, 15, 16, 17})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one point."""

    point: Point
    call: str  # where it struck; empty where it did not
    problems: tuple[str, ...]
    story: tuple[str, ...] = ()  # each command with its code and words

    @property
    def survived(self) -> bool:
        return not self.problems


@dataclass
class Count:
    """A line of the table."""

    tried: int = 0
    struck: int = 0
    survived: int = 0

    def add(self, verdict: Verdict) -> None:
        self.tried += 1
        self.struck += bool(verdict.call)
        self.survived += bool(verdict.call) and verdict.survived


@dataclass
class Tally:
    """All verdicts, by group; told of as they come."""

    tell: Callable[[Verdict], None]
    counts: dict[Group, Count] = field(default_factory=dict)
    failures: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.counts.setdefault(verdict.point.group, Count()).add(verdict)
        if verdict.problems:
            self.failures.append(verdict)
        self.tell(verdict)


class Worker:
    """A site with its oracle."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._oracles: dict[str, Oracle] = {}

    def oracle(self, start: str) -> Oracle:
        """The one that knows the undisturbed night from there."""
        if start not in self._oracles:
            self._oracles[start] = Oracle(self.site, start)
        return self._oracles[start]

    def census(self, scope: str) -> dict[tuple[str, str], list[int]]:
        """The numbers to strike at, of each call of a scope."""
        self.site.begin(SCOPES[scope].start)
        found = census(scope, self.site.first_command, self.site.environment, self.site.traces)
        return {(scope, call): numbers for call, numbers in found.items()}

    def attempt(self, point: Point) -> Verdict:
        """Strike a night at this point, complete it, and compare it with an undisturbed one."""
        start = SCOPES[point.group.scope].start
        oracle = self.oracle(start)
        self.site.begin(start)
        struck = strike(point, self.site.first_command, self.site.environment, self.site.traces)
        story = [f"{self.site.start.command[0]} -> {struck.code}\n{struck.err}"]
        if not struck.strikes or (point.group.fault in OF_DISKS and "<pipe:" in struck.call):
            missed = (f"it ended with {struck.code}",) if struck.code and not struck.strikes else ()
            return Verdict(point, "", missed, tuple(story))
        problems = [*_unclear(point, struck), *(f"still runs: {each}" for each in self.site.processes())]
        ran = Ran(struck.code, struck.out, struck.err)
        for _ in range(MORE_COMMANDS):
            arguments = self.site.next_command(ran)
            if arguments is None:
                break
            ran = self.site.ran(*arguments)
            story.append(f"{' '.join(arguments)} -> {ran.code}\n{ran.err}")
            problems += misbehaviour(ran)
        if ran.code != 0:
            problems.append(f"the night is not completed: {ran.code}")
        problems += oracle.differences()
        return Verdict(point, struck.call, tuple(problems), tuple(story))


def _unclear(point: Point, struck: Struck) -> Iterator[str]:
    """How the struck process itself did not end as it should have."""
    fault = point.group.fault
    if struck.code == HUNG:
        yield "it hung"
        return
    yield from misbehaviour(Ran(struck.code, struck.out, struck.err))
    allowed = _codes(point, struck.call)
    if struck.code not in allowed:
        yield f"it ended with {struck.code}, not one of {sorted(allowed)}"
    if struck.code > 0 and not re.search(r"traces/(out|err)", struck.call):
        told = len(re.findall(r"^esgbatch: (?!The deadline of)", struck.err, re.MULTILINE))
        following = len(re.findall(r"^Next: .*`esgbatch ", struck.err, re.MULTILINE))
        if (told, following) != (1, 1):
            yield f"{told} paragraphs of what happened, {following} of what to do next, fault {fault}"


def _codes(point: Point, call: str) -> frozenset[int]:
    fault, scope = point.group.fault, SCOPES[point.group.scope]
    if scope.gpg or point.group.call == "execve":
        return frozenset({0, 10, 15, -9})
    if fault in (Fault.KILL, Fault.GROUP):
        return frozenset({-9})
    if fault is Fault.TERM:
        return frozenset({0, 143, -15})
    if fault is Fault.EINTR:
        return ANY_CLEAR
    return next((codes for pattern, codes in CODES if re.search(pattern, call)), ANY_CLEAR)


# --- many points ---


def every(worker: Worker, group: Group, numbers: Sequence[int], tally: Tally, lock: threading.Lock) -> None:
    """All points of a group: the numbers known, then on until nothing is struck any more."""
    misses = 0
    ahead = iter(numbers)
    last = 0
    while misses < BEYOND or last < numbers[-1]:
        last = next(ahead, last + 1)
        if last > LONGEST + numbers[-1]:
            raise AssertionError(f"{group} finds no end")
        if group.call == "openat" and last > numbers[-1]:
            return
        verdict = worker.attempt(Point(group, last))
        misses = 0 if verdict.call else misses + 1
        with lock:
            tally.add(verdict)


def in_parallel(workers: Iterable[Worker], tasks: Sequence[Callable[[Worker], None]]) -> None:
    """Do the tasks in order, each worker one at a time. The first exception ends them all."""
    waiting: queue.SimpleQueue[Callable[[Worker], None]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    failures: list[BaseException] = []

    def work(worker: Worker) -> None:
        while not failures:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                task(worker)
            except BaseException as error:  # noqa: BLE001 - it is raised by the caller's thread
                failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
