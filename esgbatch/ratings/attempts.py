"""Attempts at the ESG API, as many at once as the dispatcher wants, in one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from esgbatch.config.model import Ratings
from esgbatch.http.auth import Authenticator
from esgbatch.model import Answer, Verdict, Work
from esgbatch.ratings.client import Attempt, EsgApi
from esgbatch.ratings.transfers import Transfers
from esgbatch.ratings.transport import BeforeSending, Connections


class CurlAttempts:
    """Implements `ports.Attempts`.

    A log-in is the only thing that takes its time and is not libcurl's, so it has a thread of its own.
    What is started meanwhile waits for it. Then one of them goes and the others are `LOST`, since
    their permits are of another second: all at once they would be a burst.
    """

    def __init__(
        self,
        config: Ratings,
        authenticator: Authenticator,
        most: int,
        *,
        before_sending: BeforeSending = lambda: None,
    ) -> None:
        """`before_sending` is called before each request, once its connection is ready.

        While it waits, so does everything else, and time limits go on; where it returns False nothing
        is sent, and the attempt is `LOST`.

        Args:
            most: attempts at once, and connections kept.

        Raises:
            ConfigError: certificate files, or a body, that cannot be used.
        """
        self._api = EsgApi(config, authenticator)
        self._authenticator = authenticator
        self._before_sending = before_sending
        self._connections = Connections(config, self._may_send, interruptible=False)
        self._transfers: Transfers[tuple[Work, Attempt]] = Transfers(most)
        self._logins = ThreadPoolExecutor(1, thread_name_prefix="login")
        self._login: Future[Answer | None] | None = None
        self._started: deque[Work] = deque()
        self._waiting: deque[Work] = deque()
        self._answers: list[tuple[Work, Answer]] = []
        self._rung = False
        self._aborted = False

    def start(self, work: Work) -> None:
        self._started.append(work)

    def turn(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        # First of all: whoever finds it rung relies on a look at what was started.
        self._rung = False
        self._after_login()
        self._begin()
        for (work, attempt), code, words in self._transfers.turn(0.0 if self._answers else timeout):
            self._answers.append((work, self._api.end(attempt, code, words)))
            self._connections.give_back(attempt.connection)
        answers, self._answers = self._answers, []
        return answers

    def abort(self) -> None:
        self._aborted = True
        # Whatever was rung before: a turn may have heard that, and waits again.
        self._transfers.ring()

    def close(self) -> None:
        self._transfers.close()
        self._logins.shutdown(wait=False)

    def wake(self) -> None:
        if not self._rung:
            self._rung = True
            self._transfers.ring()

    def _may_send(self) -> bool | None:
        return False if self._aborted else self._before_sending()

    def _begin(self) -> None:
        while self._started and not self._aborted:
            work = self._started.popleft()
            if self._login is None and self._authenticator.ready():
                self._attempt(work)
            else:
                self._waiting.append(work)
        if self._waiting and self._login is None:
            self._login = self._logins.submit(self._api.log_in)
            self._login.add_done_callback(lambda _: self.wake())

    def _attempt(self, work: Work) -> None:
        attempt = self._api.begin(work.account_id, self._connections)
        if isinstance(attempt, Answer):
            self._answers.append((work, attempt))
        else:
            self._transfers.start(attempt.connection.handle, (work, attempt))

    def _after_login(self) -> None:
        """See to those who waited for a log-in, once it has ended."""
        if self._login is None or not self._login.done():
            return
        answer, self._login = self._login.result(), None
        if answer is None:
            self._attempt(self._waiting.popleft())
            answer = Answer(Verdict.LOST, detail="its permit was for before the log-in")
        self._answers += [(work, answer) for work in self._waiting]
        self._waiting.clear()
