"""A server that is restarted, that loses its connections, that freezes; and hosts that exclude each other."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from esgbatch.checkpoint import postgresql
from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.ownership import owner_of, ownership
from esgbatch.errors import CheckpointError, RunHeld
from esgbatch.model import Stage, State, Tally
from tests.acceptance.postgres import Postgres
from tests.checkpoints import DAY, Books, failure, success


@pytest.fixture
def books(postgresql_url: str) -> Iterator[Books]:
    with Books(postgresql_url) as opened:
        yield opened


def backends(url: str) -> list[int]:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        found = connection.execute(
            "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in found]


def disconnect_everybody(url: str) -> None:
    """As a restart, a fail-over or a firewall does."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )


# --- connections that break -------------------------------------------------------------------


def test_every_call_survives_a_lost_connection(books: Books) -> None:
    run = books.enrolled(3)
    disconnect_everybody(books.url)
    books.outcomes.record(run, [success(0)])
    disconnect_everybody(books.url)
    assert books.outcomes.tally(run) == Tally(pending=2, succeeded=1)
    assert books.outcomes.page(run, 0) is None
    disconnect_everybody(books.url)
    assert [each.account_id for each in books.outcomes.pending(run, State.PENDING, -1, 9)] == ["A-1", "A-2"]
    disconnect_everybody(books.url)
    books.runs.advance(run, Stage.SEALING)
    disconnect_everybody(books.url)
    execution = books.history.begin(run, "run")
    disconnect_everybody(books.url)
    books.history.end(execution, 0, None)
    assert books.again(run).stage is Stage.SEALING
    assert len(books.history.executions(run)) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_a_batch_is_committed_once_when_the_connection_breaks_at_its_commit(
    books: Books, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the commit arrives, or just after it was done and before we hear of it."""
    run = books.enrolled(3)
    dialect = books.database._engine.dialect
    commit = dialect.do_commit
    struck: list[int] = []

    def strike(pooled: Any) -> None:
        if struck:
            commit(pooled)
            return
        connection = pooled.driver_connection
        struck.append(connection.info.backend_pid)
        if committed:
            commit(pooled)
        with psycopg.connect(books.url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", struck)
        connection.execute("select 1")  # raises what the client of a terminated backend gets

    monkeypatch.setattr(dialect, "do_commit", strike)
    books.outcomes.record(run, [failure(0, attempts=2), success(1)])
    assert struck
    assert books.outcomes.tally(run) == Tally(pending=1, succeeded=1, failed_by={failure(0).reason: 1})
    assert [each.attempts for each in books.outcomes.failures(run)] == [2], "attempts add up at each commit"


def test_a_restarted_server_is_waited_for() -> None:
    with Postgres() as server, Books(server.url) as books:
        run = books.enrolled(3)
        server.stop()
        back = threading.Timer(0.7, server.start)
        back.start()
        books.outcomes.record(run, [success(0)])
        assert books.outcomes.tally(run) == Tally(pending=2, succeeded=1)
        back.join()


def test_a_frozen_server_is_noticed(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel still answers for it, so that only the missing answer can tell."""
    run = books.enrolled(3)
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 0.3)
    frozen = backends(books.url)
    assert frozen
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        # Another backend answers: the job goes on with it.
        books.outcomes.record(run, [success(0)])
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert books.outcomes.tally(run).succeeded == 1


def test_a_server_that_never_says_a_word_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 2)  # libpq knows no less
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql+psycopg://esg:S3cret@127.0.0.1:{mute.getsockname()[1]}/postgres"
        with pytest.raises(CheckpointError) as raised:
            Database(url)
    assert "S3cret" not in str(raised.value)


# --- two hosts --------------------------------------------------------------------------------


def test_hosts_exclude_each_other(books: Books) -> None:
    run = books.enrolled(3)
    with Books(books.url) as others, ownership(books.database, DAY, "run"):
        owner = owner_of(others.database, DAY)
        assert owner is not None
        assert owner.pid == os.getpid()
        with pytest.raises(RunHeld, match=f"process {os.getpid()}"), ownership(others.database, DAY, "resume"):
            raise AssertionError
        books.outcomes.record(run, [success(0)])
    assert owner_of(books.database, DAY) is None
    with Books(books.url) as others, ownership(others.database, DAY, "resume"):
        others.outcomes.record(run, [success(1)])


def test_another_host_knows_how_long_the_run_may_go_on(books: Books) -> None:
    for until in (None, 1_795_600_800.5):
        with ownership(books.database, DAY, "run", until):
            owner = owner_of(books.database, DAY)
        assert owner is not None
        assert owner.until == until


def test_two_dates_do_not_exclude_each_other(books: Books) -> None:
    with (
        Books(books.url) as others,
        ownership(books.database, DAY, "run"),
        ownership(others.database, DAY.replace(day=1), "run"),
    ):
        assert owner_of(books.database, DAY) is not None


def test_a_lock_that_was_lost_with_its_connection_is_taken_again(books: Books) -> None:
    run = books.enrolled(3)
    with Books(books.url) as others, ownership(books.database, DAY, "run"):
        disconnect_everybody(books.url)
        books.outcomes.record(run, [success(0)])
        with pytest.raises(RunHeld), ownership(others.database, DAY, "resume"):
            raise AssertionError


def test_who_has_lost_the_run_cannot_write_any_more(books: Books) -> None:
    """It was paused or cut off; another host has taken over, and may even have ended already."""
    run = books.enrolled(3)
    with ownership(books.database, DAY, "run"):
        books.outcomes.record(run, [success(0)])
        disconnect_everybody(books.url)
        with Books(books.url) as others, ownership(others.database, DAY, "resume"):
            with pytest.raises(RunHeld, match="is held by"):
                books.outcomes.record(run, [success(1)])
            others.outcomes.record(run, [success(1)])
        with pytest.raises(RunHeld, match="was taken over"):
            books.outcomes.record(run, [success(2)])
    assert books.outcomes.tally(run) == Tally(pending=1, succeeded=2)
