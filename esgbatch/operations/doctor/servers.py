"""The account system, the ESG API and its login, each asked for as little as can be; and their clocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from itertools import cycle, islice
from urllib.parse import urlsplit

import requests

from esgbatch.config.model import OAuth2Auth, Ratings, Timeout, Web
from esgbatch.errors import AccountSystemError, BatchError, CredentialsRefused, DoctorFailed, RatingsError
from esgbatch.http.auth import LoginRefused, LoginUnavailable, authenticator
from esgbatch.http.session import open_session
from esgbatch.http.trust import origin
from esgbatch.model import Answer, Verdict
from esgbatch.observability.progress import Broadcast
from esgbatch.operations.doctor.findings import PATIENCE, Finding, Setup, ok, warn
from esgbatch.operations.doctor.records import at_work
from esgbatch.ports import Clock
from esgbatch.ratings.client import CurlRatings

FEW = 100  # rows of the account list
TRIES = 3
LONGEST_WAIT = 2.0
SKEW_WARN = 30.0
SKEW_FAIL = 300.0
DATE_TIMEOUT = 5.0

_LOGIN_ADVICE = "correct the credentials under [ratings.auth], then `esgbatch doctor`"
_MAPPING_ADVICE = "look at ratings.url, ratings.score_range and the paths under [[ratings.scores]]"


class _ImpatientClock:
    """A `Clock` that does not wait as long as a night would."""

    def __init__(self, clock: Clock) -> None:
        self.time = clock.time
        self.monotonic = clock.monotonic
        self._sleep = clock.sleep

    def sleep(self, seconds: float) -> None:
        if seconds > LONGEST_WAIT:
            raise AccountSystemError(
                f"The account system asks us to wait {seconds:.0f} s before it gives the list.",
                advice="find out what keeps it busy, then `esgbatch doctor`",
            )
        self._sleep(seconds)


def account_system(setup: Setup) -> Iterator[Finding]:
    """The first rows of the list; a page of it from a REST API."""
    accounts = setup.config.accounts
    briefly = accounts.model_copy(
        update={
            "page_size": min(accounts.page_size, FEW),
            "attempts": min(accounts.attempts, 2),
            "timeout": min(accounts.timeout, PATIENCE),
        }
    )
    config = setup.config.model_copy(update={"accounts": briefly})
    source = setup.open_source(config, _ImpatientClock(setup.clock), Broadcast([]))
    rows = list(islice(source.accounts(), FEW))
    if not rows:
        raise AccountSystemError("The account system listed no accounts.", advice="look at [accounts]")
    active = [row for row in rows if row.active and row.account_id is not None]
    setup.account_ids = [row.account_id for row in active if row.account_id is not None][:TRIES]
    if not active:
        yield warn(
            f"none of the first {len(rows)} rows is an active account with an ID",
            "look at accounts.id, accounts.status and accounts.active",
        )
    elif not any(row.name for row in active):
        yield warn(f"none of the first {len(rows)} accounts has a name", "look at accounts.name")
    else:
        yield ok(f"of the first {len(rows)} rows {len(active)} are active accounts")


def token(setup: Setup) -> Iterator[Finding]:
    """The OAuth2 login for the ESG API."""
    ratings = setup.config.ratings
    assert isinstance(ratings.auth, OAuth2Auth)
    server = urlsplit(ratings.auth.token_url).hostname
    try:
        authenticator(ratings).credential()
    except LoginRefused as error:
        raise CredentialsRefused(f"The login at {server} failed: {error}.", advice=_LOGIN_ADVICE) from None
    except LoginUnavailable as error:
        raise RatingsError(
            f"The login at {server} failed: {error}.",
            advice="when it answers again, or with another ratings.auth.token_url: `esgbatch doctor`",
        ) from None
    yield ok(f"{server} gives one")


# --- the ESG API ------------------------------------------------------------------------------


def esg_api(setup: Setup) -> Iterator[Finding]:
    """Ask for one account; for the next two, where it is the account that may be to blame."""
    if (owner := at_work(setup.config.job.state_dir)) is not None:
        yield warn(
            f"not asked: {owner} is asking, and another request might exceed ratings.rate_limit",
            "`esgbatch status` shows what it gets",
        )
        return
    if not setup.account_ids:
        yield warn("not asked: the account system gave no active account to ask for")
        return
    ratings = setup.config.ratings
    timeout = Timeout(connect=min(ratings.timeout.connect, PATIENCE), read=min(ratings.timeout.read, PATIENCE))
    questioner = _Questioner(ratings.model_copy(update={"timeout": timeout}), setup.clock)
    for account_id in islice(cycle(setup.account_ids), TRIES):
        answer = questioner.ask(account_id)
        if answer.verdict is Verdict.RATED:
            yield ok(f"rated an account in {answer.elapsed:.2f} s")
            return
        if answer.verdict is Verdict.THROTTLED:
            yield _throttled(answer)
            return
        if answer.verdict is Verdict.LOGIN_REFUSED or answer.elapsed > LONGEST_WAIT:
            break
    raise _refusal(answer)


class _Questioner:
    """The job's own client, paced as the job would be."""

    def __init__(self, ratings: Ratings, clock: Clock) -> None:
        self._client = CurlRatings(ratings, authenticator(ratings))
        self._spacing = 1.0 / ratings.rate_limit
        self._clock = clock
        self._asked = False

    def ask(self, account_id: str) -> Answer:
        """An answer that is not just the way to another: redirects are followed, a token is renewed once."""
        renewed = False
        while True:
            if self._asked:
                self._clock.sleep(self._spacing)
            self._asked = True
            answer = self._client.rate(account_id)
            if answer.verdict is Verdict.UNAUTHORIZED and not renewed:
                renewed = True
            elif answer.verdict is not Verdict.REDIRECTED:
                return answer


def _throttled(answer: Answer) -> Finding:
    wait = "" if answer.retry_after is None else f" for {answer.retry_after:.0f} s"
    return warn(
        f"it answers, and asks us to wait{wait} ({answer.detail})",
        "find out who else uses up the quota, then `esgbatch doctor`",
    )


def _refusal(answer: Answer) -> BatchError:
    """The failure that the last answer stands for."""
    match answer.verdict:
        case Verdict.LOGIN_REFUSED:
            what = f"The login for the ESG API failed: {answer.detail}."
            return CredentialsRefused(what, advice=_LOGIN_ADVICE)
        case Verdict.UNAUTHORIZED | Verdict.FORBIDDEN:
            what = f"The ESG API refuses our credentials: {answer.detail}."
            return CredentialsRefused(what, advice=_LOGIN_ADVICE)
        case Verdict.FAILED:
            what = f"The ESG API rated none of the accounts tried: {answer.reason}, {answer.detail}."
            return RatingsError(what, advice=_MAPPING_ADVICE)
        case _:
            return RatingsError(f"The ESG API does not answer as it should: {answer.detail}.")


# --- the clock --------------------------------------------------------------------------------


def clock(setup: Setup) -> Iterator[Finding]:
    """Compare it with each server's Date (RFC 9110, 6.6.1)."""
    offsets: dict[str, float] = {}
    for url, web in _timekeepers(setup):
        with suppress(requests.RequestException):  # the server's own check tells
            offset = _offset(url, web, setup.clock)
            if offset is not None:
                offsets[urlsplit(url).netloc] = offset
    if not offsets:
        yield warn("not checked: no server has told the time")
        return
    server, worst = max(offsets.items(), key=lambda pair: abs(pair[1]))
    if abs(worst) <= SKEW_WARN:
        yield ok(f"right to {max(1, round(abs(worst)))} s by {', '.join(offsets)}")
        return
    told = (
        f"This machine's clock is {abs(worst):.0f} s {'behind' if worst > 0 else 'ahead of'} that of {server}"
    )
    advice = "see that both are synchronised (here: `timedatectl status`), then `esgbatch doctor`"
    if abs(worst) > SKEW_FAIL:
        raise DoctorFailed(f"{told}.", advice=advice)
    yield warn(told, advice)


def _timekeepers(setup: Setup) -> Iterator[tuple[str, Web]]:
    """An address and its settings for each server that may tell; the ESG API, whose quota it is, only alone."""
    config = setup.config
    servers: list[tuple[str, Web]] = []
    if config.accounts.source == "rest":
        servers.append((config.accounts.url, config.accounts))
    if isinstance(config.ratings.auth, OAuth2Auth):
        servers.append((config.ratings.auth.token_url, config.ratings))
    if config.alerts.pagerduty is not None:
        servers.append((config.alerts.pagerduty.url, Web()))
    if not servers and at_work(config.job.state_dir) is None:
        servers.append((config.ratings.url, config.ratings))
    yield from {origin(url): (url, web) for url, web in servers}.values()


def _offset(url: str, web: Web, clock: Clock) -> float | None:
    """How many seconds the server's clock is ahead of ours; None where it does not say.

    A request for no resource in particular, without credentials. Date has no fractions: half
    a second is right on average. What a cache answers is as old as its Age (RFC 9111, 5.1).
    """
    root = urlsplit(url)._replace(path="/", query="", fragment="").geturl()
    with closing(open_session(web)) as session:
        asked = clock.time()
        response = session.head(root, timeout=DATE_TIMEOUT, allow_redirects=False)
        answered = clock.time()
    try:
        sent = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except ValueError:
        return None
    age = response.headers.get("Age", "")
    return sent + 0.5 + (int(age) if age.isascii() and age.isdigit() else 0) - (asked + answered) / 2
