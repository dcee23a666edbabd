"""Which pages of the file are final, whatever the order of the answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from esgbatch.fetching.pages import Pages
from esgbatch.model import PAGE_ROWS, Outcome, State, Work, positions_on


class Draft:
    """Notes what it is told; there is nothing to do for those in `made`."""

    def __init__(self, *made: int) -> None:
        self.made = set(made)
        self.told: list[int] = []

    def __call__(self, page: int) -> bool:
        self.told.append(page)
        return page not in self.made

    def take(self) -> list[int]:
        told, self.told = self.told, []
        return told


def works(*positions: int) -> list[Work]:
    return [Work(position, f"A-{position}") for position in positions]


def done(*positions: int, state: State = State.SUCCEEDED) -> list[Outcome]:
    return [Outcome(position, state) for position in positions]


@pytest.fixture
def draft() -> Draft:
    return Draft()


def told(pages: Pages, draft: Draft, calls: int = 100) -> list[int]:
    for _ in range(calls):
        pages.tell()
    return draft.take()


def test_a_page_is_final_with_its_last_outcome(draft: Draft) -> None:
    pages = Pages(2, draft)
    pages.taken(works(*positions_on(0), *positions_on(1)))
    pages.concluded(done(*positions_on(0)[1:]))
    assert told(pages, draft) == []
    pages.concluded(done(0))
    assert told(pages, draft) == [0]
    assert told(pages, draft) == [], "it is told once"


def test_the_page_that_the_backlog_is_in_is_final_when_it_has_no_more_of_it(draft: Draft) -> None:
    pages = Pages(2, draft)
    pages.taken(works(0, 1))
    pages.concluded(done(0, 1))
    assert told(pages, draft) == [], "nobody knows whether more of it is pending"
    pages.taken(works(2, PAGE_ROWS))
    assert told(pages, draft) == []
    pages.concluded(done(2))
    assert told(pages, draft) == [0]
    pages.concluded(done(PAGE_ROWS))
    assert told(pages, draft) == []
    pages.taken([])
    assert told(pages, draft) == [1]


def test_pages_that_an_earlier_process_has_done_are_final_at_once(draft: Draft) -> None:
    pages = Pages(5, draft)
    pages.taken(works(3 * PAGE_ROWS))
    assert told(pages, draft) == [0, 1, 2]
    pages.taken([])
    assert told(pages, draft) == [4]


def test_who_is_put_off_keeps_the_page_open(draft: Draft) -> None:
    pages = Pages(3, draft)
    pages.taken(works(0, 1, PAGE_ROWS))
    pages.taken([])
    pages.concluded(done(0))
    pages.concluded(done(1, state=State.DEFERRED))
    assert told(pages, draft) == [2]
    last_pass = Pages(3, draft)
    last_pass.taken(works(1, 2 * PAGE_ROWS))
    assert told(last_pass, draft) == [1]
    last_pass.concluded(done(1, state=State.FAILED))
    assert told(last_pass, draft) == [0]


def test_one_is_made_at_a_time_and_those_that_are_made_do_not_count() -> None:
    draft = Draft(0, 1, 3)
    pages = Pages(6, draft)
    pages.taken([])
    assert told(pages, draft, 1) == [0, 1, 2]
    assert told(pages, draft, 1) == [3, 4]
    assert told(pages, draft, 1) == [5]
    assert told(pages, draft, 1) == []


def batches(items: Sequence[int], dice: random.Random) -> Iterator[Sequence[int]]:
    while items:
        size = dice.randint(1, 700)
        yield items[:size]
        items = items[size:]


@pytest.mark.parametrize("seed", range(20))
def test_every_page_is_told_once_and_only_when_it_is_final(seed: int) -> None:
    """Whatever was done before, in whatever order answers come, a few hundred under way."""
    dice = random.Random(seed)
    left = [at for at in range(10 * PAGE_ROWS) if dice.random() < dice.choice((0.1, 0.9))]
    open_ = set(left)
    draft = Draft()
    pages, under_way, ready = Pages(10, draft), [], []
    for taken in [*batches(left, dice), []]:
        pages.taken(works(*taken))
        under_way += taken
        dice.shuffle(under_way)
        answered, under_way = under_way[:600], under_way[600:]
        open_ -= set(answered)
        pages.concluded(done(*answered))
        for number in told(pages, draft):
            assert not open_.intersection(positions_on(number))
            ready.append(number)
    pages.concluded(done(*under_way))
    ready += told(pages, draft)
    assert sorted(ready) == list(range(10))
