"""What an operator types: accounts, dates, times. A mistake is wrong usage, never a bug."""

from __future__ import annotations

import io
import os
import sys
from datetime import date, time
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from esgbatch.cli.options import parse_date, parse_time, read_accounts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ids"


def read(file: Path, content: bytes) -> list[str]:
    file.write_bytes(content)
    return read_accounts(f"@{file}")


@pytest.mark.parametrize(
    ("argument", "ids"),
    [
        ("A", ["A"]),
        ("A,B", ["A", "B"]),
        ("A,B,", ["A", "B"]),
        (",A,,B", ["A", "B"]),
        ("B,A,B", ["B", "A"]),
        (" A, B ", [" A", " B "]),
        ("a/b,..,50%,é", ["a/b", "..", "50%", "é"]),
        ("A-,-B", ["A-", "-B"]),
        ("A@B", ["A@B"]),
    ],
)
def test_ids_with_commas_between_them(argument: str, ids: list[str]) -> None:
    assert read_accounts(argument) == ids


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"A\nB\n", ["A", "B"]),
        (b"A\nB", ["A", "B"]),
        (b"A\r\nB\r\n", ["A", "B"]),
        (b"\xef\xbb\xbfA\r\nB", ["A", "B"]),
        (b"\n\nA\n\r\n\nB\n", ["A", "B"]),
        (b"A,1\nB;2\n", ["A,1", "B;2"]),
        (b" A \n\tB\n", [" A ", "\tB"]),
        (b"B\nA\nB\n", ["B", "A"]),
        (b'"A"\n#B\n', ['"A"', "#B"]),
        ("é\n口座\n\u2028x\x85y\x0bz\n".encode(), ["é", "口座", "\u2028x\x85y\x0bz"]),
        (b"a\rb\n", ["a\rb"]),
        (b"@x\n-\n", ["@x", "-"]),
    ],
)
def test_a_file_holds_one_id_a_line_as_it_came(file: Path, content: bytes, ids: list[str]) -> None:
    assert read(file, content) == ids


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), min_size=1, unique=True
    )
)
def test_any_list_of_ids_comes_through_a_file(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "any-ids"
    if ids[0].startswith("\ufeff"):
        ids[0] = f"A{ids[0]}"
    assert read(file, "\n".join(ids).encode()) == list(dict.fromkeys(ids))


def test_standard_input_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfA\r\n\nB,C\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_accounts("-") == ["A", "B,C"]


@pytest.mark.parametrize("argument", ["", ",", ",,,"])
def test_no_id_is_wrong_usage(argument: str) -> None:
    with pytest.raises(typer.BadParameter, match="no account ID"):
        read_accounts(argument)


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_wrong_usage(file: Path, content: bytes) -> None:
    with pytest.raises(typer.BadParameter, match="no account ID"):
        read(file, content)


@pytest.mark.parametrize("content", [b"A\n\xff\n", b"\xff\xfeA\0\n\0", b"caf\xe9\n"])
def test_another_encoding_is_wrong_usage(file: Path, content: bytes) -> None:
    with pytest.raises(typer.BadParameter, match="not UTF-8"):
        read(file, content)


def test_an_argument_in_another_encoding_is_wrong_usage() -> None:
    """A shell hands over any bytes; what is no UTF-8 becomes halves of surrogate pairs (PEP 383)."""
    with pytest.raises(typer.BadParameter, match="not UTF-8"):
        read_accounts(os.fsdecode(b"A,caf\xe9"))


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    for place in (tmp_path / "missing", tmp_path, tmp_path / ("x" * 300), ""):
        with pytest.raises(typer.BadParameter, match="cannot be read"):
            read_accounts(f"@{place}")


# --- dates and times --------------------------------------------------------------------------


def test_a_date_is_written_in_one_way() -> None:
    assert parse_date("2026-11-24") == date(2026, 11, 24)
    assert parse_date("2028-02-29") == date(2028, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261124",
        "2026-W48-2",
        "2026-11-24T00:00",
        "24.11.2026",
        "2026-1-2",
        "2026-02-29",
        "2026-13-01",
        "0000-01-01",
        " 2026-11-24",
        "2026-11-24\n",
        "\u0662\u0660\u0662\u0666-\u0661\u0661-\u0662\u0664",
        "today",
    ],
)
def test_other_dates_are_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no date"):
        parse_date(text)


def test_a_time_is_written_in_one_way() -> None:
    assert [parse_time(text) for text in ("00:00", "05:00", "23:59")] == [time(0), time(5), time(23, 59)]


@pytest.mark.parametrize(
    "text", ["", "5:00", "24:00", "05:60", "05:00:00", "0500", "05:00\n", "\u0660\u0665:\u0660\u0660", "5am"]
)
def test_other_times_are_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no time of day"):
        parse_time(text)
