"""The sandbox's switchboard: what can be switched, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from esgbatch.sandbox.faults import AccountFault, BadFault, Board, Faults


def test_a_change_leaves_the_rest() -> None:
    board = Board(Faults(latency=0.5))
    board.change({"error_rate": 0.25, "accounts": {"A-1": "flaky:3"}})
    assert board.current() == Faults(latency=0.5, error_rate=0.25, accounts={"A-1": "flaky:3"})
    assert board.accounts == {"A-1": AccountFault("flaky", 3.0)}
    board.change({"latency": 1})
    assert board.current().latency == 1.0
    assert board.accounts == {"A-1": AccountFault("flaky", 3.0)}


@pytest.mark.parametrize(
    "changes",
    [
        {"latancy": 1},
        {"latency": "1"},
        {"latency": -1},
        {"latency": float("nan")},
        {"latency": float("inf")},
        {"latency": True},
        {"error_rate": 1.5},
        {"outage": "maybe"},
        {"outage": True},
        {"retry_after_status": 500},
        {"retry_after_every": 1.5},
        {"token_failures": -2},
        {"accounts": ["A-1"]},
        {"accounts": {"A-1": "broken"}},
        {"accounts": {"A-1": "flaky:x"}},
        {"accounts": {"A-1": "slow:-1"}},
        {"accounts": {"A-1": "slow:nan"}},
        {"accounts": {"A-1": "gone:3"}},
        {"accounts": {"A-1": 7}},
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(changes: dict[str, Any]) -> None:
    board = Board(Faults())
    with pytest.raises(BadFault):
        board.change({"forbidden_all": True} | changes)
    assert board.current() == Faults()


def test_failures_count_down_and_minus_one_lasts() -> None:
    board = Board(Faults(token_failures=2, mail_failures=-1))
    assert [board.fails("token") for _ in range(4)] == [True, True, False, False]
    assert all(board.fails("mail") for _ in range(10))
    assert not board.fails("pager")
    board.change({"mail_failures": 0})
    assert not board.fails("mail")


def test_an_outage_ends_by_itself_or_when_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    board = Board(Faults(outage="503", outage_seconds=5.0))
    now = 1004.9
    assert board.current().outage == "503"
    board.change({"latency": 0.1})
    now = 1005.0
    assert board.current().outage == ""
    board.change({"outage": "close", "outage_seconds": 0})
    now = 9999.0
    assert board.current().outage == "close"
    board.change({"outage": ""})
    assert board.current().outage == ""
