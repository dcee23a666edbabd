"""Where attempts run: a pool of threads here; `cluster.py` has the other engine."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from esgbatch.model import Answer, Work
from esgbatch.ports import RatingProvider

DRAIN = 1000


class Mailbox:
    """Answers on their way from any thread to the dispatcher's; an exception among them is raised there."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Work, Answer | BaseException] | None] = queue.SimpleQueue()

    def put(self, item: tuple[Work, Answer | BaseException] | None) -> None:
        """Safe in a signal handler; None only wakes."""
        self._items.put(item)

    def collect(self, timeout: float) -> list[tuple[Work, Answer]]:
        """Wait at most `timeout` seconds for the first, then take all there are."""
        answers: list[tuple[Work, Answer]] = []
        try:
            item = self._items.get(timeout=timeout) if timeout > 0 else self._items.get_nowait()
            while True:
                if item is not None:
                    work, answer = item
                    if isinstance(answer, BaseException):
                        raise answer
                    answers.append((work, answer))
                if len(answers) >= DRAIN:
                    break
                item = self._items.get_nowait()
        except queue.Empty:
            pass
        return answers


class ThreadEngine:
    """A `ThreadPoolExecutor` whose workers each make one attempt after the other and never sleep.

    A worker stays in one call of the pool for the whole night: a future for each attempt, with its
    lock and condition, took a tenth of the interpreter's time in a profile. The dispatcher bounds what
    is in flight, so there is a worker more only when there is more to do than there are workers.
    """

    def __init__(self, provider: RatingProvider, threads: int) -> None:
        self._provider = provider
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="rating")
        self._most = threads
        self._workers = 0
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._done = Mailbox()
        self._in_flight = 0

    def submit(self, work: Work) -> None:
        self._in_flight += 1
        self._waiting.put(work)
        if self._workers < min(self._in_flight, self._most):
            self._workers += 1
            self._executor.submit(self._work)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                self._done.put((work, self._provider.rate(work.account_id)))
            except BaseException as error:  # noqa: BLE001 - a bug must reach the dispatcher's thread, not die here
                self._done.put((work, error))

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        answers = self._done.collect(timeout)
        self._in_flight -= len(answers)
        return answers

    def wake(self) -> None:
        self._done.put(None)

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
                self._in_flight -= 1
        for _ in range(self._workers):
            self._waiting.put(None)
        self._executor.shutdown(wait=False)
        self._provider.abort()
        answers: list[tuple[Work, Answer]] = []
        until = time.monotonic() + grace
        while self._in_flight > 0 and (left := until - time.monotonic()) > 0:
            answers += self.collect(left)
        return answers
