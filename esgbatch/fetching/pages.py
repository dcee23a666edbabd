"""Which pages of the file are final, going by what was taken from the backlog and what came of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from esgbatch.model import PAGE_ROWS, Outcome, State, Work


class Pages:
    """The pages of one pass. An account that is put off to the next pass keeps its page open."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._reached = 0
        self._final: deque[int] = deque()

    def taken(self, works: Sequence[Work]) -> None:
        """Some accounts are under way: the backlog's next ones in order, so that all before them are known."""
        for work in works:
            self._open[work.position // PAGE_ROWS] += 1
        reached = works[-1].position // PAGE_ROWS
        self._final.extend(page for page in range(self._reached, reached) if page not in self._open)
        self._reached = reached

    def concluded(self, outcomes: Sequence[Outcome]) -> None:
        """They have outcomes, and these are committed."""
        for outcome in outcomes:
            page = outcome.position // PAGE_ROWS
            if outcome.state is not State.DEFERRED:
                self._open[page] -= 1
                if not self._open[page]:
                    del self._open[page]
                    if page < self._reached:
                        self._final.append(page)

    def final(self, most: int) -> Iterator[int]:
        """The next ones, each once."""
        for _ in range(min(most, len(self._final))):
            yield self._final.popleft()
