"""What runs on a worker of the cluster: single attempts, each with a permit that soon runs out."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from esgbatch import __version__
from esgbatch.http.auth import Authenticator, Credential
from esgbatch.model import Answer, Verdict, Work
from esgbatch.ports import RatingProvider

PARK_SECONDS = 5.0
# Answers and permits travel together: a message costs a coordinator more than what is in it.
GATHER_SECONDS = 0.01


class OpenProvider(Protocol):
    """Makes the client of the ESG API, the same as on one machine."""

    def __call__(
        self, authenticator: Authenticator, *, before_sending: Callable[[], bool]
    ) -> RatingProvider: ...


def boot_clock() -> float:
    """Seconds since boot, a machine's sleep included: what `time.monotonic` leaves out would be validity."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one request. `expires` is on the worker's `boot_clock`; numbers go up, each is given once."""

    number: int
    work: Work
    expires: float


class PushedLogin:
    """The `Authenticator` of a worker: the coordinator logs in, and sends the header to use with each chunk."""

    def __init__(self) -> None:
        self.current: Credential | None = None

    def credential(self) -> Credential | None:
        return self.current

    def ready(self) -> bool:
        return True

    def refused(self, credential: Credential | None) -> None:
        """The coordinator sees the 401, and renews once for all."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """`number` is None while it waits for another permit; nobody hears of its end then."""

    work: Work
    number: int | None
    expires: float
    renewed: threading.Event = field(default_factory=threading.Event)


class Agent:
    """A Dask actor, one a worker. It decides nothing: no rate, no retry, no wait but for a permit.

    A request leaves only while its permit holds. One that comes too late (the process was
    frozen, the machine crowded, a handshake slow) is told to the coordinator as `LOST` and
    keeps its connection ready for a few seconds: the coordinator gives the account a new
    permit when its turn comes, and sends it here.
    """

    def __init__(self, version: str, open_provider: OpenProvider, threads: int) -> None:
        """
        Raises:
            RuntimeError: the coordinator's program is another one.
        """
        if version != __version__:
            raise RuntimeError(f"it has esgbatch {__version__}, the coordinator {version}")
        self._login = PushedLogin()
        self._provider = open_provider(self._login, before_sending=self._may_send)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="rating")
        self._lock = threading.Lock()
        self._parked: dict[int, _Attempt] = {}
        self._current = threading.local()
        self._answers: list[tuple[int, Answer | str]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._stopped = False
        self._last = -1

    # Coroutines, so that Dask runs them in the worker's event loop and not one after the other in a thread.

    async def take(self, credential: Credential | None, permits: Sequence[Permit]) -> None:
        """Start an attempt for each permit, or let the one go on that waits for it."""
        self._login.current = credential
        for permit in permits:
            if permit.number <= self._last:
                continue  # a message that came twice: each permit is one request
            self._last = permit.number
            with self._lock:
                parked = self._parked.pop(permit.work.position, None)
                if parked is not None:
                    parked.number, parked.expires = permit.number, permit.expires
            if parked is not None:
                parked.renewed.set()
            else:
                self._executor.submit(self._run, _Attempt(permit.work, permit.number, permit.expires))

    async def answers(self, seconds: float) -> tuple[float, Sequence[tuple[int, Answer | str]]]:
        """This host's time, and what has come by permit number: at the first answer, or after `seconds`.

        Where there is a text instead of an answer, it is the traceback of a bug.
        """
        self._loop = asyncio.get_running_loop()
        if not self._answers:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        await asyncio.sleep(GATHER_SECONDS)
        self._news.clear()
        with self._lock:
            answers, self._answers = self._answers, []
        return boot_clock(), answers

    async def stop(self) -> None:
        """End every attempt under way; their last answers can still be had."""
        self._stopped = True
        self._provider.abort()
        with self._lock:
            for attempt in self._parked.values():
                attempt.renewed.set()

    # In the attempts' threads.

    def _run(self, attempt: _Attempt) -> None:
        self._current.attempt = attempt
        answer: Answer | str
        try:
            answer = self._provider.rate(attempt.work.account_id)
        except BaseException:  # noqa: BLE001 - a bug must reach the coordinator, not die here
            answer = traceback.format_exc()
        self._tell(attempt.number, answer)

    def _tell(self, number: int | None, answer: Answer | str) -> None:
        if number is None:
            return
        with self._lock:
            self._answers.append((number, answer))
            first = len(self._answers) == 1
        if first and self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    def _may_send(self) -> bool:
        """Whether the request may leave now; where its permit has run out, waits a little for another."""
        attempt: _Attempt = self._current.attempt
        while boot_clock() > attempt.expires and not self._stopped:
            with self._lock:
                number, attempt.number = attempt.number, None
                attempt.renewed.clear()
                self._parked[attempt.work.position] = attempt
            self._tell(number, Answer(Verdict.LOST, detail="its permit ran out"))
            attempt.renewed.wait(PARK_SECONDS)
            with self._lock:
                if attempt.number is None:
                    self._parked.pop(attempt.work.position, None)
                    return False
        return not self._stopped
