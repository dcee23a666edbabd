"""The accounts query on real databases: SQLite and a PostgreSQL server."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esgbatch.accounts.sql import SqlAccounts
from esgbatch.config.model import Accounts
from esgbatch.config.secrets import Secret, redact
from esgbatch.errors import AccountSystemError, ConfigError
from esgbatch.model import Listing
from tests.acceptance.postgres import Postgres
from tests.sockets.faultserver import FaultServer, stall

PLAIN = """select 'A-1' as "accountId", 'Smith' as "accountName" """


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


def source(url: str, monkeypatch: pytest.MonkeyPatch, query: str = PLAIN, **options: Any) -> SqlAccounts:
    monkeypatch.setenv("ACCOUNTS_DB", url)
    return SqlAccounts(Accounts(source="sql", database=Secret(env="ACCOUNTS_DB"), query=query, **options))


def failure(found: SqlAccounts) -> AccountSystemError:
    with pytest.raises(AccountSystemError) as caught:
        list(found.accounts())
    assert Postgres.password not in str(caught.value)
    assert Postgres.password not in caught.value.advice
    return caught.value


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return "sqlite://" if request.param == "sqlite" else str(request.getfixturevalue("server").url)


# --- what the operator writes is what the database gets ---------------------------------------


@pytest.mark.parametrize(
    "condition",
    ["'Smith :name' like '%:name'", "'5%' like '5%'", "'100%s' = '100%s'", "'\\:x' <> '?'", "5 % 3 = 2"],
)
def test_a_query_is_sent_as_it_stands(url: str, monkeypatch: pytest.MonkeyPatch, condition: str) -> None:
    query = PLAIN + f"where {condition}; "
    assert list(source(url, monkeypatch, query).accounts()) == [Listing("A-1", "Smith", True)]


def test_postgresqls_own_notation_is_understood(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    query = """select 7::bigint as id, 'x'::text as name, '12:30:05'::time = '12:30:05' as status"""
    options = {"id": "id", "name": "name", "active": ["true"]}
    assert list(source(server.url, monkeypatch, query, **options).accounts()) == [Listing("7", "x", True)]


def test_values_of_every_kind(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    query = """
        select id as "accountId", name as "accountName" from (values
            (1, '11111111-2222-3333-4444-555555555555'::uuid::text, 'text'),
            (2, null, 'null'),
            (3, ' ', 'blank')
        ) as listed (n, id, name) order by n"""
    found = [
        (listing.account_id, listing.name) for listing in source(server.url, monkeypatch, query).accounts()
    ]
    assert found == [("11111111-2222-3333-4444-555555555555", "text"), (None, "null"), (None, "blank")]
    for given, expected in [
        ("'11111111-2222-3333-4444-555555555555'::uuid", "11111111-2222-3333-4444-555555555555"),
        ("12345678901234567890::numeric(20, 0)", "12345678901234567890"),
        ("1.5::numeric", None),
        ("1.0::float8", None),
        ("true", None),
        ("'A-1'::bytea", None),
        ("now()", None),
        ("'A-1 '::char(6)", "A-1   "),
    ]:
        query = f'select {given} as "accountId", {given} as "accountName"'
        assert [listing.account_id for listing in source(server.url, monkeypatch, query).accounts()] == [
            expected
        ]


def test_nothing_is_ever_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accounts.db"
    with sqlite3.connect(path) as connection:
        connection.execute('create table accounts ("accountId", "accountName")')
        connection.execute("insert into accounts values ('A-1', 'Smith')")
    connection.close()
    query = 'delete from accounts returning "accountId", "accountName"'
    list(source(f"sqlite:///{path}", monkeypatch, query).accounts())
    assert len(list(source(f"sqlite:///{path}", monkeypatch, "select * from accounts").accounts())) == 1


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["selct 1", "select * from nosuch", "create table t (x text)", """ select "x" """]
)
def test_a_wrong_query_is_told(server: Postgres, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    error = failure(source(server.url, monkeypatch, query))
    assert "query" in str(error)
    assert "accounts.query" in error.advice


def test_a_query_that_gives_no_rows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none that gives rows" in str(failure(source("sqlite://", monkeypatch, "create table t (x text)")))


def test_a_missing_column_is_told_with_those_that_are_there(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PostgreSQL folds names without quotes to lower case.
    query = "select 'A-1' as accountId, 'Smith' as \"accountName\""
    text = str(failure(source(server.url, monkeypatch, query)))
    assert "'accountId'" in text
    assert "'accountid'" in text
    assert "Smith" not in text


def test_an_error_in_the_middle_does_not_quote_the_row(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    series = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)"
    broken = "json_extract('Smith' || i, '$')" if url == "sqlite://" else "('Smith' || i)::int::text"
    query = f"""{series} select 'A-' || i as "accountId", case when i = 2500 then {broken} else 'x' end as
        "accountName" from n"""
    iterator = source(url, monkeypatch, query).accounts()
    with pytest.raises(AccountSystemError) as caught:
        for _ in iterator:
            pass
    assert "Smith" not in str(caught.value)
    assert "while it gave rows" in str(caught.value)


def test_text_that_is_no_utf_8_does_not_end_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    query = """select 'A-1' as "accountId", cast(x'536d697468ff' as text) as "accountName" """
    assert "Smith" not in str(failure(source("sqlite://", monkeypatch, query)))


def test_a_wrong_password_is_told_without_it(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url.replace(Postgres.password, "another-Secret")
    text = str(failure(source(url, monkeypatch)))
    assert "authentication failed" in text
    assert "another-Secret" not in text


def test_a_database_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql+psycopg://esg:{Postgres.password}@127.0.0.1:1/accounts"
    assert "refused" in str(failure(source(url, monkeypatch)))


@pytest.mark.parametrize(
    "url",
    [
        *("", "accounts", "postgresql+psycopg://u:S3cret-of-the-database@h:port/x", "S3cret-of-the-database"),
        *("nosuch://u:S3cret-of-the-database@h/x", "postgresql+nosuch://u:S3cret-of-the-database@h/x"),
    ],
)
def test_what_is_no_url_is_told(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    if url == "":
        with pytest.raises(ConfigError):
            list(source(url, monkeypatch).accounts())
    else:
        assert "URL" in str(failure(source(url, monkeypatch)))


@pytest.mark.parametrize(
    ("dialect", "module", "package"),
    [("postgresql+psycopg", "psycopg", "esgbatch[postgresql]"), ("mysql", "MySQLdb", "mysqlclient")],
)
def test_a_missing_driver_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch, dialect: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    error = failure(source(f"{dialect}://u:{Postgres.password}@127.0.0.1:1/x", monkeypatch))
    assert repr(module) in str(error)
    assert package in error.advice


# --- never for ever ---------------------------------------------------------------------------


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(stall) as mute:
        started = time.monotonic()
        found = source(f"postgresql+psycopg://u:p@127.0.0.1:{mute.port}/x", monkeypatch, timeout=0.3)
        assert "0.3 s" in str(failure(found))
        assert time.monotonic() - started < 3


def test_a_query_that_takes_too_long_is_not_waited_for(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = PLAIN.replace("'A-1'", "(select 'A-1' from pg_sleep(30))")
    assert "gave nothing for 0.5 s" in str(failure(source(server.url, monkeypatch, query, timeout=0.5)))


def test_a_slow_reader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    series = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)"
    query = series + """ select i as "accountId", 'x' as "accountName" from n"""
    count = 0
    for _ in source("sqlite://", monkeypatch, query, timeout=1).accounts():
        count += 1
        if count == 1:
            time.sleep(1.2)
    assert count == 5000


def test_a_reader_that_leaves_ends_the_database_thread(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    series = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)"
    query = series + """ select 'A-' || i as "accountId", 'x' as "accountName" from n"""
    before = set(threading.enumerate())
    iterator = source(url, monkeypatch, query).accounts()
    next(iterator)
    (reader,) = set(threading.enumerate()) - before
    iterator.close()  # type: ignore[attr-defined]  # a generator
    reader.join(10)
    assert not reader.is_alive()


def test_a_server_that_dies_in_the_middle_is_told(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    series = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000)"
    query = series + """ select 'A-' || i as "accountId", 'x' as "accountName" from n"""
    iterator = source(server.url, monkeypatch, query).accounts()
    next(iterator)
    server.stop()
    try:
        with pytest.raises(AccountSystemError, match="while it gave rows"):
            list(iterator)
    finally:
        server.start()
    assert list(source(server.url, monkeypatch).accounts()) == [Listing("A-1", "Smith", True)]


def test_the_urls_password_is_a_secret_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    failure(source("postgresql+psycopg://u:a%20pass%2Fword@127.0.0.1:1/x", monkeypatch))
    assert redact("driver says: a pass/word is wrong") == "driver says: [redacted] is wrong"
