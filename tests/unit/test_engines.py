"""The pool: as many workers as there is to do at once, and none is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from esgbatch.fetching.engines import ThreadEngine
from esgbatch.model import Answer, Verdict, Work


class Provider:
    """Answers when it is let; `abort` lets all go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.at_once = self.most = self.asked = 0
        self._lock = threading.Lock()

    def rate(self, account_id: str) -> Answer:
        with self._lock:
            self.asked += 1
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.gate.wait(10)
        with self._lock:
            self.at_once -= 1
        if account_id == "bug":
            raise KeyError(account_id)
        return Answer(Verdict.FAILED)

    def abort(self) -> None:
        self.gate.set()


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def workers() -> int:
    return sum(thread.name.startswith("rating") for thread in threading.enumerate())


def collected(engine: ThreadEngine, number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        found += [work.position for work, _ in engine.collect(10)]
    return sorted(found)


def test_there_are_as_many_workers_as_attempts_but_no_more_than_threads() -> None:
    provider = Provider()
    engine = ThreadEngine(provider, 3)
    before = workers()
    for position in range(2):
        engine.submit(Work(position, "A"))
    until(lambda: provider.at_once == 2)
    assert workers() - before == 2
    for position in range(2, 8):
        engine.submit(Work(position, "A"))
    until(lambda: provider.at_once == 3)
    provider.gate.set()
    assert collected(engine, 8) == list(range(8))
    assert (provider.most, workers() - before) == (3, 3)
    for position in range(50):
        engine.submit(Work(position, "A"))
        assert collected(engine, 1) == [position]
    assert engine.close(10) == []
    until(lambda: workers() == before)


def test_an_end_takes_back_what_was_not_begun_and_waits_for_what_was() -> None:
    provider = Provider()
    engine = ThreadEngine(provider, 2)
    before = workers()
    for position in range(10):
        engine.submit(Work(position, "A"))
    until(lambda: provider.at_once == 2)
    began = time.monotonic()
    assert sorted(work.position for work, _ in engine.close(30)) == [0, 1]
    assert time.monotonic() - began < 15
    assert provider.asked == 2
    until(lambda: workers() == before)
    engine.close(0)


def test_a_bug_is_raised_where_answers_are_collected() -> None:
    provider = Provider()
    provider.gate.set()
    engine = ThreadEngine(provider, 2)
    engine.submit(Work(0, "bug"))
    with pytest.raises(KeyError):
        engine.collect(10)
    engine.submit(Work(1, "A"))
    assert collected(engine, 1) == [1]
    engine.close(0)
