"""What becomes of the values that account systems give."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from esgbatch.accounts.listing import ItemMapper, identifier, listing
from esgbatch.config.model import Accounts
from esgbatch.model import Listing

ACTIVE = frozenset({"active", "open", "true", "1"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("A-1", "A-1"),
        (" A/1 ?#% ", " A/1 ?#% "),
        ("..", ".."),
        ("Zürich/東京🏦", "Zürich/東京🏦"),
        ("007", "007"),
        ("a\tb\r\nc", "a\tb\r\nc"),
        (7, "7"),
        (-12345678901234567890123, "-12345678901234567890123"),
        (Decimal(42), "42"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_an_id_is_kept_as_it_came(given: object, expected: str) -> None:
    assert identifier(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        *(None, "", " ", "\t\r\n\u00a0", True, False, 1.5, 1.0, Decimal("1.5"), Decimal("1.0"), Decimal("NaN")),
        *([], ["A-1"], {}, {"id": "A-1"}, b"A-1", "A\ud800", "\udfff", "A\0", datetime.date(2026, 11, 24)),
    ],
)
def test_what_cannot_be_an_id_is_none(given: object) -> None:
    assert identifier(given) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (" Smith & Co. ", " Smith & Co. "),
        ("a\0b", "a\0b"),
        ("Ren\ud83d\u00e9e \udd00", "Ren\ufffd\u00e9e \ufffd"),
        ("🏦", "🏦"),
        (None, ""),
        (7, "7"),
        (Decimal("1.50"), "1.50"),
        (True, "true"),
        ({"first": "John"}, ""),
        ([], ""),
        (b"x", ""),
    ],
)
def test_a_name_is_kept_as_it_came_unless_no_file_can_hold_it(given: object, expected: str) -> None:
    name = listing("A", given, "active", ACTIVE).name
    assert name == expected
    name.encode()


@pytest.mark.parametrize("status", ["active", "open", True, 1])
def test_these_are_active(status: object) -> None:
    assert listing("A", "", status, ACTIVE).active


@pytest.mark.parametrize("status", ["Active", " active", "", "closed", None, False, 0, [], {}, ["active"]])
def test_these_are_not(status: object) -> None:
    assert not listing("A", "", status, ACTIVE).active


def mapper(**paths: Any) -> ItemMapper:
    return ItemMapper(Accounts(url="https://accounts.example/", active=["active", "true"], **paths))


def test_items_are_mapped_by_the_configured_expressions() -> None:
    item = json.loads(
        '{"ref": {"the id": "A-1", "old": null}, "names": ["x", "Smith"], "flags": {"live": true}, "n": 7}'
    )
    assert mapper(id='ref."the id"', name="names[1]", status="flags.live")(item) == Listing(
        "A-1", "Smith", True
    )
    assert mapper(id="n", name="ref.old", status="flags.live")(item) == Listing("7", "", True)
    assert mapper(id="ref.old || n", name="join(' & ', names)", status="n")(item) == Listing(
        "7", "x & Smith", False
    )


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("a", {}),
        ("a.b", {}),
        ("a.b", {"a": None}),
        ("a.b", {"a": "text"}),
        ("a.b.c", {"a": {"b": []}}),
        ("join('', a)", {"a": None}),
        ("a[?b > `1`] | [0].b", {"a": [{"b": "x"}]}),
    ],
)
def test_a_path_that_an_item_does_not_have_gives_nothing(path: str, item: object) -> None:
    assert mapper(id=path, name=path, status=path)(item) == Listing(None, "", False)


@pytest.mark.parametrize("item", [None, "A-1", 7, True, ["A-1"], []])
def test_an_item_that_is_no_object_counts_as_refused_not_as_inactive(item: object) -> None:
    assert mapper()(item) == Listing(None, "", True)
