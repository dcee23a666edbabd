"""The sandbox's firm: computed, repeatable, and with every trap that a real one has."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal

import pytest

from esgbatch.sandbox.data import Entry, Firm, entry_json, rounded
from esgbatch.sandbox.names import ODD_IDS, ODD_NAMES


def every_kind(accounts: int = 500, seed: int = 3) -> Firm:
    return Firm(accounts, seed, inactive=9, duplicates=7, refused=5, odd_ids=len(ODD_IDS))


def rows(firm: Firm, *, active_only: bool = False) -> list[Entry]:
    return list(firm.rows(0, firm.listed(active_only=active_only), active_only=active_only))


def test_same_seed_same_firm_other_seed_another() -> None:
    def books(seed: int) -> list[object]:
        firm = every_kind(seed=seed)
        return [*rows(firm), *(firm.literals(index) for index in range(firm.accounts))]

    assert books(1) == books(1)
    assert books(1) != books(2)


def test_every_account_is_found_by_its_id_and_nothing_else_is() -> None:
    firm = every_kind()
    ids = [firm.account_id(index) for index in range(firm.accounts)]
    assert len(set(ids)) == firm.accounts
    assert set(ODD_IDS) < set(ids)
    assert [firm.index_of(account_id) for account_id in ids] == list(range(firm.accounts))
    strangers = ("A-000501", "A-000000", "A-1", "A-0000001", "a-000001", "A-00000\u0661", "A-", "", "C-000001")
    assert [firm.index_of(account_id) for account_id in strangers] == [None] * len(strangers)


def test_a_million_accounts_have_ids_of_seven_digits_at_the_end() -> None:
    firm = Firm(1_000_000)
    assert firm.account_id(999_999) == "A-1000000"
    assert firm.index_of("A-1000000") == 999_999


def test_the_list_holds_exactly_what_was_asked_for() -> None:
    firm = every_kind()
    found = rows(firm)
    active = [row for row in found if row.status == "active" and row.account_id]
    firsts = {row.account_id: row.name for row in reversed(active)}
    assert len(found) == firm.listed() == 500 + 9 + 7 + 5
    assert sum(row.status != "active" for row in found) == 9
    assert sum(not row.account_id for row in found) == 5
    assert {row.account_id for row in found if not row.account_id} == {None, ""}
    assert len(active) - len(firsts) == 7
    assert firsts == {firm.account_id(index): firm.name(index) for index in range(500)}


def test_a_duplicate_comes_later_and_has_another_name() -> None:
    firm = every_kind()
    place = {firm.account_id(index): index for index in range(firm.accounts)}
    seen: set[str] = set()
    duplicates = 0
    for row in rows(firm):
        if row.account_id in seen:
            duplicates += 1
            assert row.name != firm.name(place[row.account_id])
        elif row.account_id in place:
            seen.add(row.account_id)
            assert row.name == firm.name(place[row.account_id])
    assert duplicates == 7


def test_order_of_first_appearance_is_index_order() -> None:
    firm = every_kind()
    order = dict.fromkeys(row.account_id for row in rows(firm) if row.account_id and row.status == "active")
    assert list(order) == [firm.account_id(index) for index in range(firm.accounts)]


def test_the_filtered_list_is_the_same_without_the_inactive() -> None:
    firm = every_kind()
    assert rows(firm, active_only=True) == [row for row in rows(firm) if row.status == "active"]
    assert firm.listed(active_only=True) == 500 + 7 + 5


@pytest.mark.parametrize("size", [1, 3, 10, 521, 1000])
def test_pages_put_together_are_the_list(size: int) -> None:
    firm = every_kind()
    pages = [row for start in range(0, firm.listed() + size, size) for row in firm.rows(start, start + size)]
    assert pages == rows(firm)


@pytest.mark.parametrize("accounts", [0, 1, 2, 5])
def test_small_firms(accounts: int) -> None:
    firm = Firm(accounts, inactive=3, refused=2, duplicates=2 if accounts else 0, odd_ids=17)
    found = rows(firm)
    assert len(found) == firm.listed()
    assert len({row.account_id for row in found if row.account_id and row.status == "active"}) == accounts


def test_impossible_firms_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Firm(-1)
    with pytest.raises(ValueError, match="duplicate"):
        Firm(0, duplicates=1)


def test_names_look_like_a_firms_and_odd_ones_are_among_them() -> None:
    firm = every_kind(accounts=5000)
    names = [firm.name(index) for index in range(5000)]
    assert set(ODD_NAMES) < set(names)
    assert "Smith Family Trust" in names
    assert any(not name.isascii() for name in set(names) - set(ODD_NAMES))
    assert any("," in name for name in names)
    assert len(set(names)) > 2000
    assert not any("{" in name for name in names)


def test_a_row_without_an_id_has_no_key_for_it() -> None:
    assert json.loads(entry_json(Entry(None, "Ü", "active"))) == {"accountName": "Ü", "status": "active"}
    assert json.loads(entry_json(Entry("", "Ü", "active")))["accountId"] == ""


def test_scores_are_json_numbers_of_many_lengths_and_in_range() -> None:
    firm = Firm(20_000)
    texts = [text for index in range(firm.accounts) for text in firm.scores(index)]
    decimals = Counter(len(text.partition(".")[2]) for text in texts if "E" not in text and "e" not in text)
    assert set(range(6)) <= set(decimals)
    assert all(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE]\d+)?", text) for text in texts)
    assert all(0 <= Decimal(rounded(text)) <= 100 for text in texts)
    assert {"-0.001", "100.004", "1e2", "7.1235E1"} < set(texts)
    halves = [text for text in texts if re.search(r"\.\d\d5$", text)]
    assert len(halves) > 0.1 * len(texts)
    wrong = sum(f"{float(text):.2f}" != rounded(text) for text in halves)
    assert wrong > 0.3 * len(halves), "a job that rounds binary floats must be caught"


def test_overall_is_the_weighted_mean() -> None:
    firm = Firm(2000)
    edges = 0
    for index in range(firm.accounts):
        e, s, g, overall = map(Decimal, firm.scores(index))
        edges += overall != (4 * e + 3 * s + 3 * g) / 10
    assert edges < 0.02 * firm.accounts


def test_literals_are_the_scores_some_of_them_in_quotes() -> None:
    firm = Firm(2000)
    quoted = 0
    for index in range(firm.accounts):
        literals = firm.literals(index)
        quoted += literals[0].startswith('"')
        assert tuple(text.strip('"') for text in literals) == firm.scores(index)
    assert 80 < quoted < 180


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("71.235", "71.24"),
        ("-0.001", "0.00"),
        ("-0", "0.00"),
        ("1e2", "100.00"),
        ("2.675", "2.68"),
        ("2.665", "2.67"),
        ("80", "80.00"),
        ("100.004", "100.00"),
        ("64.1", "64.10"),
    ],
)
def test_rounding_is_half_up_without_a_negative_zero(text: str, cell: str) -> None:
    assert rounded(text) == cell
