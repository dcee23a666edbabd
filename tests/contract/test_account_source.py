"""What every account source promises, whatever it reads: REST by five ways of paging, CSV, two databases."""

from __future__ import annotations

import csv
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from sqlalchemy import Column, MetaData, Table, Text, create_engine

from esgbatch.accounts.csvfile import CsvAccounts
from esgbatch.accounts.sql import SqlAccounts
from esgbatch.config.model import Accounts
from esgbatch.config.secrets import Secret
from esgbatch.errors import AccountSystemError, ExitCode
from esgbatch.model import Listing
from esgbatch.ports import AccountSource
from tests.acceptance.postgres import Postgres
from tests.accounts import item, rest
from tests.sockets.faultserver import Answer, FaultServer, Peer, head, respond_json

Row = tuple[str | None, str | None, str | None]

PAGE = 4
ROWS: list[Row] = [
    ("A-000001", "Smith Family Trust", "active"),
    ("A/2 %?#&+é", ' "Müller & Söhne", GmbH ', "active"),
    ("..", "=1+1", "active"),
    (" A-4 ", "two\r\nlines", "active"),
    ("A-5", "東京 🏦", "closed"),
    ("", "no ID", "active"),
    ("A-000001", "Another Name", "active"),
    ("   ", "blank ID", "closed"),
    ("007", "", "active"),
    ("A-10", "tab\tand\nnewline", "Active"),
    ("A-11", "last of a page", "active"),
    ("A-12", "N/A", "active"),
]
EXPECTED = [
    Listing(account_id if account_id and account_id.strip() else None, name or "", status == "active")
    for account_id, name, status in ROWS
]

# A kind of source, and how to open one of it that has these rows.
Open = Callable[[Sequence[Row]], AccountSource]


def page_server(style: str, rows: Sequence[Row]) -> Answer:
    """A server that pages in one way, and knows no other."""
    key = {"cursor": "cursor", "offset": "offset", "page": "page", "link": "from", "none": ""}[style]

    def answer(peer: Peer) -> None:
        query = parse_qs(peer.request.query)
        size = int(query["limit"][0]) if "limit" in query else len(rows)
        given = query.get(key, [None])[0]
        start = (int(given) - 1) * size if given and style == "page" else int(given or 0)
        end = start + size
        document = {"accounts": [item(*row) for row in rows[start:end]]}
        if style == "cursor":
            document["nextCursor"] = str(end) if end < len(rows) else None  # type: ignore[assignment]  # JSON
        link = (
            {"Link": f'<?limit={size}&from={end}>; rel="next"'} if style == "link" and end < len(rows) else {}
        )
        respond_json(document, headers=link)(peer)

    return answer


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name of the account", "accountId", "accountName", "status"])
        writer.writerows(["x", *row] for row in rows)
    return path


def write_table(url: str, rows: Sequence[Row]) -> None:
    engine = create_engine(url)
    metadata = MetaData()
    table = Table(
        "accounts", metadata, *(Column(name, Text) for name in ("accountId", "accountName", "status"))
    )
    with engine.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
        if rows:
            names = table.columns.keys()
            connection.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])
    engine.dispose()


def sql(url: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> SqlAccounts:
    monkeypatch.setenv("ACCOUNTS_DB", url)
    options = {"query": "select * from accounts", **options}
    return SqlAccounts(Accounts(source="sql", database=Secret(env="ACCOUNTS_DB"), **options))


KINDS = ["cursor", "offset", "page", "link", "none", "csv", "sqlite", "postgresql"]


@pytest.fixture(params=KINDS)
def open_source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    kind = request.param
    servers: list[FaultServer] = []

    def open_(rows: Sequence[Row]) -> AccountSource:
        if kind == "csv":
            return CsvAccounts(Accounts(source="csv", path=write_csv(tmp_path / "accounts.csv", rows)))
        if kind in ("sqlite", "postgresql"):
            sqlite = f"sqlite:///{tmp_path}/accounts.db"
            url = sqlite if kind == "sqlite" else request.getfixturevalue("postgres").url
            write_table(url, rows)
            return sql(url, monkeypatch)
        servers.append(FaultServer(page_server(kind, rows)).__enter__())
        return rest(servers[-1].url, paging=kind, page_size=PAGE).source

    yield open_
    for server in servers:
        server.__exit__(None, None, None)


def test_every_row_is_given_in_order_as_it_came(open_source: Open) -> None:
    assert list(open_source(ROWS).accounts()) == EXPECTED


def test_a_list_that_ends_with_a_short_page_is_complete(open_source: Open) -> None:
    assert list(open_source(ROWS[:-1]).accounts()) == EXPECTED[:-1]


def test_null_is_no_id_no_name_and_no_status(open_source: Open) -> None:
    # In a CSV file null is an empty field.
    listings = list(open_source([(None, None, None), ("A-2", None, "active")]).accounts())
    assert listings == [Listing(None, "", False), Listing("A-2", "", True)]


def test_an_empty_list_is_empty(open_source: Open) -> None:
    assert list(open_source([]).accounts()) == []


def test_the_list_can_be_read_again(open_source: Open) -> None:
    source = open_source(ROWS)
    assert list(source.accounts()) == list(source.accounts()) == EXPECTED


def test_nothing_is_asked_before_the_first_row_is_wanted_and_it_can_be_left_early(open_source: Open) -> None:
    before = threading.active_count()
    iterator = open_source(ROWS).accounts()
    assert threading.active_count() <= before + 1  # the page server's
    assert next(iterator) == EXPECTED[0]
    iterator.close()  # type: ignore[attr-defined]  # all of them are generators


def test_without_a_status_all_are_active_but_in_json(open_source: Open, request: pytest.FixtureRequest) -> None:
    source = open_source(ROWS)
    source._config = source._config.model_copy(update={"status": "nosuch"})  # type: ignore[attr-defined]
    table = request.node.callspec.params["open_source"] in ("csv", "sqlite", "postgresql")
    assert {listing.active for listing in source.accounts() if listing.account_id} == {table}


# --- streams ----------------------------------------------------------------------------------

MANY = 40_000


def many_pages(peer: Peer) -> None:
    start = int(parse_qs(peer.request.query).get("cursor", ["0"])[0])
    accounts = [item(f"A-{number:06d}") for number in range(start, start + 1000)]
    end = start + 1000
    respond_json({"accounts": accounts, "nextCursor": str(end) if end < MANY else None})(peer)


SERIES = "with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})"
SERIES += """ select 'A-' || i as "accountId", 'Smith Family Trust' as "accountName" from n"""


def test_only_a_little_of_the_list_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"A-{number:06d}", "Smith Family Trust", "active") for number in range(MANY)]
    with FaultServer(many_pages) as server:
        sources: list[AccountSource] = [
            rest(server.url).source,
            CsvAccounts(Accounts(source="csv", path=write_csv(tmp_path / "accounts.csv", rows))),
            sql("sqlite://", monkeypatch, query=SERIES.format(rows=MANY)),
        ]
        del rows
        for source in sources:
            tracemalloc.start()
            assert sum(1 for _ in source.accounts()) == MANY
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 4_000_000, type(source)  # all of them at once would be more than 10 MB


def test_postgresql_is_asked_for_a_thousand_rows_at_a_time(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sql(postgres.url, monkeypatch, query=SERIES.format(rows=100_000))
    iterator = source.accounts()
    next(iterator)
    engine = create_engine(postgres.url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "select query from pg_stat_activity where query like 'FETCH%%'"
        ).all()
    engine.dispose()
    assert len(found) == 1
    assert "1000" in found[0][0]
    iterator.close()  # type: ignore[attr-defined]  # a generator


# --- says what is wrong -----------------------------------------------------------------------


def refusing_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AccountSource]:
    yield rest("http://127.0.0.1:1/", attempts=1).source
    yield CsvAccounts(Accounts(source="csv", path=tmp_path / "nosuch.csv"))
    yield sql("postgresql+psycopg://esg:S3cret-of-the-database@127.0.0.1:1/x", monkeypatch)


def test_a_source_that_is_not_there_is_code_12(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in refusing_sources(tmp_path, monkeypatch):
        with pytest.raises(AccountSystemError) as caught:
            list(source.accounts())
        assert caught.value.code is ExitCode.ACCOUNTS
        assert caught.value.advice
        assert "S3cret" not in str(caught.value)
        assert str(caught.value).endswith(".")


def test_an_answer_that_is_cut_short_is_never_a_shorter_list(tmp_path: Path) -> None:
    body = json.dumps({"accounts": [item("A-1"), item("A-2")]}).encode()

    def cut(peer: Peer) -> None:
        peer.send(head(200, length=len(body)) + body[:-10])
        peer.close()

    path = write_csv(tmp_path / "accounts.csv", ROWS)
    path.write_bytes(path.read_bytes()[:-10])
    with FaultServer(cut) as server:
        for source in (rest(server.url, attempts=1).source, CsvAccounts(Accounts(source="csv", path=path))):
            with pytest.raises(AccountSystemError):
                list(source.accounts())
