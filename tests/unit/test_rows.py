"""The file's plaintext: RFC 4180, and what interface.md promises on top of it."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esgbatch.model import Row
from esgbatch.rows import CsvFile

HEADER = ("Account ID", "Account Name", "E", "S", "Processing Status")
SCORES = ("71.24", "-0.50")
STARTS = ["=", "+", "-", "@", "\t", "\r"]

text = st.text(st.characters(codec="utf-8"), max_size=12) | st.text(",\"'\r\n =+-@\t;é口", max_size=8)
scores = st.none() | st.tuples(*[st.decimals(-100, 100, places=2).map(str)] * 2)


def plain(*rows: Row, guard: bool = True) -> str:
    file = CsvFile(HEADER, guard_formulas=guard)
    return (file.head + file.lines(rows)).decode()


def body(account_id: str, name: str = "N", *, guard: bool = True) -> str:
    """The one row of a file, without its end."""
    whole = plain(Row(account_id, name, SCORES), guard=guard)
    header = "Account ID,Account Name,E,S,Processing Status\r\n"
    assert whole.startswith(header)
    assert whole.endswith("\r\n")
    return whole.removeprefix(header).removesuffix("\r\n")


def test_the_whole_file_to_the_byte() -> None:
    rows = [
        Row("A-1", "Smith Family Trust", ("71.24", "64.10")),
        Row("A-2", 'O\'Brien, "Bob" & Söhne', None),
        Row(" A-3 ", "口座 🏦", ("0.00", "100.00")),
    ]
    assert plain(*rows) == (
        "Account ID,Account Name,E,S,Processing Status\r\n"
        "A-1,Smith Family Trust,71.24,64.10,Success\r\n"
        'A-2,"O\'Brien, ""Bob"" & Söhne",N/A,N/A,Failed\r\n'
        " A-3 ,口座 🏦,0.00,100.00,Success\r\n"
    )


def test_a_file_without_rows_is_its_header() -> None:
    assert plain() == "Account ID,Account Name,E,S,Processing Status\r\n"


def test_a_title_that_needs_quotes() -> None:
    file = CsvFile(("ID", "Name", 'Score, "raw"', "Status"), guard_formulas=True)
    assert file.head == b'ID,Name,"Score, ""raw""",Status\r\n'
    assert file.lines([]) == b""


@given(st.lists(st.builds(Row, text, text, scores), max_size=6))
@example([Row("", "", None)])
@example([Row("\r", "\n", None), Row('"', ",", None), Row("\0", "\ufeff", None)])
def test_what_is_read_back_is_what_was_written(rows: list[Row]) -> None:
    written = plain(*rows, guard=False)
    read = list(csv.reader(io.StringIO(written, newline=""), strict=True))
    assert read == [
        list(HEADER),
        *(
            [row.account_id, row.name, *(row.scores or ("N/A", "N/A")), "Success" if row.scores else "Failed"]
            for row in rows
        ),
    ]


@given(text, text)
def test_quotes_stand_only_where_they_are_needed(account_id: str, name: str) -> None:
    def cell(content: str) -> str:
        if re.search(r'[",\r\n]', content):  # RFC 4180, 2.6 and 2.7
            return '"' + content.replace('"', '""') + '"'
        return content

    assert body(account_id, name, guard=False) == f"{cell(account_id)},{cell(name)},71.24,-0.50,Success"


@given(st.lists(st.builds(Row, text, text, scores), max_size=6), st.booleans())
def test_every_row_ends_with_crlf_and_holds_every_column(rows: list[Row], guard: bool) -> None:
    written = plain(*rows, guard=guard)
    bare = re.sub(r'"(?:[^"]|"")*"', "", written)
    lines = bare.split("\r\n")
    assert lines.pop() == ""
    assert len(lines) == len(rows) + 1
    assert {line.count(",") for line in lines} == {len(HEADER) - 1}
    assert "\r" not in "".join(lines)
    assert "\n" not in "".join(lines)


@pytest.mark.parametrize("start", STARTS)
def test_text_that_a_spreadsheet_would_run_is_guarded(start: str) -> None:
    read = next(csv.reader(io.StringIO(body(f"{start}1+1", f"{start}cmd"), newline="")))
    assert read == [f"'{start}1+1", f"'{start}cmd", "71.24", "-0.50", "Success"]


@pytest.mark.parametrize("start", STARTS)
def test_nothing_is_guarded_where_the_guard_is_off(start: str) -> None:
    read = next(csv.reader(io.StringIO(body(f"{start}1+1", f"{start}cmd", guard=False), newline="")))
    assert read[:2] == [f"{start}1+1", f"{start}cmd"]


@given(text)
def test_the_guard_is_one_quote_in_front_and_only_there(name: str) -> None:
    read = next(csv.reader(io.StringIO(body("A", name), newline="")))
    assert read[1] == ("'" + name if name[:1] in STARTS else name)


@pytest.mark.parametrize("name", ["a=b", " =1", "'=1", "\n=1", "\u2212", "1-1", ""])
def test_other_text_is_left_alone(name: str) -> None:
    read = next(csv.reader(io.StringIO(body(name, name), newline="")))
    assert read[:2] == [name, name]


def test_scores_and_status_are_never_guarded() -> None:
    written = plain(Row("A", "N", ("-1.00", "-0.01")), Row("B", "N", None))
    assert written.endswith("A,N,-1.00,-0.01,Success\r\nB,N,N/A,N/A,Failed\r\n")


@given(st.lists(st.builds(Row, text, text, scores), max_size=6), st.integers(0, 6))
def test_the_file_is_the_same_in_any_pieces(rows: list[Row], cut: int) -> None:
    file = CsvFile(HEADER, guard_formulas=True)
    assert file.lines(rows[:cut]) + file.lines(rows[cut:]) == file.lines(rows)


def test_there_is_no_byte_order_mark() -> None:
    assert plain(Row("A", "N", None)).startswith("Account ID")
