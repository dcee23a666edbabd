"""The firm: its accounts and their scores, each computed from its index and the seed, none of them held.

A million accounts cost no more memory than ten. Tests compute the file they expect
from the same functions: `Firm.account_id`, `name` and `cells`, in index order.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import repeat
from typing import Literal

from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.names import FAMILY, GIVEN, ODD_IDS, ODD_NAMES, PATTERNS, PLACE

CLOSED = ("inactive", "closed", "suspended")
CENT = Decimal("0.01")
_encode = json.JSONEncoder(ensure_ascii=False).encode

# One score in 128 lies at an end of the range, or is written in a way that is easily misread.
EDGES = (
    "-0.001", "0", "0.0", "0.005", "1e2", "7.1235E1", "99.995", "100", "100.004", "100.00000", "2.675", "1.005",
)  # fmt: skip

Kind = Literal["inactive", "duplicate", "refused"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the account list. A refused one has no usable ID: None is no key at all, or null."""

    account_id: str | None
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class Extra:
    """A row that will not be in the file, after the first `after` accounts; `number` counts its kind."""

    kind: Kind
    number: int
    after: int


class Firm:
    """The firm's books: `accounts` active accounts, and the rows that a job has to leave out.

    `odd_ids` accounts, a quarter of all at most, have IDs and names that need care.
    The list has `accounts + inactive + duplicates + refused` rows; the account with
    index 0 is its first row.
    """

    def __init__(
        self,
        accounts: int,
        seed: int = 1,
        *,
        inactive: int = 0,
        duplicates: int = 0,
        refused: int = 0,
        odd_ids: int = 0,
    ) -> None:
        if min(accounts, inactive, duplicates, refused, odd_ids) < 0:
            raise ValueError("a firm has no negative number of anything")
        if duplicates and not accounts:
            raise ValueError("there is no account to duplicate")
        self.accounts = accounts
        self._dice = Dice(seed)
        count = min(odd_ids, len(ODD_IDS), accounts // 4)
        places = [(number + 1) * accounts // (count + 1) for number in range(count)]
        self._odd = {index: number for number, index in enumerate(places)}
        self._odd_index = {ODD_IDS[number]: index for number, index in enumerate(places)}
        self._extras = self._scatter(seed, inactive, duplicates, refused)
        self._kept_extras = [extra for extra in self._extras if extra.kind != "inactive"]

    def _scatter(self, seed: int, inactive: int, duplicates: int, refused: int) -> list[Extra]:
        kinds: list[Kind] = []
        kinds.extend(repeat("inactive", inactive))
        kinds.extend(repeat("duplicate", duplicates))
        kinds.extend(repeat("refused", refused))
        random.Random(seed).shuffle(kinds)  # noqa: S311 - must repeat, not surprise
        seen: dict[Kind, int] = {"inactive": 0, "duplicate": 0, "refused": 0}
        extras = []
        for number, kind in enumerate(kinds):
            after = max(min(1, self.accounts), (number + 1) * self.accounts // (len(kinds) + 1))
            extras.append(Extra(kind, seen[kind], after))
            seen[kind] += 1
        return extras

    # --- one account ------------------------------------------------------------------------------

    def account_id(self, index: int) -> str:
        odd = self._odd.get(index)
        return f"A-{index + 1:06d}" if odd is None else ODD_IDS[odd]

    def index_of(self, account_id: str) -> int | None:
        """The index of an active account, None for any other ID."""
        if account_id.startswith("A-") and len(account_id) <= 20 and account_id[2:].isdecimal():
            index = int(account_id[2:]) - 1
            if 0 <= index < self.accounts and account_id == self.account_id(index):
                return index
        return self._odd_index.get(account_id)

    def name(self, index: int) -> str:
        odd = self._odd.get(index)
        return self._name(b"name", index) if odd is None else ODD_NAMES[odd]

    def _name(self, label: bytes, number: int) -> str:
        bits = self._dice.bits(label, number)
        return PATTERNS[bits & 15].format(
            family=FAMILY[bits >> 4 & 63],
            second=FAMILY[bits >> 10 & 63],
            given=GIVEN[bits >> 16 & 31],
            other=GIVEN[bits >> 21 & 31],
            place=PLACE[bits >> 26 & 15],
        )

    def scores(self, index: int) -> tuple[str, ...]:
        """The decimal texts of the ESG API's answer: environmental, social, governance, overall."""
        return self._scores(index)[0]

    def _scores(self, index: int) -> tuple[tuple[str, ...], bool]:
        bits = self._dice.bits(b"scores", index)
        environmental, e = _score(bits)
        social, s = _score(bits >> 41)
        governance, g = _score(bits >> 82)
        if bits >> 121 & 127 == 0:
            environmental = EDGES[self._dice.bits(b"edge", index) % len(EDGES)]
        overall = 4 * e + 3 * s + 3 * g
        text = f"{overall // 100000}.{overall % 100000:05d}".rstrip("0").rstrip(".")
        return (environmental, social, governance, text), bits >> 128 & 15 == 0

    def cells(self, index: int) -> tuple[str, ...]:
        """The score columns of the file: two decimals, rounded half up from the decimal text."""
        return tuple(rounded(text) for text in self.scores(index))

    def literals(self, index: int) -> tuple[str, ...]:
        """The same texts as the ESG API writes them: one account in sixteen has numeric strings."""
        texts, quoted = self._scores(index)
        return tuple(f'"{text}"' for text in texts) if quoted else texts

    # --- the list ---------------------------------------------------------------------------------

    def listed(self, *, active_only: bool = False) -> int:
        """The number of rows in the list."""
        return self.accounts + len(self._kept_extras if active_only else self._extras)

    def rows(self, start: int, stop: int, *, active_only: bool = False) -> Iterator[Entry]:
        """The rows from place `start` up to, but not including, `stop`."""
        extras = self._kept_extras if active_only else self._extras
        rank = bisect_left(range(len(extras)), start, key=lambda number: extras[number].after + number)
        for place in range(start, min(stop, self.accounts + len(extras))):
            if rank < len(extras) and extras[rank].after + rank == place:
                yield self._extra(extras[rank])
                rank += 1
            else:
                index = place - rank
                yield Entry(self.account_id(index), self.name(index), "active")

    def _extra(self, extra: Extra) -> Entry:
        number = extra.number
        if extra.kind == "duplicate":
            index = self._dice.bits(b"duplicate", number) % extra.after
            return Entry(self.account_id(index), f"{self.name(index)} (renamed)", "active")
        name = self._name(extra.kind.encode(), number)
        if extra.kind == "refused":
            return Entry((None, "")[number % 2], name, "active")
        return Entry(f"C-{number + 1:06d}", name, CLOSED[number % len(CLOSED)])


def entry_json(entry: Entry) -> str:
    """A row as the account system writes it; without an ID the key is missing."""
    fields = {"accountId": entry.account_id, "accountName": entry.name, "status": entry.status}
    if entry.account_id is None:
        del fields["accountId"]
    return _encode(fields)


def rounded(text: str) -> str:
    """Two decimals, half up, and zero without a sign."""
    return f"{Decimal(text).quantize(CENT, ROUND_HALF_UP) + 0:f}"


def _score(bits: int) -> tuple[str, int]:
    """A score from 41 bits: its decimal text, and its value in ten-thousandths.

    Three uniform parts add up to a bell between 23 and 99.8. Zero to four decimals;
    one score in eight ends with a five in the third place, where rounding shows.
    """
    spread = (bits & 1023) + (bits >> 10 & 1023) + (bits >> 20 & 1023)
    value = 230000 + 250 * spread + (bits >> 30 & 255)
    match bits >> 38 & 7:
        case 0:
            value -= value % 10000
            return str(value // 10000), value
        case 1 | 2:
            value -= value % 1000
            return f"{value // 10000}.{value // 1000 % 10}", value
        case 3:
            value -= value % 10
            return f"{value // 10000}.{value // 10 % 1000:03d}", value
        case 4:
            return f"{value // 10000}.{value % 10000:04d}", value
        case 5:
            value += 50 - value % 100
            return f"{value // 10000}.{value // 10 % 1000:03d}", value
        case _:
            value -= value % 100
            return f"{value // 10000}.{value // 100 % 100:02d}", value
