"""Which pages of the file are final, whatever the order of the answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from esgbatch.fetching.pages import Pages
from esgbatch.model import PAGE_ROWS, Outcome, State, Work


def works(*positions: int) -> list[Work]:
    return [Work(position, f"A-{position}") for position in positions]


def done(*positions: int, state: State = State.SUCCEEDED) -> list[Outcome]:
    return [Outcome(position, state) for position in positions]


def final(pages: Pages) -> list[int]:
    return list(pages.final(1_000_000))


def page(number: int) -> range:
    return range(number * PAGE_ROWS, (number + 1) * PAGE_ROWS)


def test_a_page_is_final_with_its_last_outcome() -> None:
    pages = Pages()
    pages.taken(works(*page(0), *page(1)))
    pages.concluded(done(*page(0)[1:]))
    assert final(pages) == []
    pages.concluded(done(0))
    assert final(pages) == [0]
    assert final(pages) == [], "it is told once"


def test_the_page_that_the_backlog_is_in_is_not_final_yet() -> None:
    pages = Pages()
    pages.taken(works(0, 1))
    pages.concluded(done(0, 1))
    assert final(pages) == [], "nobody knows whether more of it is pending"
    pages.taken(works(2, PAGE_ROWS))
    assert final(pages) == []
    pages.concluded(done(2))
    assert final(pages) == [0]


def test_pages_that_an_earlier_process_has_done_are_final_at_once() -> None:
    pages = Pages()
    pages.taken(works(3 * PAGE_ROWS))
    assert final(pages) == [0, 1, 2]


def test_who_is_put_off_keeps_the_page_open() -> None:
    pages = Pages()
    pages.taken(works(0, 1, PAGE_ROWS))
    pages.concluded(done(0))
    pages.concluded(done(1, state=State.DEFERRED))
    assert final(pages) == []
    last_pass = Pages()
    last_pass.taken(works(1, 2 * PAGE_ROWS))
    assert final(last_pass) == [1]
    last_pass.concluded(done(1, state=State.FAILED))
    assert final(last_pass) == [0]


def test_no_more_are_told_than_asked_for() -> None:
    pages = Pages()
    pages.taken(works(5 * PAGE_ROWS))
    assert list(pages.final(2)) == [0, 1]
    assert list(pages.final(2)) == [2, 3]
    assert list(pages.final(2)) == [4]


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
    pages, under_way, told = Pages(), [], []
    for taken in batches(left, dice):
        pages.taken(works(*taken))
        under_way += taken
        dice.shuffle(under_way)
        answered, under_way = under_way[:600], under_way[600:]
        open_ -= set(answered)
        pages.concluded(done(*answered))
        for number in final(pages):
            assert not open_.intersection(page(number))
            told.append(number)
    assert len(told) == len(set(told))
    pages.concluded(done(*under_way))
    told += final(pages)
    assert sorted(told) == list(range(left[-1] // PAGE_ROWS)), "all but the one that it ended in"
