"""The engine of this process: one worker for all that is under way, and none is left behind."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from esgbatch.fetching.engines import DRAIN, Mailbox, ThreadEngine
from esgbatch.model import Answer, Verdict, Work

FAILED = Answer(Verdict.FAILED)


class Simulated:
    """Attempts that are under way from one turn to the next, and answered there unless they are held.

    `bug` as an account raises. A `deaf` one does not end a turn that is under way for an abort.
    """

    def __init__(self, *, held: bool = False, deaf: bool = False) -> None:
        self.begun: list[int] = []
        self.threads: set[int] = set()
        self.turning = self.aborted = False
        self.closed = self.ended = self.woken = 0
        self._held: Callable[[], bool] = lambda: held
        self._deaf = deaf
        self._started: deque[Work] = deque()
        self._under_way: list[Work] = []
        self._news = threading.Condition()
        self._rung = False

    def start(self, work: Work) -> None:
        self._started.append(work)

    def turn(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        self.threads.add(threading.get_ident())
        ended: list[Work] = []
        if not self._held():
            ended, self._under_way = self._under_way, []
            self.ended += len(ended)
        while self._started and not self.aborted:
            work = self._started.popleft()
            if work.account_id == "bug":
                raise KeyError(work.account_id)
            self.begun.append(work.position)
            self._under_way.append(work)
        if not ended and (self._held() or not self._under_way):
            with self._news:
                self.turning = not self._rung
                self._news.wait_for(lambda: self._rung, timeout)
                self._rung = self.turning = False
        return [(work, FAILED) for work in ended]

    def wake(self) -> None:
        self.woken += 1
        self._ring()

    def abort(self) -> None:
        self.aborted = True
        if not self._deaf:
            self._ring()

    def close(self) -> None:
        self.closed += 1

    def _ring(self) -> None:
        with self._news:
            self._rung, self.turning = True, False
            self._news.notify_all()

    def release(self) -> None:
        """What is under way is answered in the next turn."""
        self.answers_from(lambda: True)
        self._ring()

    def answers_from(self, moment: Callable[[], bool]) -> None:
        self._held = lambda: not moment()


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def workers() -> int:
    return sum(thread.name.startswith("rating") for thread in threading.enumerate())


@pytest.fixture
def open_engine() -> Iterator[Callable[[Simulated], ThreadEngine]]:
    """Opens engines, and sees to it that no worker is left at the end, as none is at the beginning."""
    until(lambda: workers() == 0)
    opened: list[tuple[ThreadEngine, Simulated]] = []

    def engine(attempts: Simulated) -> ThreadEngine:
        opened.append((ThreadEngine(attempts), attempts))
        return opened[-1][0]

    yield engine
    for one, attempts in opened:
        one.close(0.0)
        attempts.release()
    until(lambda: workers() == 0)
    assert [attempts.closed for _, attempts in opened] == [1]


def under_way(engine: ThreadEngine, attempts: Simulated, count: int) -> None:
    """Begin so many, and wait until the worker waits for what becomes of them."""
    for position in range(count):
        engine.submit(Work(position, "A"))
    assert list(engine.collect(0.0)) == []
    until(lambda: len(attempts.begun) == count and attempts.turning)


def collected(engine: ThreadEngine, number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        more = engine.collect(10)
        assert more, "nothing came"
        found += [work.position for work, _ in more]
    return sorted(found)


OpenEngine = Callable[[Simulated], ThreadEngine]


def test_one_worker_sees_to_everything(open_engine: OpenEngine) -> None:
    attempts = Simulated(held=True)
    engine = open_engine(attempts)
    assert list(engine.collect(0.0)) == []
    assert workers() == 0, "nothing to do, and no thread"
    under_way(engine, attempts, 50)
    attempts.release()
    assert collected(engine, 50) == list(range(50))
    for position in range(50):
        engine.submit(Work(position, "A"))
        assert collected(engine, 1) == [position]
    assert workers() == 1
    assert len(attempts.threads) == 1
    assert threading.get_ident() not in attempts.threads
    assert list(engine.close(10)) == []
    assert attempts.closed == 1


def test_the_worker_is_woken_once_for_all_that_was_submitted(open_engine: OpenEngine) -> None:
    """And not where nothing was: each wake-up costs a system call, and the worker a turn."""
    attempts = Simulated(held=True)
    engine = open_engine(attempts)
    under_way(engine, attempts, 20)
    engine.collect(0.0)
    assert attempts.woken == 1


def test_every_answer_keeps_its_account(open_engine: OpenEngine) -> None:
    engine = open_engine(Simulated())
    asked = [Work(position, f"A-{position}") for position in range(DRAIN + 5)]
    for work in asked:
        engine.submit(work)
    answered: list[Work] = []
    while len(answered) < len(asked):
        more = engine.collect(10)
        assert more, "nothing came"
        answered += [work for work, answer in more if answer is FAILED]
    assert answered == asked


def test_an_end_takes_what_has_come_and_drops_what_was_not_begun(open_engine: OpenEngine) -> None:
    attempts = Simulated(held=True)
    engine = open_engine(attempts)
    under_way(engine, attempts, 3)
    attempts.release()
    until(lambda: attempts.ended == 3 and attempts.turning)
    for position in range(3, 6):
        engine.submit(Work(position, "A"))
    assert sorted(work.position for work, _ in engine.close(10)) == [0, 1, 2]
    assert attempts.begun == [0, 1, 2]


def test_an_end_takes_what_comes_in_the_last_turn(open_engine: OpenEngine) -> None:
    attempts = Simulated(held=True)
    engine = open_engine(attempts)
    under_way(engine, attempts, 2)
    attempts.answers_from(lambda: attempts.aborted)
    assert sorted(work.position for work, _ in engine.close(10)) == [0, 1]


def test_an_end_without_an_answer_is_one(open_engine: OpenEngine) -> None:
    attempts = Simulated(held=True)
    engine = open_engine(attempts)
    under_way(engine, attempts, 1)
    began = time.monotonic()
    assert list(engine.close(30)) == []
    assert time.monotonic() - began < 15
    assert attempts.closed == 1


def test_an_end_waits_no_longer_than_its_grace(open_engine: OpenEngine) -> None:
    attempts = Simulated(held=True, deaf=True)
    engine = open_engine(attempts)
    under_way(engine, attempts, 1)
    began = time.monotonic()
    assert list(engine.close(0.2)) == []
    assert 0.2 <= time.monotonic() - began < 5
    assert workers() == 1
    assert attempts.closed == 0, "the worker closes what it is working with, nobody else"


def test_a_second_end_is_harmless(open_engine: OpenEngine) -> None:
    attempts = Simulated()
    engine = open_engine(attempts)
    engine.submit(Work(0, "A"))
    collected(engine, 1)
    for _ in range(3):
        assert list(engine.close(10)) == []
    assert attempts.closed == 1


@pytest.mark.parametrize("submitted", [0, 3])
def test_an_end_before_anything_began(open_engine: OpenEngine, submitted: int) -> None:
    attempts = Simulated()
    engine = open_engine(attempts)
    for position in range(submitted):
        engine.submit(Work(position, "A"))
    for _ in range(2):
        assert list(engine.close(10)) == []
    assert (attempts.begun, workers()) == ([], 0)


def test_a_bug_is_raised_where_answers_are_collected(open_engine: OpenEngine) -> None:
    attempts = Simulated()
    engine = open_engine(attempts)
    engine.submit(Work(0, "bug"))
    with pytest.raises(KeyError):
        engine.collect(10)
    assert list(engine.close(10)) == []
    assert attempts.closed == 1


def test_wake_ends_a_wait_without_an_answer(open_engine: OpenEngine) -> None:
    attempts = Simulated(held=True)
    engine = open_engine(attempts)
    under_way(engine, attempts, 1)
    threading.Timer(0.05, engine.wake).start()
    began = time.monotonic()
    assert list(engine.collect(30)) == []
    assert time.monotonic() - began < 15
    attempts.release()
    assert collected(engine, 1) == [0]


# --- the mailbox ------------------------------------------------------------------------------


def test_a_wake_up_hides_no_answer() -> None:
    mailbox = Mailbox()
    mailbox.put(None)
    mailbox.put([(Work(0, "A"), FAILED), (Work(1, "B"), FAILED)])
    mailbox.put([])
    mailbox.put([(Work(2, "C"), FAILED)])
    assert [work.position for work, _ in mailbox.collect(10)] == [0, 1, 2]
    assert list(mailbox.collect(0.0)) == []


def test_an_exception_in_the_mailbox_is_raised_once() -> None:
    mailbox = Mailbox()
    mailbox.put(KeyboardInterrupt())
    mailbox.put([(Work(0, "A"), FAILED)])
    with pytest.raises(KeyboardInterrupt):
        mailbox.collect(10)
    assert [work.position for work, _ in mailbox.collect(10)] == [0]
