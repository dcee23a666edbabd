"""Where attempts run: a pool of threads."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from esgbatch.model import Answer, Work
from esgbatch.ports import RatingProvider

DRAIN = 1000


class ThreadEngine:
    """A `ThreadPoolExecutor` whose workers each make one attempt at a time and never sleep.

    The dispatcher bounds what is in flight, so the pool starts a thread only when all
    others are busy, and its queue stays short.
    """

    def __init__(self, provider: RatingProvider, threads: int) -> None:
        self._provider = provider
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="rating")
        self._done: queue.SimpleQueue[tuple[Work, Answer | BaseException] | None] = queue.SimpleQueue()
        self._in_flight = 0

    def submit(self, work: Work) -> None:
        self._in_flight += 1
        self._executor.submit(self._attempt, work)

    def _attempt(self, work: Work) -> None:
        try:
            self._done.put((work, self._provider.rate(work.account_id)))
        except BaseException as error:  # noqa: BLE001 - a bug must reach the dispatcher's thread, not die here
            self._done.put((work, error))

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        answers: list[tuple[Work, Answer]] = []
        try:
            item = self._done.get(timeout=timeout) if timeout > 0 else self._done.get_nowait()
            while True:
                if item is not None:
                    work, answer = item
                    self._in_flight -= 1
                    if isinstance(answer, BaseException):
                        raise answer
                    answers.append((work, answer))
                if len(answers) >= DRAIN:
                    break
                item = self._done.get_nowait()
        except queue.Empty:
            pass
        return answers

    def wake(self) -> None:
        self._done.put(None)

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._provider.abort()
        answers: list[tuple[Work, Answer]] = []
        until = time.monotonic() + grace
        while self._in_flight > 0 and (left := until - time.monotonic()) > 0:
            answers += self.collect(left)
        return answers
