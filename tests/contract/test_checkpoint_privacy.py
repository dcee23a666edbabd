"""What Privacy promises, on SQLite and on PostgreSQL: purged and erased is gone, and figures stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from esgbatch.checkpoint import privacy as privacy_module
from esgbatch.checkpoint.privacy import TOMBSTONE
from esgbatch.errors import CheckpointError, NothingToDo, WrongUsage
from esgbatch.model import Reason, Receipt, Run, Stage, State, Tally
from tests.checkpoints import DAY, Books, account, success
from tests.contract.test_checkpoint_encryption import everything_on_disk, found

LATER = DAY.replace(day=25)
SUBJECT = "5" * 32


@pytest.fixture
def books(checkpoint_url: str) -> Iterator[Books]:
    with Books(checkpoint_url) as opened:
        yield opened


def delivered(books: Books, **numbers: int) -> Run:
    run = books.rated(**numbers)
    books.seal(run)
    books.ledger.delivered(run, Receipt("/drop/file", "read back", 1))
    return books.again(run)


def test_who_is_erased_after_the_delivery_has_no_scores_any_more(books: Books) -> None:
    run = delivered(books, succeeded=3, failed=1)
    assert [account_id for account_id, _ in books.outcomes.scored(run)] == ["A-0", "A-1", "A-2"]
    assert {scores for _, scores in books.outcomes.scored(run)} == {row.scores for row in books.rows(run)} - {
        None
    }
    books.privacy.erase(run, {"A-1": SUBJECT})
    assert [account_id for account_id, _ in books.outcomes.scored(run)] == ["A-0", "A-2"]


# --- purge ------------------------------------------------------------------------------------


def test_purged_is_gone_and_the_figures_stay(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy_module, "BATCH", 2)
    run, other = delivered(books, succeeded=4, failed=3), books.rated(day=LATER)
    before = books.everything()
    assert books.privacy.rated() == [DAY, LATER]
    books.privacy.purge(run, history=False)
    assert books.privacy.rated() == [LATER]
    after = books.everything()
    assert [row for row in after["accounts"] if row[0] == run.number] == []
    assert [row[0] for row in after["run_keys"]] == [other.number]
    for table in ("revisions", "delivery_steps", "executions"):
        assert after[table] == before[table]
    purged = books.again(run)
    assert purged.purged is not None
    assert purged.purged.timestamp() == books.clock.time()
    assert books.outcomes.tally(run) == Tally(succeeded=4, failed_by={Reason.NO_RATING: 3})
    with pytest.raises(CheckpointError, match="gone"):
        books.outcomes.page(run, 0)
    assert len(books.rows(other)) == 5
    books.privacy.purge(run, history=False)
    assert books.everything() == after


def test_a_purge_that_was_killed_is_finished_by_the_next(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy_module, "BATCH", 2)
    run = delivered(books)
    tally = books.outcomes.tally(run)
    transactions = 0
    writing = books.database.writing

    def dying():  # type: ignore[no-untyped-def]
        nonlocal transactions
        transactions += 1
        if transactions == 3:
            raise KeyboardInterrupt
        return writing()

    with monkeypatch.context() as patched:
        patched.setattr(books.database, "writing", dying)
        with pytest.raises(KeyboardInterrupt):
            books.privacy.purge(run, history=False)
    assert books.privacy.rated() == [DAY], "what is left is seen"
    assert books.outcomes.tally(run) == tally
    at = books.again(run).purged
    books.clock.now += 60
    books.privacy.purge(run, history=False)
    assert books.privacy.rated() == []
    assert books.again(run).purged == at
    assert books.outcomes.tally(run) == tally


def test_with_its_history_nothing_of_a_run_is_left(books: Books) -> None:
    other = books.rated(day=LATER)
    books.history.begin(other, "run")
    kept = books.everything()
    run = delivered(books)
    books.history.begin(run, "run")
    books.privacy.purge(run, history=True)
    assert books.everything() == kept


# --- erase ------------------------------------------------------------------------------------


def test_an_erased_account_leaves_no_byte(books: Books, tmp_path: Path) -> None:
    run = books.enrolled([account("SUBJECT-77", "Zebediah Quux"), account("A-2")])
    books.outcomes.record(run, [success(0, "63.17", "58.49"), success(1)])
    run = books.runs.advance(run, Stage.SEALING)
    books.seal(run)
    books.ledger.delivered(run, Receipt("/drop/file", "read back", 1))
    run = books.again(run)
    assert books.privacy.holding(["SUBJECT-77", "B-1"]) == {DAY: ["SUBJECT-77"]}
    assert books.privacy.erase(run, {"SUBJECT-77": SUBJECT, "B-1": "6" * 32}) == 1
    books.privacy.remember([SUBJECT])
    content = everything_on_disk(books.url, tmp_path)
    assert found(content, "SUBJECT-77", "Zebediah", "63.17", "58.49") == []
    assert found(content, "A-2", SUBJECT) == ["A-2", SUBJECT]
    assert books.privacy.holding(["SUBJECT-77"]) == {}
    assert books.privacy.holding([TOMBSTONE + SUBJECT]) == {DAY: [TOMBSTONE + SUBJECT]}
    assert list(books.privacy.erasures()) == [SUBJECT]
    assert books.privacy.nameless(run) == 1
    assert books.outcomes.tally(run) == Tally(succeeded=2), "as in the file that was delivered"


def test_the_next_revision_leaves_erased_accounts_out_and_says_so(books: Books) -> None:
    run = delivered(books, succeeded=3, failed=1)
    books.privacy.erase(run, {"A-0": SUBJECT, "A-3": "6" * 32})
    with pytest.raises(WrongUsage):
        books.runs.reopen(run, ["A-0"])
    with pytest.raises(NothingToDo):
        books.runs.reopen(run, None)
    assert books.privacy.nameless(run) == 2
    again = books.runs.reopen(run, ["A-1"])
    assert (again.revision, again.census.erased, again.census.rows) == (2, 2, 2)
    assert books.again(run) == again
    assert books.outcomes.tally(again) == Tally(pending=1, succeeded=1)
    assert [row.account_id for row in books.rows(again)] == ["A-1", "A-2"]
    assert books.privacy.nameless(run) == 0


@pytest.mark.parametrize("stage", [Stage.RATING, Stage.SEALING, Stage.WITHHELD, Stage.DELIVERING])
def test_a_file_in_the_making_is_made_without_them(books: Books, stage: Stage) -> None:
    run = books.enrolled(3)
    books.outcomes.record(run, [success(0), success(1)])
    if stage is Stage.DELIVERING:
        books.seal(run)
    else:
        books.runs.advance(run, stage)
    run = books.again(run)
    assert books.privacy.erase(run, {"A-1": SUBJECT}) == 1
    after = books.again(run)
    assert after.census.excluded_by["erased"] == 1
    assert after.census.rows == books.outcomes.tally(run).rows == 2
    assert after.stage is (Stage.SEALING if stage is Stage.DELIVERING else stage)
    assert after.revision == (2 if stage is Stage.DELIVERING else 1)
    assert [work.account_id for work in books.outcomes.pending(run, State.PENDING, -1, 9)] == ["A-2"]
    assert [row.account_id for row in books.rows(run)] == ["A-0", "A-2"]


def test_erasing_what_is_not_there_changes_nothing(books: Books) -> None:
    run = books.rated()
    books.seal(run)
    before = books.everything()
    assert books.privacy.erase(books.again(run), {"B-1": SUBJECT}) == 0
    assert books.everything() == before


def test_an_account_that_is_listed_again_is_rated_again(books: Books) -> None:
    books.privacy.erase(delivered(books), {"A-0": SUBJECT})
    books.privacy.remember([SUBJECT])
    run = books.enrolled(2, LATER)
    assert [row.account_id for row in books.rows(run)] == ["A-0", "A-1"]
