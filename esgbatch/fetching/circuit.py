"""Telling an outage of the API from a handful of broken accounts."""

from __future__ import annotations

from collections import Counter, deque

WINDOW = 60.0
ACCOUNTS = 20
FIRST_PROBE = 1.0
LONGEST_PROBE = 30.0


class Circuit:
    """Open while the API is down: then nobody is charged, and one probe at a time asks.

    It opens when attempts on 20 different accounts failed within a minute with no sign
    of life among them. Probes come after 1, 2, 4 … at most 30 seconds. All times are
    monotonic seconds.
    """

    def __init__(self) -> None:
        self._failures: deque[tuple[float, int]] = deque()
        self._counts: Counter[int] = Counter()
        self._interval = FIRST_PROBE
        self.opened_at: float | None = None
        self.next_probe = 0.0
        self.confirmed = False

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None

    @property
    def disturbed(self) -> bool:
        """Whether `alive` would change anything."""
        return bool(self._failures) or self.opened_at is not None

    @property
    def accounts(self) -> int:
        """How many different accounts have failed in the window."""
        return len(self._counts)

    def failure(self, now: float, position: int) -> bool:
        """Note a failed attempt; True when this one opens the circuit."""
        self._failures.append((now, position))
        self._counts[position] += 1
        while self._failures[0][0] < now - WINDOW:
            _, old = self._failures.popleft()
            self._counts[old] -= 1
            if not self._counts[old]:
                del self._counts[old]
        if self.is_open or len(self._counts) < ACCOUNTS:
            return False
        self.opened_at = now
        self._interval = FIRST_PROBE
        self.next_probe = now + self._interval
        self.confirmed = False
        return True

    def alive(self) -> bool:
        """Note an answer that a working API gives; True when this one closes the circuit."""
        if self._failures:
            self._failures.clear()
            self._counts.clear()
        closed = self.is_open
        self.opened_at = None
        return closed

    def probe_failed(self, now: float) -> dict[int, int]:
        """Put the next probe off; the first time, return the charges to give back, by position.

        Until a probe has failed, the failures may have been the accounts' own: were
        their charges given back at once, twenty broken accounts would be asked for ever.
        """
        self._interval = min(self._interval * 2, LONGEST_PROBE)
        self.next_probe = now + self._interval
        if self.confirmed:
            return {}
        self.confirmed = True
        return dict(self._counts)
