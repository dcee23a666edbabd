"""Where attempts run: in a thread here; `cluster.py` has the other engine."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from esgbatch.model import Answer, Work
from esgbatch.ports import Attempts

DRAIN = 1000
IDLE_SECONDS = 60.0


class Mailbox:
    """Answers on their way from any thread to the dispatcher's; an exception among them is raised there."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Sequence[tuple[Work, Answer]] | BaseException | None] = (
            queue.SimpleQueue()
        )

    def put(self, item: Sequence[tuple[Work, Answer]] | BaseException | None) -> None:
        """Safe in a signal handler; None only wakes."""
        self._items.put(item)

    def collect(self, timeout: float) -> list[tuple[Work, Answer]]:
        """Wait at most `timeout` seconds for the first, then take all there are."""
        answers: list[tuple[Work, Answer]] = []
        try:
            item = self._items.get(timeout=timeout) if timeout > 0 else self._items.get_nowait()
            while True:
                if isinstance(item, BaseException):
                    raise item
                answers += item or ()
                if len(answers) >= DRAIN:
                    break
                item = self._items.get_nowait()
        except queue.Empty:
            pass
        return answers


class ThreadEngine:
    """A `ThreadPoolExecutor` whose worker drives every attempt under way, for the whole night.

    A thread for each would wake up for its answer and wait for the interpreter's lock
    (docs/performance.md). libcurl gives the lock back while it works, so that dispatcher and worker
    use two cores.
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="rating")
        self._worker: Future[None] | None = None
        self._done = Mailbox()
        self._closing = False
        self._news = False

    def submit(self, work: Work) -> None:
        self._attempts.start(work)
        self._news = True

    def _work(self) -> None:
        try:
            while not self._closing:
                answers = self._attempts.turn(IDLE_SECONDS)
                if answers:
                    self._done.put(answers)
            self._done.put(self._attempts.turn(0.0))
        except BaseException as error:  # noqa: BLE001 - a bug must reach the dispatcher's thread, not die here
            self._done.put(error)
        finally:
            self._attempts.close()

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        if self._news:
            self._news = False
            if self._worker is None:
                self._worker = self._executor.submit(self._work)
            self._attempts.wake()
        return self._done.collect(timeout)

    def wake(self) -> None:
        self._done.put(None)

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        if self._closing:
            return []
        self._closing = True
        self._attempts.abort()
        self._executor.shutdown(wait=False)
        if self._worker is None:
            self._attempts.close()
            return []
        wait([self._worker], timeout=grace)
        answers: list[tuple[Work, Answer]] = []
        while more := self.collect(0.0):
            answers += more
        return answers
