"""What can be made to go wrong, and the board on which it is switched.

The same keys are the fields of `Faults`, the JSON of `POST {control}/faults` and the
options of the command line. A posted key replaces the old value; `accounts` is replaced
as a whole. A number of failures counts down as it strikes; -1 fails until it is set to 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

# Kinds without a number, and what they are.
ACCOUNT_FAULTS = {
    "no_rating": "404",
    "gone": "410",
    "rejected": "422",
    "forbidden": "403",
    "unauthorized": "401, whatever the token",
    "always_500": "500",
    "bad_missing": "200 without one score",
    "bad_null": "200 with a score null",
    "bad_nan": "200 with a score NaN, as careless writers of JSON put it",
    "bad_nan_text": '200 with a score "NaN"',
    "bad_range": "200 with a score of 100.005",
    "bad_text": '200 with a score "n/a"',
    "bad_bool": "200 with a score true",
    "html": "200 that is a web page",
    "huge": "200 of more than 1 MiB",
    "reset": "the connection is closed in mid-body",
}
# Kinds with one, after a colon, and its default.
COUNTED_FAULTS = {
    "slow": (60.0, "an answer after that many seconds"),
    "flaky": (2.0, "503 for that many attempts, then all is well"),
}


class BadFault(ValueError):
    """No such fault, or a value that it cannot have."""


def _fault(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything off is the default."""

    latency: float = _fault(0.0, "mean seconds that the ESG API takes for an answer")
    latency_sigma: float = _fault(0.0, "its tail: the shape of a lognormal distribution; 0: always the mean")
    error_rate: float = _fault(0.0, "share of the ESG API's answers that are 500, 502, 503 or 504")
    rate_limit: float = _fault(0.0, "requests in any second that the ESG API takes; 0: no limit")
    retry_after_every: int = _fault(0, "after so many requests everybody is told to wait; 0: never")
    retry_after_seconds: float = _fault(2.0, "how long such a wait is")
    retry_after_status: int = _fault(429, "429 or 503")
    retry_after_date: bool = _fault(False, "Retry-After is an HTTP date instead of seconds")
    outage: str = _fault("", "503 or close: the ESG API gives no other answer; empty: it is up")
    outage_seconds: float = _fault(0.0, "the outage ends by itself; 0: when it is switched off")
    forbidden_all: bool = _fault(False, "the ESG API answers 403 to everything")
    accounts_failures: int = _fault(0, "next requests for the account list that fail with 503")
    token_failures: int = _fault(0, "next requests for a token that fail with 503")
    mail_failures: int = _fault(0, "next mails that are refused with 451")
    pager_failures: int = _fault(0, "next pager events that are refused with 500")
    accounts: Mapping[str, str] = field(default_factory=dict)

    def changed(self, changes: Mapping[str, Any]) -> Faults:
        """A copy with other values.

        Raises:
            BadFault: an unknown key, or a value of the wrong type or out of range.
        """
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        cleaned: dict[str, Any] = {}
        for key, value in changes.items():
            if key not in known:
                raise BadFault(f"there is no fault {key!r}")
            if key == "accounts":
                cleaned[key] = _account_map(value)
            else:
                cleaned[key] = _like(key, known[key], value)
        faults = replace(self, **cleaned)
        _check(faults)
        return faults


def _check(faults: Faults) -> None:
    if faults.outage not in ("", "503", "close"):
        raise BadFault("outage is 503, close or empty")
    if faults.retry_after_status not in (429, 503):
        raise BadFault("retry_after_status is 429 or 503")
    if faults.error_rate > 1:
        raise BadFault("error_rate is a share: from 0 to 1")


def _like(key: str, old: Any, value: Any) -> Any:
    """`value`, if it has the type of `old`; integers pass as floats."""
    if type(old) is float and type(value) is int:
        value = float(value)
    if type(value) is not type(old):
        raise BadFault(f"{key} is of type {type(old).__name__}")
    lowest = -1 if key.endswith("_failures") else 0
    if type(value) in (int, float) and not lowest <= value < math.inf:
        raise BadFault(f"{key} is {lowest} or more")
    return value


def _account_map(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadFault("accounts maps IDs to faults")
    for text in value.values():
        AccountFault.parse(text)
    return dict(value)


@dataclass(slots=True)
class AccountFault:
    """What is wrong with one account, and how often it has been asked for since it was set."""

    kind: str
    number: float = 0.0
    attempts: int = 0

    @classmethod
    def parse(cls, text: Any) -> AccountFault:
        """Read `kind` or `kind:number`.

        Raises:
            BadFault: no such kind.
        """
        kind, _, number = text.partition(":") if isinstance(text, str) else ("", "", "")
        if kind in ACCOUNT_FAULTS and not number:
            return cls(kind)
        if kind in COUNTED_FAULTS:
            try:
                count = float(number) if number else COUNTED_FAULTS[kind][0]
            except ValueError:
                count = math.nan
            if 0 <= count < math.inf:
                return cls(kind, count)
        known = ", ".join((*ACCOUNT_FAULTS, *(f"{name}:N" for name in COUNTED_FAULTS)))
        raise BadFault(f"{text!r} is no fault of an account: {known}")


class Board:
    """The faults in force. One thread switches and reads."""

    def __init__(self, faults: Faults) -> None:
        self._outage_ends = 0.0
        self.accounts: dict[str, AccountFault] = {}
        self._faults = faults
        self._put(faults, {each.name for each in fields(Faults)})

    def change(self, changes: Mapping[str, Any]) -> None:
        """Switch some faults; those not named stay.

        Raises:
            BadFault: nothing is changed then.
        """
        self._put(self._faults.changed(changes), set(changes))

    def _put(self, faults: Faults, changed: set[str]) -> None:
        if changed & {"outage", "outage_seconds"}:
            seconds = faults.outage_seconds or math.inf
            self._outage_ends = time.monotonic() + seconds if faults.outage else 0.0
        if "accounts" in changed:
            self.accounts = {key: AccountFault.parse(text) for key, text in faults.accounts.items()}
        self._faults = faults

    def current(self) -> Faults:
        """The faults in force now: an outage may have ended by itself."""
        if self._faults.outage and time.monotonic() >= self._outage_ends:
            self._faults = replace(self._faults, outage="")
        return self._faults

    def fails(self, service: str) -> bool:
        """Whether this request to `service` (accounts, token, mail, pager) fails; counts it if so."""
        key = f"{service}_failures"
        left: int = getattr(self._faults, key)
        if left > 0:
            self._faults = replace(self._faults, **{key: left - 1})  # type: ignore[arg-type]  # an int field
        return left != 0
