"""The file in the making: the same bytes whenever its pages are made, and none of it readable meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esgbatch import draft as draft_module
from esgbatch.draft import Draft
from esgbatch.errors import CheckpointError
from esgbatch.model import PAGE_ROWS, Reason, Run, Tally
from esgbatch.quality import Scores
from esgbatch.rows import CsvFile
from tests.checkpoints import COLUMNS, Books, account, failure, success

HEADER = ("Account ID", "Account Name", *COLUMNS, "Processing Status")
ACCOUNTS = 2 * PAGE_ROWS + 3


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with Books(f"sqlite:///{tmp_path}/checkpoint.sqlite") as books:
        yield books


@pytest.fixture
def run(books: Books) -> Run:
    """Each tenth account failed."""
    run = books.enrolled(ACCOUNTS)
    outcomes = [failure(at) if at % 10 == 0 else success(at, "71.24", "64.10") for at in range(ACCOUNTS)]
    books.outcomes.record(run, outcomes)
    return run


def begin(books: Books, run: Run, folder: Path) -> Draft:
    scores = Scores(len(COLUMNS), 0.0, 100.0)
    return Draft(run, books.outcomes, CsvFile(HEADER, guard_formulas=True), scores, folder)


def expected(books: Books, run: Run) -> bytes:
    file = CsvFile(HEADER, guard_formulas=True)
    return file.head + file.lines(books.rows(run))


@pytest.mark.parametrize("early", [(), (0,), (2, 0), (0, 1, 2), (1, 1)])
def test_the_file_is_the_same_whichever_pages_were_made_early(
    books: Books, run: Run, tmp_path: Path, early: tuple[int, ...]
) -> None:
    with begin(books, run, tmp_path) as draft:
        for number in early:
            draft.make(number)
        draft.finish()
        for _ in range(2):  # it may have to be sealed again
            assert b"".join(draft.chunks()) == expected(books, run)
            assert draft.rows == ACCOUNTS
        failed = sum(at % 10 == 0 for at in range(ACCOUNTS))
        assert draft.tally == Tally(succeeded=ACCOUNTS - failed, failed_by={Reason.NO_RATING: failed})
        assert draft.scores.means == pytest.approx((71.24, 64.10))
        assert sum(draft.scores.histograms[0].counts) == ACCOUNTS - failed


def test_rows_are_counted_as_they_go_out(books: Books, run: Run, tmp_path: Path) -> None:
    with begin(books, run, tmp_path) as draft:
        draft.finish()
        chunks = draft.chunks()
        counted = [draft.rows for _ in chunks]
    assert counted == [0, 0, PAGE_ROWS, 2 * PAGE_ROWS]
    assert draft.rows == ACCOUNTS


def test_a_page_with_an_account_under_way_is_made_later(books: Books, tmp_path: Path) -> None:
    run = books.enrolled(2)
    books.outcomes.record(run, [success(0)])
    with begin(books, run, tmp_path) as draft:
        draft.make(0)
        assert draft.tally == Tally()
        with pytest.raises(AssertionError, match="no outcome"):
            draft.finish()
        assert draft.make(0), "it is looked at again"
        books.outcomes.record(run, [failure(1)])
        draft.finish()
        assert b"".join(draft.chunks()) == expected(books, run)


def test_what_was_changed_in_the_checkpoint_is_told_when_the_file_is_made_and_not_before(
    books: Books, run: Run, tmp_path: Path
) -> None:
    """The night goes on: its answers are worth keeping."""
    with books.database.writing() as connection:
        connection.exec_driver_sql("update accounts set name = scores where position = 7")
    with begin(books, run, tmp_path) as draft:
        draft.make(0)
        with pytest.raises(CheckpointError, match="name at position 7 "):
            draft.finish()


def test_a_database_that_is_gone_is_not_waited_for_page_by_page(
    books: Books, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def gone(_run: Run, number: int) -> None:
        asked.append(number)
        raise CheckpointError("The connection is lost.")

    with begin(books, run, tmp_path) as draft:
        with monkeypatch.context() as patched:
            patched.setattr(books.outcomes, "page", gone)
            assert [draft.make(number) for number in (0, 1, 2)] == [True, False, False]
        assert asked == [0]
        draft.finish()
        assert b"".join(draft.chunks()) == expected(books, run)


def test_no_byte_of_it_can_be_read_on_the_disk(books: Books, tmp_path: Path) -> None:
    run = books.enrolled([account("A-CANARY", "Canary Trust")])
    books.outcomes.record(run, [success(0)])
    folder = tmp_path / "state"
    folder.mkdir()
    with begin(books, run, folder) as draft:
        draft.finish()
        assert list(folder.iterdir()) == [], "a crash leaves nothing"
        file = draft._spool._file
        assert file is not None
        spooled = os.pread(file.fileno(), 1_000_000, 0)
        assert len(spooled) > 30
        assert b"anary" not in spooled
        assert b"CANARY" not in spooled


def test_a_disk_with_little_room_is_left_to_those_who_need_it(
    books: Books, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(books, run, tmp_path) as draft:
        draft.make(0)
        assert draft._spool._file is not None
        with monkeypatch.context() as patched:
            patched.setattr(draft_module, "ROOM", 2**62)
            draft.make(1)
        assert draft._spool._file is None, "what it had is given back"
        draft.finish()
        assert draft._spool._file is None
        assert b"".join(draft.chunks()) == expected(books, run)
        assert draft.rows == draft.tally.rows == ACCOUNTS


@pytest.mark.parametrize("when", ["opening", "writing"])
def test_a_disk_without_room_for_it_makes_it_slower_and_no_worse(
    books: Books, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with begin(books, run, tmp_path) as draft:
        draft.make(1)
        with monkeypatch.context() as patched:
            patched.setattr(
                *((draft_module.tempfile, "TemporaryFile") if when == "opening" else (os, "pwrite")), full
            )
            draft.make(0)
            draft.finish()
        assert b"".join(draft.chunks()) == expected(books, run)
        assert draft.rows == draft.tally.rows == ACCOUNTS


def test_a_page_that_the_spool_gives_back_otherwise_is_made_again(
    books: Books, run: Run, tmp_path: Path
) -> None:
    with begin(books, run, tmp_path) as draft:
        draft.finish()
        file = draft._spool._file
        assert file is not None
        (byte,) = os.pread(file.fileno(), 1, 100)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), 100)
        assert b"".join(draft.chunks()) == expected(books, run)


def test_each_page_is_read_from_the_checkpoint_once(
    books: Books, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    page = books.outcomes.page
    monkeypatch.setattr(books.outcomes, "page", lambda run, number: read.append(number) or page(run, number))
    with begin(books, run, tmp_path) as draft:
        draft.make(1)
        draft.finish()
        b"".join(draft.chunks())
    assert sorted(read) == [0, 1, 2]


def test_a_file_that_is_not_what_was_listed_is_not_made(books: Books, run: Run, tmp_path: Path) -> None:
    more = replace(run, census=replace(run.census, listed=run.census.listed + 1))
    with begin(books, more, tmp_path) as draft, pytest.raises(AssertionError, match="listed"):
        draft.finish()
