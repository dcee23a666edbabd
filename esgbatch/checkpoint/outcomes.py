"""Every account's outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, case, func, select, update

from esgbatch.checkpoint.database import Database, execute_many, fetch_all, steadfast
from esgbatch.checkpoint.privacy import count
from esgbatch.checkpoint.tables import accounts
from esgbatch.checkpoint.vault import RunCipher
from esgbatch.model import Failure, Held, Outcome, Page, Reason, Row, Run, State, Tally, Work, positions_on

AT_ONCE = 2000
_FINAL = frozenset((State.SUCCEEDED, State.FAILED))


class SqlOutcomes:
    """Implements `ports.Outcomes`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @steadfast
    def pending(self, run: Run, state: State, after: int, limit: int) -> Sequence[Work]:
        """The next accounts in `state` behind position `after`, in order.

        Raises:
            ConfigError: the key is the wrong one: what is rated now could not be recorded.
        """
        with self._database.reading() as connection:
            self._database.vault.cipher(connection, run.number)
            statement = (
                select(accounts.c.position, accounts.c.account_id)
                .where(accounts.c.run == run.number, accounts.c.state == state, accounts.c.position > after)
                .order_by(accounts.c.position)
                .limit(limit)
            )
            return [Work(*row) for row in fetch_all(connection, statement, {})]

    @steadfast
    def record(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        """Commit a batch. Attempts add up over the passes of a run."""
        if not outcomes:
            return
        with self._database.writing() as connection:
            cipher = self._database.vault.cipher(connection, run.number)
            execute_many(
                connection,
                _RECORD,
                _VALUES,
                [
                    (
                        outcome.state.value,
                        cipher.seal_scores(outcome.position, ",".join(map(str, outcome.scores)))
                        if outcome.scores
                        else None,
                        outcome.reason.value if outcome.reason else None,
                        outcome.http_status,
                        outcome.attempts,
                        outcome.first_attempt,
                        outcome.last_attempt,
                        run.number,
                        outcome.position,
                    )
                    for outcome in outcomes
                ],
            )

    @steadfast
    def close_open(self, run: Run) -> None:
        """No time is left: the put off are `unavailable`, the never rated `not_attempted`."""
        with self._database.writing() as connection:
            connection.execute(
                update(accounts)
                .where(accounts.c.run == run.number, accounts.c.state.in_([State.PENDING, State.DEFERRED]))
                .values(
                    reason=case(
                        (accounts.c.state == State.DEFERRED, Reason.UNAVAILABLE.value),
                        else_=Reason.NOT_ATTEMPTED.value,
                    ),
                    state=State.FAILED,
                )
            )

    @steadfast
    def tally(self, run: Run) -> Tally:
        """The accounts by state; as they were, once names and scores are purged."""
        with self._database.reading() as connection:
            return count(connection, run)

    @steadfast
    def page(self, run: Run, number: int) -> Page | None:
        """A page of the file; None while an account of it has no outcome."""
        positions = positions_on(number)
        with self._database.reading() as connection:
            cipher = self._database.vault.cipher(connection, run.number)
            found = fetch_all(
                connection, _ROWS, {"at_run": run.number, "first": positions[0], "last": positions[-1]}
            )
        if not found:
            return Page((), {})
        places, ids, names, scores, states, reasons = zip(*found, strict=True)
        if not _FINAL.issuperset(states):
            return None
        opened = zip(
            ids,
            cipher.open_names(places, ids, names),
            cipher.open_many_scores(places, scores),
            strict=True,
        )
        return Page(
            [Row(who, name, None if each is None else tuple(each.split(","))) for who, name, each in opened],
            Counter(
                Reason(reason) for state, reason in zip(states, reasons, strict=True) if state == State.FAILED
            ),
        )

    def scored(self, run: Run) -> Iterator[tuple[str, tuple[str, ...]]]:
        """ID and scores of each account that has them, in order; no name is opened for it."""
        with self._database.reading() as connection:
            cipher = self._database.vault.cipher(connection, run.number)
        columns = (accounts.c.position, accounts.c.account_id, accounts.c.scores)
        for position, account_id, scores in self._streamed(run, columns, State.SUCCEEDED):
            if scores is not None:  # of one who was erased after the delivery
                yield account_id, _scores(cipher, position, scores)

    def held(self, run: Run, account_id: str) -> Held | None:
        """All that is kept of one account; None where it is not in the run."""
        columns = (
            accounts.c.position,
            accounts.c.name,
            accounts.c.scores,
            accounts.c.state,
            accounts.c.reason,
            accounts.c.attempts,
            accounts.c.first_attempt,
            accounts.c.last_attempt,
        )
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns).where(accounts.c.run == run.number, accounts.c.account_id == account_id)
            ).first()
            if found is None:
                return None
            cipher = self._database.vault.cipher(connection, run.number)
        position, name, scores, state, reason, *rest = found
        row = _row(cipher, position, account_id, name, scores)
        return Held(row, State(state), Reason(reason) if reason else None, *rest)

    def failures(self, run: Run) -> Iterator[Failure]:
        """Every failed account, in order."""
        columns = (
            accounts.c.position,
            accounts.c.account_id,
            accounts.c.reason,
            accounts.c.http_status,
            accounts.c.attempts,
            accounts.c.first_attempt,
            accounts.c.last_attempt,
        )
        for _, account_id, reason, *rest in self._streamed(run, columns, State.FAILED):
            yield Failure(account_id, Reason(reason), *rest)

    def _streamed(self, run: Run, columns: Sequence[Any], state: State) -> Iterator[Any]:
        statement = (
            select(*columns)
            .where(
                accounts.c.run == run.number,
                accounts.c.state == state,
                accounts.c.position > bindparam("after"),
            )
            .order_by(accounts.c.position)
            .limit(AT_ONCE)
        )
        after = -1
        while rows := self._rows_after(statement, after):
            yield from rows
            after = rows[-1][0]

    @steadfast
    def _rows_after(self, statement: Select[Any], after: int) -> Sequence[Any]:
        with self._database.reading() as connection:
            return fetch_all(connection, statement, {"after": after})


def _row(cipher: RunCipher, position: int, account_id: str, name: bytes, scores: bytes | None) -> Row:
    return Row(
        account_id,
        cipher.open_name(position, account_id, name),
        None if scores is None else _scores(cipher, position, scores),
    )


def _scores(cipher: RunCipher, position: int, scores: bytes) -> tuple[str, ...]:
    return tuple(cipher.open_scores(position, scores).split(","))


_ROWS = (
    select(
        accounts.c.position,
        accounts.c.account_id,
        accounts.c.name,
        accounts.c.scores,
        accounts.c.state,
        accounts.c.reason,
    )
    .where(
        accounts.c.run == bindparam("at_run"),
        accounts.c.position.between(bindparam("first"), bindparam("last")),
    )
    .order_by(accounts.c.position)
)
_VALUES = (
    "new_state",
    "new_scores",
    "new_reason",
    "new_http_status",
    "more_attempts",
    "new_first_attempt",
    "new_last_attempt",
    "at_run",
    "at_position",
)
_RECORD = (
    update(accounts)
    .where(accounts.c.run == bindparam("at_run"), accounts.c.position == bindparam("at_position"))
    .values(
        state=bindparam("new_state"),
        scores=bindparam("new_scores"),
        reason=bindparam("new_reason"),
        http_status=bindparam("new_http_status"),
        attempts=accounts.c.attempts + bindparam("more_attempts"),
        first_attempt=func.coalesce(accounts.c.first_attempt, bindparam("new_first_attempt")),
        last_attempt=func.coalesce(bindparam("new_last_attempt"), accounts.c.last_attempt),
    )
)
