"""Which pages of the file are final, going by what was taken from the backlog and what came of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from esgbatch.model import Outcome, State, Work, page_of


class Pages:
    """The pages of one pass over a file of so many; each that is final is told to `draft`, once.

    An account that is put off to the next pass keeps its page open. `draft` says whether there was
    anything to do for it.
    """

    def __init__(self, total: int, draft: Callable[[int], bool]) -> None:
        self._total = total
        self._draft = draft
        self._open: Counter[int] = Counter()
        self._reached = 0
        self._final: deque[int] = deque()

    def taken(self, works: Sequence[Work]) -> None:
        """Some accounts are under way: the backlog's next ones in order, none at its end."""
        for work in works:
            self._open[page_of(work.position)] += 1
        reached = page_of(works[-1].position) if works else self._total
        self._final.extend(page for page in range(self._reached, reached) if page not in self._open)
        self._reached = reached

    def concluded(self, outcomes: Sequence[Outcome]) -> None:
        """They have outcomes, and these are committed."""
        for outcome in outcomes:
            page = page_of(outcome.position)
            if outcome.state is not State.DEFERRED:
                self._open[page] -= 1
                if not self._open[page]:
                    del self._open[page]
                    if page < self._reached:
                        self._final.append(page)

    def tell(self) -> None:
        """Have one made; one at a time, since the next request waits."""
        while self._final and not self._draft(self._final.popleft()):
            pass
