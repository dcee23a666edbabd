"""The sandbox's ESG API, account list and token endpoint, as functions from request to reply."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import pytest

from esgbatch.sandbox.data import Firm
from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.esg import EsgApi, Window
from esgbatch.sandbox.faults import Board, Faults
from esgbatch.sandbox.login import Login
from esgbatch.sandbox.names import ODD_IDS
from esgbatch.sandbox.web import Fate, Reply, Request

FIRM = Firm(400, odd_ids=len(ODD_IDS))
FIRST = FIRM.account_id(0)


def api(faults: Faults = Faults(), seed: int = 1, login: Login | None = None) -> EsgApi:  # noqa: B008 - frozen
    return EsgApi(FIRM, Dice(seed), Board(faults), login, "2026-11-23")


def get(account_id: str = FIRST, authorization: bytes = b"") -> Request:
    path = f"/v1/accounts/{quote(account_id, '').replace('.', '%2E')}/esg"
    return Request(b"GET", path.encode(), authorization, b"")


def headers(reply: Reply) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in reply.headers.decode().splitlines())


def spoiled(kind: str, account_id: str = FIRST) -> Reply:
    return api(Faults(accounts={account_id: kind})).handle(get(account_id))


# --- ratings ------------------------------------------------------------------------------------


def test_every_id_gets_its_own_scores_by_get_and_by_post() -> None:
    esg = api()
    for index in range(FIRM.accounts):
        account_id = FIRM.account_id(index)
        body = json.dumps({"accountId": account_id}).encode()
        for request in (get(account_id), Request(b"POST", b"/v1/esg", b"", body)):
            reply = esg.handle(request)
            answer = json.loads(reply.body, parse_float=str, parse_int=str)
            assert (reply.status, answer["accountId"], answer["asOf"]) == (200, account_id, "2026-11-23")
            assert tuple(answer["scores"].values()) == FIRM.scores(index)
            assert list(answer["scores"]) == ["environmental", "social", "governance", "overall"]
    assert esg.counts()["accounts_by_attempts"] == {"2": 400}


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        (b"GET", b"/v1/accounts/A-000999/esg", b"", 404),
        (b"GET", b"/v1/accounts/TR/2019/0007/esg", b"", 404),
        (b"GET", b"/v1/accounts/A-000001/esg?x=1", b"", 404),
        (b"GET", b"/v1/accounts/A-000001", b"", 404),
        (b"PUT", b"/v1/accounts/A-000001/esg", b"", 404),
        (b"GET", b"/v1/accounts/%FF/esg", b"", 400),
        (b"POST", b"/v1/esg", b"{", 400),
        (b"POST", b"/v1/esg", b"[]", 400),
        (b"POST", b"/v1/esg", b'{"accountId": 1}', 400),
    ],
)
def test_other_requests(method: bytes, target: bytes, body: bytes, status: int) -> None:
    esg = api()
    assert esg.handle(Request(method, target, b"", body)).status == status
    assert esg.counts()["accounts_by_attempts"] == {"0": 400}
    assert esg.counts()["unknown_accounts"] == (status == 404)


# --- an account's own fault -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("no_rating", 404),
        ("gone", 410),
        ("rejected", 422),
        ("forbidden", 403),
        ("unauthorized", 401),
        ("always_500", 500),
    ],
)
def test_refusals(kind: str, status: int) -> None:
    assert spoiled(kind).status == status


@pytest.mark.parametrize(
    ("kind", "literal"),
    [
        ("bad_null", "null"),
        ("bad_nan", "NaN"),
        ("bad_nan_text", '"NaN"'),
        ("bad_range", "100.005"),
        ("bad_text", '"n/a"'),
        ("bad_bool", "true"),
    ],
)
def test_bad_scores(kind: str, literal: str) -> None:
    reply = spoiled(kind)
    assert reply.status == 200
    assert f'"governance": {literal}, "overall": '.encode() in reply.body


def test_a_missing_score() -> None:
    reply = spoiled("bad_missing")
    assert reply.status == 200
    assert list(json.loads(reply.body)["scores"]) == ["environmental", "social", "overall"]


def test_odd_bodies() -> None:
    page, huge, cut, slow = (spoiled(kind) for kind in ("html", "huge", "reset", "slow:7"))
    assert page.status == huge.status == cut.status == slow.status == 200
    assert headers(page)["Content-Type"].startswith("text/html")
    assert len(huge.body) > 1 << 20
    assert json.loads(huge.body)["accountId"] == FIRST
    assert cut.fate is Fate.CUT
    assert slow.delay == 7.0


def test_flaky_accounts_get_well_and_their_attempts_are_counted() -> None:
    esg = api(Faults(accounts={FIRST: "flaky:2", "..": "no_rating"}))
    assert [esg.handle(get()).status for _ in range(4)] == [503, 503, 200, 200]
    assert esg.handle(get("..")).status == 404
    assert esg.counts()["faulty_attempts"] == {FIRST: 4, "..": 1}
    assert esg.handle(get(FIRM.account_id(1))).status == 200


# --- chance ---------------------------------------------------------------------------------------


def test_errors_come_at_the_wanted_rate_and_repeat_with_the_seed() -> None:
    def statuses(seed: int, order: int) -> dict[str, list[int]]:
        esg = api(Faults(error_rate=0.25), seed)
        ids = [FIRM.account_id(index) for index in range(FIRM.accounts)][::order]
        return {account_id: [esg.handle(get(account_id)).status for _ in range(5)] for account_id in ids}

    first = statuses(1, 1)
    counts = Counter(status for each in first.values() for status in each)
    assert set(counts) == {200, 500, 502, 503, 504}
    assert 0.70 < counts[200] / counts.total() < 0.80
    assert statuses(1, -1) == first, "what comes must not depend on the order of the requests"
    assert statuses(2, 1) != first


def test_latency_has_the_wanted_mean_and_tail() -> None:
    def delays(sigma: float) -> list[float]:
        esg = api(Faults(latency=0.2, latency_sigma=sigma))
        return [esg.handle(get(FIRM.account_id(n % 400))).delay for n in range(4000)]

    assert set(delays(0.0)) == {0.2}
    tailed = delays(1.0)
    assert 0.18 < sum(tailed) / len(tailed) < 0.22
    assert max(tailed) > 10 * sorted(tailed)[2000]
    assert tailed == delays(1.0)


# --- the gateway ----------------------------------------------------------------------------------


def test_a_window_holds_one_second_and_not_its_first_instant() -> None:
    window = Window()
    for now in (10.0, 10.5, 11.0):
        window.add(now)
    assert window.most == 2
    window.add(11.25)
    assert window.most == 3
    assert window.full(11.25, 3) == pytest.approx(0.25)
    assert window.full(11.5, 3) == 0.0


def test_the_rate_limit_lets_through_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    esg = api(Faults(rate_limit=3))
    statuses = []
    for now in (50.0, 50.125, 50.25, 50.375, 50.75, 51.0, 51.0625, 51.125):  # noqa: B007 - the clock
        reply = esg.handle(get())
        statuses.append(reply.status)
        assert reply.status == 200 or headers(reply)["Retry-After"] == "1"
    assert statuses == [200, 200, 200, 429, 429, 200, 429, 200]
    assert esg.counts()["max_per_second"] == 6
    assert esg.counts()["accounts_by_attempts"] == {"0": 399, "5": 1}
    assert esg.counts()["arrivals_by_second"] == [5, 3]
    assert (esg.counts()["first_arrival"], esg.counts()["last_arrival"]) == (50.0, 51.125)
    esg.forget_arrivals()
    assert esg.counts()["arrivals_by_second"] == []


def test_everybody_is_told_to_wait_and_who_does_not_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    esg = api(Faults(retry_after_every=2, retry_after_seconds=4.5, retry_after_status=503))
    assert [esg.handle(get()).status for _ in range(2)] == [200, 200]
    reply = esg.handle(get())
    assert (reply.status, headers(reply)["Retry-After"]) == (503, "5")
    assert esg.counts()["during_retry_after"] == 0
    now = 52.0
    reply = esg.handle(get(FIRM.account_id(1)))
    assert (reply.status, headers(reply)["Retry-After"]) == (503, "3")
    assert esg.counts()["during_retry_after"] == 1
    now = 54.5
    assert [esg.handle(get()).status for _ in range(3)] == [200, 200, 503]


def test_retry_after_as_a_date_is_never_too_early() -> None:
    esg = api(Faults(retry_after_every=1, retry_after_seconds=3, retry_after_date=True))
    esg.handle(get())
    before = time.time()
    reply = esg.handle(get())
    assert reply.status == 429
    seconds = parsedate_to_datetime(headers(reply)["Retry-After"]).timestamp() - before
    assert 3 <= seconds < 4.5


def test_outage_and_forbidden_come_before_any_account() -> None:
    for faults, status, fate in (
        (Faults(outage="503"), 503, Fate.WHOLE),
        (Faults(outage="close"), 503, Fate.DROPPED),
        (Faults(forbidden_all=True), 403, Fate.WHOLE),
    ):
        esg = api(faults)
        reply = esg.handle(get())
        assert (reply.status, reply.fate) == (status, fate)
        assert "Retry-After" not in headers(reply)
        assert esg.counts()["accounts_by_attempts"] == {"0": 400}


# --- tokens ---------------------------------------------------------------------------------------


class Desk:
    """A login and an ESG API that asks for its tokens."""

    def __init__(self, lifetime: float = 60.0, faults: Faults = Faults()) -> None:  # noqa: B008 - frozen
        self.login = Login(Dice(1), Board(faults), lifetime)
        self.esg = api(login=self.login)

    def ask(self, form: str, authorization: bytes = b"") -> tuple[int, Any]:
        reply = self.login.handle(Request(b"POST", b"/oauth/token", authorization, form.encode()))
        return reply.status, json.loads(reply.body)

    def form(self, **more: str) -> str:
        fields = {"grant_type": "client_credentials", "client_id": "esgbatch"}
        fields |= {"client_secret": self.login.client_secret} | more
        return "&".join(f"{key}={quote(value)}" for key, value in fields.items())

    def rate(self, authorization: str) -> int:
        return self.esg.handle(get(authorization=authorization.encode())).status


def test_a_token_by_form_or_by_basic_opens_the_api() -> None:
    desk = Desk()
    basic = b"Basic " + base64.b64encode(f"esgbatch:{desk.login.client_secret}".encode())
    tokens = []
    for form, authorization in ((desk.form(scope="esg.read"), b""), ("grant_type=client_credentials", basic)):
        status, answer = desk.ask(form, authorization)
        assert (status, answer["token_type"], answer["expires_in"]) == (200, "Bearer", 60)
        assert desk.rate(f"Bearer {answer['access_token']}") == 200
        assert desk.rate(f"bearer {answer['access_token']}") == 200
        tokens.append(answer["access_token"])
    assert len(set(tokens)) == 2
    assert desk.login.issued == 2


def test_no_token_a_wrong_one_or_an_old_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    desk = Desk(lifetime=5)
    token = desk.ask(desk.form())[1]["access_token"]
    assert [desk.rate(text) for text in ("", "Bearer", "Bearer x", f"Basic {token}", token)] == [401] * 5
    assert headers(desk.esg.handle(get()))["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    now = 104.9
    assert desk.rate(f"Bearer {token}") == 200
    now = 105.0
    assert desk.rate(f"Bearer {token}") == 401
    assert desk.esg.counts()["accounts_by_attempts"] == {"0": 399, "1": 1}


def test_revoked_tokens_are_worthless_and_new_ones_are_not() -> None:
    desk = Desk()
    token = desk.ask(desk.form())[1]["access_token"]
    desk.login.revoke()
    assert desk.rate(f"Bearer {token}") == 401
    assert desk.rate(f"Bearer {desk.ask(desk.form())[1]['access_token']}") == 200


def test_refusals_of_the_token_endpoint() -> None:
    desk = Desk()
    assert desk.ask(desk.form(client_secret="wrong")) == (401, {"error": "invalid_client"})
    assert desk.ask(desk.form(client_id="other")) == (401, {"error": "invalid_client"})
    assert desk.ask(desk.form(), b"Basic !!!") == (401, {"error": "invalid_client"})
    assert desk.ask(desk.form(grant_type="password")) == (400, {"error": "unsupported_grant_type"})
    assert desk.ask(desk.form(scope="root")) == (400, {"error": "invalid_scope"})
    assert desk.login.handle(Request(b"GET", b"/oauth/token", b"", b"")).status == 405
    assert desk.login.issued == 0


def test_the_token_endpoint_fails_when_told_to() -> None:
    desk = Desk(faults=Faults(token_failures=1))
    assert [desk.ask(desk.form())[0] for _ in range(2)] == [503, 200]
