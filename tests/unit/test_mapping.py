"""Bodies into scores: exact decimals, JSON's grammar and nothing else, and no body that costs much."""

from __future__ import annotations

import contextlib
import json
import time
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esgbatch.config.model import DEFAULT_SCORES, Score
from esgbatch.ratings import mapping
from esgbatch.ratings.mapping import BadRating, NotJson, RatingMapper

PERCENT = (Decimal(0), Decimal(100))
DEFAULT = RatingMapper(DEFAULT_SCORES, PERCENT)


def map_one(text: str, *, path: str = "s", score_range: tuple[Decimal, Decimal] = PERCENT) -> str:
    """The score that a body's `s` becomes, written out; the body is this text of JSON."""
    mapper = RatingMapper([Score(column="Overall", path=path)], score_range)
    (score,) = mapper.map(f'{{"s": {text}}}'.encode())
    return str(score)


def bad(text: str, *, path: str = "s") -> str:
    with pytest.raises(BadRating) as caught:
        map_one(text, path=path)
    return str(caught.value)


def test_the_documented_answer() -> None:
    body = (
        b'{"accountId": "A-000001", "asOf": "2026-11-23", "scores": '
        b'{"environmental": 71.235, "social": "64.1", "governance": 80, "overall": 71.79}}'
    )
    assert [str(score) for score in DEFAULT.map(body)] == ["71.24", "64.10", "80.00", "71.79"]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("71.235", "71.24"),  # a binary float would give 71.23
        ("1.005", "1.01"),
        ("71.2349999999999999999999999999999999", "71.23"),  # more digits than decimal's default of 28
        ("-0.001", "0.00"),
        ("-0", "0.00"),
        ("-0.0049", "0.00"),
        ("100.0049", "100.00"),
        ("99.995", "100.00"),
        ("7.1e1", "71.00"),
        ("710E-1", "71.00"),
        ("0e999999999", "0.00"),
        ("1e-999999999", "0.00"),
    ],
)
def test_rounding_is_half_up_from_the_text(text: str, score: str) -> None:
    assert map_one(text) == score
    assert map_one(f'"{text}"') == score


@pytest.mark.parametrize("text", ["100.005", "-0.005", "-1", "101", "1e2000", "1e999999999"])
def test_the_range_applies_to_the_rounded_value(text: str) -> None:
    assert bad(text) == "Overall: out of range"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "true", "false", "[]", "[71]", "{}"])
def test_what_is_no_number_is_a_bad_rating(text: str) -> None:
    assert bad(text) == "Overall: not a number"


NO_NUMBERS = "+71 --1 071 -071 0x1 1_0 7,1 1.2.3 71. .5 1e 1e+ NaN Infinity 1e99999999999999999999"
OTHER_DIGITS = ("\uff11", "\u0663", "\U0001d7d5")


@pytest.mark.parametrize("text", ["", " 71", "71 ", "71\n", *NO_NUMBERS.split(), *OTHER_DIGITS])
def test_a_numeric_text_is_written_as_json_writes_numbers(text: str) -> None:
    assert bad(json.dumps(text)) == "Overall: not a number"


@pytest.mark.parametrize("path", ["s", "t", "s.deeper", "[0]"])
def test_null_and_missing(path: str) -> None:
    assert bad("null", path=path) == "Overall: missing or null"


@pytest.mark.parametrize("body", [b"[]", b'"scores"', b"1", b"null", b'{"scores": []}', b'{"scores": "x"}'])
def test_json_of_another_shape_lacks_the_scores(body: bytes) -> None:
    with pytest.raises(BadRating, match=r"^Environmental Score: missing or null$"):
        DEFAULT.map(body)


def test_the_trouble_names_the_column_and_not_the_value() -> None:
    body = b'{"scores": {"environmental": 71, "social": 64.1, "governance": "87654x", "overall": 71}}'
    with pytest.raises(BadRating) as caught:
        DEFAULT.map(body)
    assert str(caught.value) == "Governance Score: not a number"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b'{"s": 1',
        b'{"s": 1} x',
        b'{"s": 071}',
        b'{"s": +1}',
        b'{"s": .5}',
        b"{'s': 1}",
        b'{"s": "\xff"}',  # no UTF-8
        '{"s": 1}'.encode("utf-16"),
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",  # gzip nobody asked for
        b"[" * 200_000,
        b'{"s":' * 200_000 + b"1" + b"}" * 200_000,
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(NotJson):
        RatingMapper([Score(column="Overall", path="s")], PERCENT).map(body)


def test_a_byte_order_mark_is_ignored() -> None:
    mapper = RatingMapper([Score(column="Overall", path="s")], PERCENT)
    assert mapper.map(b'\xef\xbb\xbf{"s": 1}') == (Decimal("1.00"),)


@pytest.mark.parametrize(
    "text",
    [
        "1e999999999",
        "1e-999999999",
        "9" * 500_000,
        "0." + "1" * 500_000,
        '"' + "9" * 500_000 + '"',
        "1" + "0" * 500_000 + "e-500000",
        "1e" + "9" * 500_000,
    ],
)
def test_no_number_is_dear(text: str) -> None:
    started = time.thread_time()
    with contextlib.suppress(BadRating):
        map_one(text)
    assert time.thread_time() - started < 0.5


def test_an_absurd_exponent_elsewhere_does_no_harm() -> None:
    assert map_one(f'1, "other": 1e{"9" * 30}, "more": {"9" * 5000}, "nan": NaN') == "1.00"


def test_wide_ranges_keep_their_digits() -> None:
    wide = (Decimal("-1e30"), Decimal("1e30"))
    assert (
        map_one("999999999999999999999999999999.995", score_range=wide) == "1000000000000000000000000000000.00"
    )
    assert (
        map_one("-123456789012345678901234567890.125", score_range=wide) == "-123456789012345678901234567890.13"
    )


def test_narrow_ranges() -> None:
    assert map_one("0.004", score_range=(Decimal(0), Decimal("0.01"))) == "0.00"
    assert map_one("-0.5", score_range=(Decimal(-1), Decimal("-0.1"))) == "-0.50"


@pytest.mark.parametrize(
    ("path", "score"),
    [
        ("scores[?kind=='social'].value | [0]", "64.14"),
        ("scores[?weight > `0.5`].value | [0]", "64.14"),
        ("scores[-1].value", "64.14"),
        ('"overall score"', "71.24"),
    ],
)
def test_jmespath_expressions_see_exact_numbers(path: str, score: str) -> None:
    body = b"""{"scores": [{"kind": "governance", "weight": 0.4, "value": 1},
                           {"kind": "social", "weight": 0.6, "value": 64.135}], "overall score": "71.235"}"""
    (value,) = RatingMapper([Score(column="Overall", path=path)], PERCENT).map(body)
    assert str(value) == score


@pytest.mark.parametrize("path", ["to_number(s)", "length(s)", "[?@ > `1`]", "max([s, `1`])", "s > `5`"])
@pytest.mark.parametrize("text", ['"71.235"', "71.235", "null", "NaN", "{}", "1e99999999999999999999"])
def test_an_expression_that_does_not_fit_is_a_bad_rating(path: str, text: str) -> None:
    """`to_number` is among them: it would go through a binary float."""
    assert bad(text, path=path).startswith("Overall: ")


unhurried = settings(deadline=None)  # the machine may be busy

# --- properties -------------------------------------------------------------------------------

json_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@unhurried
@given(json_numbers)
def test_scores_equal_exact_arithmetic(text: str) -> None:
    exact = Fraction(text)
    cents = abs(exact) * 100
    rounded = int(cents) + (cents - int(cents) >= Fraction(1, 2))
    expected = Fraction(rounded, 100) if exact >= 0 else -Fraction(rounded, 100)
    if 0 <= expected <= 100:
        score = map_one(text)
        assert Fraction(score) == expected
        assert score == f"{rounded // 100}.{rounded % 100:02d}"
    else:
        assert bad(text) == "Overall: out of range"


@unhurried
@given(st.text(max_size=12) | st.text("0123456789+-.eE ", max_size=8))
def test_a_text_is_a_number_exactly_where_json_says_so(text: str) -> None:
    try:
        as_json = json.loads(text, parse_constant=lambda _: None) if text == text.strip() else None
    except ValueError:
        as_json = None
    if isinstance(as_json, (int, float)) and not isinstance(as_json, bool):
        assert "not a number" not in _result(json.dumps(text))
    else:
        assert _result(json.dumps(text)) == "Overall: not a number"


def _result(text: str) -> str:
    try:
        return map_one(text)
    except BadRating as error:
        return str(error)


names = st.sampled_from(["a", "b", "c_1", "Scores", "_x", "null", "true"])
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@unhurried
@given(st.lists(names, min_size=1, max_size=4).map(".".join), documents)
def test_the_fast_path_finds_what_jmespath_finds(path: str, document: Any) -> None:
    find = mapping._finder(path)
    assert not hasattr(find, "__self__"), "this path should not need jmespath"
    found, expected = find(document), jmespath.search(path, document)
    assert found is expected


@unhurried
@given(st.binary(max_size=60) | documents.map(lambda d: json.dumps(d, default=str).encode()))
def test_no_body_raises_anything_else(body: bytes) -> None:
    try:
        scores = DEFAULT.map(body)
    except (NotJson, BadRating):
        return
    assert all(score == score.quantize(Decimal("0.01"), ROUND_HALF_UP) for score in scores)
