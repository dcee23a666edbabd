"""Account files as people and programs really write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esgbatch.accounts import csvfile
from esgbatch.accounts.csvfile import CsvAccounts
from esgbatch.config.model import Accounts
from esgbatch.errors import AccountSystemError
from esgbatch.model import Listing

HEADER = b"accountId,accountName,status\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.csv"


def read(path: Path, content: bytes, **options: Any) -> list[Listing]:
    path.write_bytes(content)
    return list(CsvAccounts(Accounts(source="csv", path=path, **options)).accounts())


def failure(path: Path, content: bytes) -> str:
    with pytest.raises(AccountSystemError) as caught:
        read(path, content)
    assert str(path) in str(caught.value)
    assert "Smith" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("last", [True, False])
def test_every_kind_of_line_end_and_a_byte_order_mark_will_do(
    path: Path, mark: bytes, end: bytes, last: bool
) -> None:
    content = mark + end.join([b"accountId,accountName,status", b"A-1,Smith,active", b"", b"A-2,Jones,closed"])
    listings = read(path, content + (end if last else b""))
    assert listings == [Listing("A-1", "Smith", True), Listing("A-2", "Jones", False)]


def test_quotes_are_rfc_4180s_and_nothing_is_stripped(path: Path) -> None:
    content = HEADER + b'" A,""1"" ","two\r\nlines", active\r\nA\x00B,a\x00b,active\r\n'
    assert read(path, content) == [
        Listing(' A,"1" ', "two\r\nlines", False),
        Listing(None, "a\0b", True),
    ]


def test_without_names_the_columns_may_be_called_simply(path: Path) -> None:
    assert read(path, b"id,name,status\nA-1,Smith,active\n") == [Listing("A-1", "Smith", True)]
    assert "accountId" in str(failure(path, b"number,name\n1,x\n"))


def test_columns_are_found_by_name(path: Path) -> None:
    content = b"x,Nom,Etat,Num\xc3\xa9ro\n0,Smith,ouvert,7\n"
    options = {"id": "Numéro", "name": "Nom", "status": "Etat", "active": ["ouvert", "actif"]}
    assert read(path, content, **options) == [Listing("7", "Smith", True)]


def test_a_long_field_is_read(path: Path) -> None:
    assert len(read(path, HEADER + b"A-1,%s,active\n" % (b"x" * 1_000_000))[0].name) == 1_000_000


@pytest.mark.parametrize("row", [b"A-2,Smith", b"A-2,Smith, John,active", b"A-2"])
def test_a_row_with_another_number_of_fields_is_refused_and_counted(path: Path, row: bytes) -> None:
    listings = read(path, HEADER + b"A-1,Smith,active\r\n" + row + b"\r\nA-3,Smith,active\r\n")
    assert [listing.account_id for listing in listings] == ["A-1", None, "A-3"]
    assert listings[1].active


def test_a_file_that_ends_in_the_middle_of_a_row_is_an_error(path: Path) -> None:
    assert "not complete" in failure(path, HEADER + b"A-1,Smith,active\r\nA-2,Smi")
    assert "end of data" in failure(path, HEADER + b'A-1,Smith,active\r\nA-2,"Smi')


@pytest.mark.parametrize("missing", ["accountId", "accountName"])
def test_a_missing_column_is_told_with_those_that_are_there(path: Path, missing: str) -> None:
    header = HEADER.replace(missing.encode(), b" other ")
    text = failure(path, header + b"A-1,Smith,active\n")
    assert repr(missing) in text
    assert "' other '" in text


@pytest.mark.parametrize("column", [b"accountId", b"accountName", b"status"])
def test_a_column_that_is_there_twice_is_an_error(path: Path, column: bytes) -> None:
    assert "more than one column" in failure(path, column + b"," + HEADER + b"x,A-1,Smith,active\n")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\r\n\n"])
def test_an_empty_file_is_an_error(path: Path, content: bytes) -> None:
    assert "is empty" in failure(path, content)


def test_bytes_that_are_no_utf_8_are_an_error_that_does_not_quote_them(path: Path) -> None:
    assert "UTF-8" in failure(path, HEADER + b"A-1,Smith M\xfcller,active\n")
    assert "UTF-8" in failure(path, "accountId,accountName\r\n".encode("utf-16"))


@pytest.mark.parametrize("row", [b'A-1,"Smith"x,active', b'A-1,"Smith,active'])
def test_wrong_quotes_are_an_error(path: Path, row: bytes) -> None:
    assert "no valid CSV after row 1" in failure(path, HEADER + row + b"\n")


def test_a_missing_quote_does_not_swallow_the_rest_of_a_large_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csvfile, "LONGEST_FIELD", 10_000)
    assert "field limit" in failure(path, HEADER + b'A-0,"Smith,active\n' + b"A-1,Smith,active\n" * 1000)


def test_what_is_no_readable_file_is_an_error(path: Path) -> None:
    source = CsvAccounts(Accounts(source="csv", path=path))
    with pytest.raises(AccountSystemError, match="No such file"):
        list(source.accounts())
    path.mkdir()
    with pytest.raises(AccountSystemError, match="directory"):
        list(source.accounts())
