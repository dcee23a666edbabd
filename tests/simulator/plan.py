"""A night's script: the firm, the limits, and every trouble, drawn from one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, time
from typing import Literal

from esgbatch.model import Listing, Verdict

SPRING_FORWARD = date(2026, 3, 8)
FALL_BACK = date(2026, 11, 1)
MANY_FORBIDDEN = 15
MANY_BROKEN = 15

Fault = Literal["no_rating", "bad_rating", "rejected", "forbidden", "broken", "throttled", "redirected"]
KINDS: tuple[Fault, ...] = ("no_rating", "bad_rating", "rejected", "forbidden", "broken", "redirected")
Kind = Literal["down", "throttled", "unauthorized", "revoked", "login refused"]
Blow = Literal["kill", "SIGTERM", "SIGTERM twice", "SIGINT", "database", "lost commit"]
Afterwards = Literal["nothing", "run", "rerun failed", "rerun some", "deliver"]

# Where a process can be struck; "any" counts all of them.
PLACES = (
    *("any", "any", "collect", "collect", "start", "read", "begin", "commit", "committed", "page"),
    *("seal", "chunk", "rename", "sealed", "audit", "audited", "remote", "uploaded", "moved", "noted"),
)


@dataclass(frozen=True, slots=True)
class Weather:
    """What the API answers to everybody from `start` to `end`, seconds from the night's beginning."""

    kind: Kind
    start: float
    end: float
    latency: float = 0.05
    status: int | None = 503
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Strike:
    """A blow at the `count`-th time that a process comes to `place`, or at a time from its start."""

    blow: Blow
    place: str
    count: int = 1
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a night that is decided beforehand. Times are seconds.

    In a `steady` night the API's answers depend on the account alone, apart from what
    costs no account an attempt, so that the file must be the one of an undisturbed night.
    """

    seed: int
    steady: bool
    # the firm
    listings: tuple[Listing, ...]
    faults: Mapping[str, Fault]
    # the configuration
    rate_limit: float
    concurrency: int | Literal["auto"]
    max_concurrency: int
    attempts: int
    backoff: tuple[float, float]
    commit_every: int
    max_hold: float
    on_deadline: Literal["hold", "deliver_partial"]
    max_failed_percent: float
    remote_consumes_file: bool
    # the calendar
    day: date
    deadline: time
    lead: float
    set_back: tuple[float, float] | None
    # the API
    latency: tuple[float, float]
    growth: float
    error_rate: float
    throttle_rate: float
    redirect_rate: float
    token_life: float
    abort: float
    weather: tuple[Weather, ...]
    # the neighbours
    listing_failures: int
    page_seconds: float
    sealing_failures: int
    sealing_seconds: float
    remote_trouble: float
    remote_troubles: int
    remote_seconds: float
    audit_failures: tuple[int, ...]
    commit_seconds: float
    # the operator
    strikes: tuple[tuple[Strike, ...], ...]
    restart: tuple[float, ...]
    patience: float
    afterwards: Afterwards

    @property
    def active(self) -> dict[str, str]:
        """The accounts that must be in the file, in order, with their names."""
        found: dict[str, str] = {}
        for listing in self.listings:
            if listing.active and listing.account_id is not None:
                found.setdefault(listing.account_id, listing.name)
        return found

    @property
    def hopeless(self) -> bool:
        """Whether the API itself keeps this night from ending: see docs/reliability.md."""
        kinds = list(self.faults.values())
        return "throttled" in kinds or kinds.count("forbidden") > MANY_FORBIDDEN

    def undisturbed(self) -> Plan:
        """The same firm and the same accounts' own faults in a night without trouble."""
        return replace(
            self,
            lead=86400.0,
            set_back=None,
            error_rate=0.0,
            throttle_rate=0.0,
            redirect_rate=0.0,
            token_life=math.inf,
            weather=(),
            growth=0.0,
            listing_failures=0,
            sealing_failures=0,
            remote_troubles=0,
            audit_failures=(),
            strikes=(),
            afterwards="nothing",
        )


def draw(seed: int) -> Plan:
    """The night that belongs to a seed, always the same."""
    dice = random.Random(f"night {seed}")
    steady = dice.random() < 0.4
    listings = _listings(dice)
    active = [one.account_id for one in listings if one.active and one.account_id is not None]
    day, deadline, lead = _calendar(dice)
    horizon = _horizon(dice, len(active))
    concurrency: int | Literal["auto"] = "auto" if dice.random() < 0.5 else dice.choice([1, 2, 8, 32, 64, 256])
    return Plan(
        seed=seed,
        steady=steady,
        listings=tuple(listings),
        faults=_faults(dice, list(dict.fromkeys(active)), steady),
        rate_limit=dice.choice([1, 2, 2.5, 5, 10, 20, 50, 50, 100, 250, 500]),
        concurrency=concurrency,
        max_concurrency=dice.choice([8, 64, 256]),
        attempts=dice.choice([1, 2, 3, 5, 5, 5]),
        backoff=(dice.choice([0.05, 0.5, 0.5, 2.0]), dice.choice([5.0, 60.0])),
        commit_every=dice.choice([1, 10, 100, 500]),
        max_hold=dice.choice([60.0, 300.0, 900.0, 3600.0]),
        on_deadline="hold" if steady or dice.random() < 0.6 else "deliver_partial",
        max_failed_percent=100.0 if dice.random() < 0.7 else 5.0,
        remote_consumes_file=dice.random() < 0.2,
        day=day,
        deadline=deadline,
        lead=lead,
        set_back=(dice.uniform(0, horizon), dice.uniform(1, 7200)) if dice.random() < 0.1 else None,
        latency=(dice.choice([0.05, 0.2, 0.7, 2.0, 4.3]), dice.choice([0.1, 0.5, 1.0])),
        growth=dice.uniform(0.1, 5.0) if dice.random() < 0.08 and not steady else 0.0,
        error_rate=0.0 if steady else dice.choice([0.0, 0.0, 0.01, 0.05, 0.2]),
        throttle_rate=dice.choice([0.0, 0.0, 0.0, 0.01]),
        redirect_rate=dice.choice([0.0, 0.0, 0.0, 0.2, 1.0]),
        token_life=dice.uniform(60, 600) if dice.random() < 0.4 else math.inf,
        abort=dice.choice([0.001, 0.02, 0.02, 1.4, 30.0]),
        weather=tuple(_weather(dice, horizon, lead, steady)),
        listing_failures=dice.choice([0, 0, 0, 0, 0, 1, 2]),
        page_seconds=dice.choice([0.0, 0.1, 2.0]),
        sealing_failures=dice.choice([0, 0, 0, 0, 0, 1]),
        sealing_seconds=dice.choice([0.01, 0.1, 5.0]),
        remote_trouble=dice.choice([0.05, 0.3, 1.0]),
        remote_troubles=dice.choice([0, 0, 0, 0, 5, 30]),
        remote_seconds=dice.choice([0.01, 0.3]),
        audit_failures=tuple(dice.sample(range(8), 2)) if dice.random() < 0.08 else (),
        commit_seconds=dice.choice([0.0, 0.0, 0.0, 0.003, 0.05]),
        strikes=tuple(_strikes(dice, horizon, len(active))),
        restart=tuple(dice.choice([0.02, 0.02, 0.5, 3.0, 60.0]) for _ in range(8)),
        patience=dice.uniform(1200, 5400),
        afterwards=dice.choice(
            ["nothing", "nothing", "nothing", "run", "rerun failed", "rerun some", "deliver"]
        ),
    )


def _listings(dice: random.Random) -> list[Listing]:
    count = round(math.exp(dice.uniform(0, math.log(400))))
    if dice.random() < 0.01:
        count = dice.randint(1001, 2300)  # more than one page of the dispatcher
    others = dice.choice([0.0, 0.02, 0.3])
    listings: list[Listing] = []
    for number in range(count):
        shape = dice.choice(["A-{:06}", "A-{:06}", "A-{:06}", "={:06}", "ü {:06}", '"{:06}",', " {:06}"])
        name = dice.choice(["Trust {}", "Smith, {} & Söhne", '"{}"', "+{}", "", "東京 {}", "\t{}"])
        listings.append(Listing(shape.format(number), name.format(number), active=True))
        while dice.random() < others:
            again = dice.choice(listings)
            other = dice.choice(["duplicate", "inactive", "refused"])
            if other == "duplicate" and again.account_id is not None:
                listings.append(Listing(again.account_id, f"{again.name}, again", active=True))
            elif other == "inactive":
                listings.append(Listing(f"I-{number}-{len(listings)}", "Closed", active=False))
            else:
                listings.append(Listing(None, "No ID", active=dice.random() < 0.5))
    return listings


def _faults(dice: random.Random, accounts: list[str], steady: bool) -> dict[str, Fault]:
    share = dice.choice([0.0, 0.0, 0.01, 0.05, 0.5])
    most = dict[Fault, int](forbidden=5, broken=MANY_BROKEN)
    if not steady and dice.random() < 0.1:
        most["forbidden"] = 400
    favourite: Fault = dice.choice(KINDS)
    if dice.random() < 0.1:
        most["broken"], share, favourite = 400, 0.5, "broken"
    if not steady and dice.random() < 0.02:
        return {accounts[0]: "throttled"}
    faults: dict[str, Fault] = {}
    left = dict(most)
    together = dice.random() < 0.3
    chosen = accounts[len(accounts) - round(share * len(accounts)) :] if together else accounts
    for account in chosen:
        if not together and dice.random() >= share:
            continue
        fault = favourite if dice.random() < 0.7 else dice.choice(KINDS)
        if left.get(fault, 1) > 0:
            faults[account] = fault
            left[fault] = left.get(fault, 400) - 1
    return faults


def _calendar(dice: random.Random) -> tuple[date, time, float]:
    """The business date, its deadline, and how long before it the run starts."""
    kind = dice.random()
    if kind < 0.12:
        day, deadline = SPRING_FORWARD, dice.choice([time(1, 30), time(2, 30), time(3), time(4), time(9)])
    elif kind < 0.24:
        day, deadline = FALL_BACK, dice.choice([time(1, 30), time(0, 30), time(2), time(4), time(9)])
    else:
        day, deadline = date(2026, dice.randint(1, 12), dice.randint(1, 28)), time(9)
    lead = dice.choices(
        [
            4 * 3600.0,
            dice.uniform(600, 5400),
            dice.uniform(60, 600),
            dice.uniform(0.5, 60),
            -dice.uniform(1, 3600),
        ],
        [35, 25, 20, 12, 8],
    )[0]
    return day, deadline, lead


def _horizon(dice: random.Random, accounts: int) -> float:
    """About how long the rating may take: troubles are strewn over this."""
    return max(10.0, accounts * dice.choice([0.01, 0.05, 0.2, 1.0]))


def _weather(dice: random.Random, horizon: float, lead: float, steady: bool) -> list[Weather]:
    if dice.random() < 0.4:
        return []
    kinds: list[Kind] = ["throttled"] if steady else ["down", "down", "throttled", "unauthorized", "revoked"]
    if not steady and dice.random() < 0.1:
        kinds = ["login refused"]
    found = []
    for _ in range(dice.choice([1, 1, 2, 4])):
        start = 0.0 if dice.random() < 0.2 else dice.uniform(0, horizon)
        length = dice.choices(
            [dice.uniform(0.5, 20), dice.uniform(20, 300), dice.uniform(300, 3600), max(lead, 0.0) + 3600],
            [5, 4, 2, 1],
        )[0]
        retry_after = dice.choice([None, 0.0, 1.0, 7.5, 60.0, 600.0, 86400.0 if dice.random() < 0.1 else 30.0])
        kind = dice.choice(kinds)
        if kind == "throttled" and retry_after is not None and retry_after > length:
            length = min(length, dice.uniform(0.5, 60))
        latency = dice.choice([0.01, 0.05, 1.0, 5.0, 30.0])
        status = dice.choice([503, 500, None]) if kind == "down" else 429
        found.append(Weather(kind, start, start + length, latency, status, retry_after))
    return found


def _strikes(dice: random.Random, horizon: float, accounts: int) -> list[tuple[Strike, ...]]:
    """For each of the first executions, what strikes it."""
    blows: list[Blow] = [
        "kill",
        "kill",
        "kill",
        "SIGTERM",
        "SIGTERM twice",
        "SIGINT",
        "database",
        "lost commit",
    ]
    found: list[tuple[Strike, ...]] = []
    for _ in range(dice.choice([0, 0, 1, 1, 2, 3, 5])):
        blow = dice.choice(blows)
        count = round(math.exp(dice.uniform(0, math.log(10 + 4 * accounts))))
        after = dice.uniform(0, horizon) if dice.random() < 0.2 and blow != "database" else None
        place = dice.choice(PLACES)
        if blow in ("database", "lost commit"):
            place = "commit" if blow == "database" else "committed"
            after = None
        if place not in ("any", "collect", "start", "read"):
            count = dice.choice([1, 1, 1, 2, 3, dice.randint(1, 30)])
        found.append((Strike(blow, place, count, after),))
    return found


VERDICTS: Mapping[Fault, Verdict] = {
    "no_rating": Verdict.FAILED,
    "bad_rating": Verdict.FAILED,
    "rejected": Verdict.FAILED,
    "forbidden": Verdict.FORBIDDEN,
    "broken": Verdict.TRANSIENT,
    "throttled": Verdict.THROTTLED,
    "redirected": Verdict.REDIRECTED,
}
