"""A dead man's switch, by the protocol of Healthchecks: URL/start, URL, URL/fail with the exit code as body.

What stays away is noticed by somebody else: a machine that is gone, a scheduler that sleeps.
"""

from __future__ import annotations

import queue
import threading
import time
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit

import requests

from esgbatch.config.model import Web
from esgbatch.errors import BatchError, ExitCode, StopRequested
from esgbatch.http.session import explain, open_session
from esgbatch.model import Snapshot
from esgbatch.ports import Listener

TIMEOUT = 5.0
TRIES = 2

# They say nothing of the night: the caller's own mistake, or somebody else's run.
NOT_TOLD = frozenset((ExitCode.DELIVERED, ExitCode.USAGE, ExitCode.HELD, ExitCode.NOTHING))


class Heartbeat:
    """Implements `ports.Listener`. Sends in a thread, in order, so that the job waits at its end only."""

    def __init__(self, url: str, log: Listener) -> None:
        self._url = url
        self._log = log
        self._pings: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._told = False

    def stop(self) -> None:
        """No more will come; `join` waits for what is under way."""
        self._pings.put(None)

    def join(self, until: float) -> None:
        """Wait until all is sent, but no longer than to an instant of the monotonic clock."""
        if self._thread is not None:
            self._thread.join(max(0.0, until - time.monotonic()))

    def event(self, name: str, /, **fields: object) -> None:
        if name == "run_started":
            self._ping("/start", "")
        elif name == "run_finished":
            self._ping("", "")
        elif name == "run_failed":
            self._fail(fields.get("exit_code"))

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing to tell."""

    def ended(self, error: BaseException) -> None:
        """The command ends with `error`; told here where no run had begun."""
        code = error.code if isinstance(error, BatchError | StopRequested) else ExitCode.BUG
        if code not in NOT_TOLD:
            self._fail(code)

    def _fail(self, code: object) -> None:
        if not self._told:
            self._told = True
            self._ping("/fail", str(int(code)) if isinstance(code, int) else "1")

    def _ping(self, suffix: str, body: str) -> None:
        if not self._url:
            return
        self._pings.put((suffix, body))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (ping := self._pings.get()) is not None:
            why = ""
            for _ in range(TRIES):
                try:
                    why = self._send(*ping)
                except requests.RequestException as error:
                    why = explain(error)
                except BatchError as error:
                    why = str(error)
                if not why:
                    break
            if why:
                self._log.event("heartbeat_failed", ping=ping[0] or "success", error=why)

    def _send(self, suffix: str, body: str) -> str:
        """Why it was not taken; empty where it was."""
        parts = urlsplit(self._url)
        url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))
        method = "POST" if body else "GET"
        with (
            closing(open_session(Web())) as session,
            session.request(
                method, url, data=body or None, timeout=TIMEOUT, allow_redirects=False, stream=True
            ) as response,
        ):
            return "" if response.ok and not response.is_redirect else f"HTTP {response.status_code}"
