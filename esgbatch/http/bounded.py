"""A time limit for what has none of its own: name look-ups, and servers that answer a byte at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, if it ends in time; otherwise its thread is left behind.

    Raises:
        TimeoutError: after so many seconds. The work may still go on.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=run, name="bounded", daemon=True).start()
    return outcome.result(timeout=seconds)
