"""Which pages are asked for, how often, and what ends a list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import responses

from esgbatch.errors import AccountSystemError, ExitCode
from tests.accounts import item, rest

URL = "https://accounts.example/v1/accounts"


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def page(*ids: object, **more: object) -> dict[str, object]:
    return {"accounts": [item(account_id) for account_id in ids], **more}


def answers(server: responses.RequestsMock, *bodies: object, url: str = URL) -> None:
    for body in bodies:
        server.get(url, json=body)


def asked(server: responses.RequestsMock) -> list[dict[str, str]]:
    return [
        dict(parse_qsl(urlsplit(call.request.url or "").query, keep_blank_values=True)) for call in server.calls
    ]


def failure(**options: Any) -> AccountSystemError:
    with pytest.raises(AccountSystemError) as caught:
        rest(URL, **options).ids()
    assert caught.value.code is ExitCode.ACCOUNTS
    return caught.value


# --- cursor -----------------------------------------------------------------------------------


def test_a_cursor_leads_from_page_to_page(server: responses.RequestsMock) -> None:
    answers(server, page("A-1", nextCursor="c/1&="), page(nextCursor=2), page("A-3", nextCursor=None))
    assert rest(URL).ids() == ["A-1", "A-3"]
    base = {"status": "active", "limit": "1000"}
    assert asked(server) == [base, base | {"cursor": "c/1&="}, base | {"cursor": "2"}]


@pytest.mark.parametrize("end", [{}, {"nextCursor": None}, {"nextCursor": ""}, {"nextCursor": False}])
def test_a_cursor_that_is_none_ends_the_list(server: responses.RequestsMock, end: dict[str, object]) -> None:
    answers(server, page("A-1", **end))
    assert rest(URL).ids() == ["A-1"]


def test_every_name_is_configurable(server: responses.RequestsMock) -> None:
    listed = [{"id": 7, "n": {"full": "Smith"}, "state": "open"}, {"id": 8, "n": {}, "state": "shut"}]
    answers(
        server, {"d": {"rows": listed}, "meta": {"next": "x", "more": True}}, {"d": {"rows": []}, "meta": {}}
    )
    options: dict[str, Any] = {
        "items": "d.rows",
        "id": "id",
        "name": "n.full",
        "status": "state",
        "active": ["open"],
        "params": {"fields": "id,n"},
        "size_param": "top",
        "page_size": 50,
        "cursor_param": "after",
        "next_cursor": "meta.more && meta.next",
    }
    first, second = rest(URL, **options).source.accounts()
    assert (first.account_id, first.name, first.active) == ("7", "Smith", True)
    assert (second.account_id, second.name, second.active) == ("8", "", False)
    base = {"fields": "id,n", "top": "50"}
    assert asked(server) == [base, base | {"after": "x"}]


def test_an_empty_size_param_is_not_sent(server: responses.RequestsMock) -> None:
    answers(server, page("A-1"))
    rest(URL, size_param="", params={}).ids()
    assert asked(server) == [{}]


@pytest.mark.parametrize("circle", [["x", "x"], ["x", "y", "x"], ["x", "y", "z", "y"]])
def test_a_cursor_that_comes_again_is_an_error(server: responses.RequestsMock, circle: list[str]) -> None:
    answers(server, *(page(f"A-{n}", nextCursor=cursor) for n, cursor in enumerate(circle)))
    error = failure()
    assert "never end" in str(error)
    assert len(server.calls) == len(circle)


@pytest.mark.parametrize("cursor", [True, 1.5, {"a": 1}, ["x"], "\ud800"])
def test_a_cursor_that_cannot_be_one_is_an_error(server: responses.RequestsMock, cursor: object) -> None:
    answers(server, page("A-1", nextCursor=cursor))
    assert "'nextCursor'" in str(failure())


# --- offset and page --------------------------------------------------------------------------


def test_offset_counts_what_was_given_so_that_a_server_with_smaller_pages_loses_nothing(
    server: responses.RequestsMock,
) -> None:
    answers(server, page("A-1", "A-2"), page("A-3"), page("A-4", None), page())
    assert rest(URL, paging="offset", page_size=5).ids() == ["A-1", "A-2", "A-3", "A-4", None]
    assert [query["offset"] for query in asked(server)] == ["0", "2", "3", "5"]
    assert all(query["limit"] == "5" and query["status"] == "active" for query in asked(server))


@pytest.mark.parametrize("first", [1, 0])
def test_page_counts_pages_to_the_first_empty_one(server: responses.RequestsMock, first: int) -> None:
    answers(server, page("A-1", "A-2"), page("A-3"), page())
    assert rest(URL, paging="page", page_param="p", first_page=first).ids() == ["A-1", "A-2", "A-3"]
    assert [query["p"] for query in asked(server)] == [str(first), str(first + 1), str(first + 2)]


@pytest.mark.parametrize("paging", ["offset", "page"])
def test_a_server_that_does_not_know_the_parameter_is_an_error(
    server: responses.RequestsMock, paging: str
) -> None:
    answers(server, page("A-1", "A-2"))  # always the same
    error = failure(paging=paging)
    assert repr(paging) in str(error)
    assert len(server.calls) == 3


def test_a_page_may_equal_the_one_before(server: responses.RequestsMock) -> None:
    answers(server, page("A-1"), page("A-1"), page("A-2"), page("A-2"), page())
    assert rest(URL, paging="offset", page_size=1).ids() == ["A-1", "A-1", "A-2", "A-2"]


# --- link and none ----------------------------------------------------------------------------


def test_links_are_followed_as_they_stand(server: responses.RequestsMock) -> None:
    links = ['<?after=a%2Fb>; rel="next"', f'<{URL}/more?x=1>; rel="next", <{URL}>; rel="first"', ""]
    for number, (url, link) in enumerate(zip([URL, f"{URL}?after=a/b", f"{URL}/more"], links, strict=True)):
        server.get(url, json=page(f"A-{number}"), headers={"Link": link})
    assert rest(URL, paging="link").ids() == ["A-0", "A-1", "A-2"]
    assert asked(server) == [{"status": "active", "limit": "1000"}, {"after": "a/b"}, {"x": "1"}]


def test_a_link_in_a_circle_is_an_error(server: responses.RequestsMock) -> None:
    server.get(URL, json=page("A-1"), headers={"Link": '<?p=2>; rel="next"'})
    assert "never end" in str(failure(paging="link"))
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    "target",
    ["http://accounts.example/x", "ftp://accounts.example/x", "https://[", "https://u:p@h/", "https://h:x/"],
)
def test_a_link_to_where_we_do_not_go_is_an_error(server: responses.RequestsMock, target: str) -> None:
    server.get(URL, json=page("A-1"), headers={"Link": f'<{target}>; rel="next"'})
    assert "next link" in str(failure(paging="link"))
    assert len(server.calls) == 1


def test_none_is_one_page_and_asks_for_no_size_that_could_cut_it(server: responses.RequestsMock) -> None:
    answers(server, page("A-1", "A-2", nextCursor="x"))
    assert rest(URL, paging="none").ids() == ["A-1", "A-2"]
    assert asked(server) == [{"status": "active"}]


# --- what is in a page ------------------------------------------------------------------------


def test_a_bare_list_is_a_page(server: responses.RequestsMock) -> None:
    answers(server, [item("A-1"), "A-2"])
    assert rest(URL, items="@", paging="none").ids() == ["A-1", None]


@pytest.mark.parametrize(
    ("document", "shape"),
    [
        ({"data": [{"accountName": "Smith"}], "total": 1}, "an object with 'data', 'total'"),
        ({"accounts": {"A-1": {"accountName": "Smith"}}}, "an object with 'accounts'"),
        ({}, "an empty object"),
        ([{"accountName": "Smith"}], "a list"),
        ("Smith", "no object"),
        (7, "no object"),
    ],
)
def test_a_page_without_the_list_is_told_by_its_keys(
    server: responses.RequestsMock, document: object, shape: str
) -> None:
    answers(server, document)
    text = str(failure())
    assert "'accounts'" in text
    assert shape in text
    assert "Smith" not in text


def test_an_expression_that_does_not_fit_is_an_error(server: responses.RequestsMock) -> None:
    answers(server, {"accounts": [{"accountId": "A-1", "opened": "2020"}]})
    for items in ("sort_by(accounts, &nosuch)", "accounts[?opened > `2019`]"):
        assert repr(items) in str(failure(items=items, paging="none"))
    assert "'length(nosuch)'" in str(failure(next_cursor="length(nosuch)"))


def test_numbers_never_pass_through_a_binary_float(server: responses.RequestsMock) -> None:
    body = '{"accounts": [{"accountId": 12345678901234567890, "accountName": 0.10, "status": 1.0},'
    body += ' {"accountId": 1.5, "accountName": NaN, "status": 1.00}]}'
    server.get(URL, body=body)
    first, second = rest(URL, active=["1.0"]).source.accounts()
    assert (first.account_id, first.name, first.active) == ("12345678901234567890", "0.10", True)
    assert (second.account_id, second.name, second.active) == (None, "", False)


def test_a_byte_order_mark_does_no_harm(server: responses.RequestsMock) -> None:
    server.get(URL, body=b"\xef\xbb\xbf" + json.dumps(page("A-1")).encode())
    assert rest(URL).ids() == ["A-1"]


def test_pages_are_told(server: responses.RequestsMock) -> None:
    nameless = {"accounts": [{"accountId": "A-3", "status": "active"}]}
    answers(server, page("A-1", "A-2", nextCursor="x"), nameless)
    listed = rest(URL)
    listed.ids()
    assert listed.listener.named("accounts_page") == [{"page": 1, "rows": 2}, {"page": 2, "rows": 1}]
    assert listed.listener.named("accounts_unnamed") == [{"page": 2, "rows": 1}]


# --- again, or not ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 520])
def test_these_are_asked_again(server: responses.RequestsMock, status: int) -> None:
    server.get(URL, status=status)
    server.get(URL, status=status)
    answers(server, page("A-1"))
    listed = rest(URL, attempts=3)
    assert listed.ids() == ["A-1"]
    retries = listed.listener.named("accounts_retry")
    assert [(retry["page"], retry["attempt"], retry["error"]) for retry in retries] == [
        (1, 1, f"HTTP {status}"),
        (1, 2, f"HTTP {status}"),
    ]
    assert [retry["wait"] for retry in retries] == listed.clock.slept


@pytest.mark.parametrize(
    "body", ["<html>busy</html>", "", "{", '{"accounts": [', "1e9999999999999999999", "[" * 100_000]
)
def test_what_is_no_json_is_asked_again(server: responses.RequestsMock, body: str) -> None:
    server.get(URL, body=body)
    answers(server, page("A-1"))
    assert rest(URL).ids() == ["A-1"]


def test_after_the_last_attempt_the_error_says_where_how_often_and_why(server: responses.RequestsMock) -> None:
    answers(server, page("A-1", nextCursor="secret-cursor"))
    server.get(URL, status=503)
    text = str(failure(attempts=4, params={"key": "secret-parameter"}))
    assert "accounts.example/v1/accounts" in text
    assert "page 2" in text
    assert "4 attempt" in text
    assert "HTTP 503" in text
    assert "secret" not in text
    assert len(server.calls) == 5


def test_each_page_has_its_own_attempts(server: responses.RequestsMock) -> None:
    for number in range(4):
        server.get(URL, status=500)
        answers(server, page(f"A-{number}", nextCursor=number + 1 if number < 3 else None))
    assert len(rest(URL, attempts=2).ids()) == 4


def test_backoff_is_exponential_with_full_jitter(server: responses.RequestsMock) -> None:
    server.get(URL, status=500)
    waits: list[list[float]] = []
    for _ in range(40):
        listed = rest(URL, attempts=11)
        with pytest.raises(AccountSystemError):
            listed.ids()
        waits.append(listed.clock.slept)
    for number, tries in enumerate(zip(*waits, strict=True)):
        longest = min(60.0, 0.5 * 2**number)
        assert longest * 0.6 < max(tries) <= longest
        assert min(tries) < longest * 0.4
    assert len(waits[0]) == 10


@pytest.mark.parametrize("status", [400, 404, 405, 410, 422, 204, 300, 304])
def test_these_are_not_asked_again(server: responses.RequestsMock, status: int) -> None:
    server.get(URL, status=status)
    assert f"HTTP {status}" in str(failure())
    assert len(server.calls) == 1


# --- throttled --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_the_server_asks_for_is_waited_and_costs_no_attempt(
    server: responses.RequestsMock, status: int
) -> None:
    for _ in range(3):
        server.get(URL, status=status, headers={"Retry-After": "7"})
    answers(server, page("A-1"))
    listed = rest(URL, attempts=1)
    assert listed.ids() == ["A-1"]
    assert listed.clock.slept == [7.0, 7.0, 7.0]


def test_a_date_is_measured_by_the_servers_own_clock(server: responses.RequestsMock) -> None:
    headers = {"Date": formatdate(1000, usegmt=True), "Retry-After": formatdate(1090, usegmt=True)}
    server.get(URL, status=429, headers=headers)
    answers(server, page("A-1"))
    listed = rest(URL)
    listed.ids()
    assert listed.clock.slept == [90.0]


@pytest.mark.parametrize("value", ["0", "-5", "soon", "", "1.5", formatdate(0, usegmt=True)])
def test_429_without_a_usable_time_still_waits_a_little(server: responses.RequestsMock, value: str) -> None:
    server.get(URL, status=429, headers={"Retry-After": value})
    answers(server, page("A-1"))
    listed = rest(URL, attempts=1)
    assert listed.ids() == ["A-1"]
    assert listed.clock.slept == [1.0]


@pytest.mark.parametrize("value", ["901", "99999999999999999999", "9" * 400])
def test_more_than_a_quarter_of_an_hour_is_not_waited(server: responses.RequestsMock, value: str) -> None:
    server.get(URL, status=429, headers={"Retry-After": value})
    listed = rest(URL)
    with pytest.raises(AccountSystemError, match="900 s is not waited"):
        listed.ids()
    assert listed.clock.slept == []


def test_all_waits_together_are_bounded(server: responses.RequestsMock) -> None:
    server.get(URL, status=503, headers={"Retry-After": "0"})
    listed = rest(URL)
    with pytest.raises(AccountSystemError, match="900 s is not waited"):
        listed.ids()
    assert sum(listed.clock.slept) == 900.0


# --- credentials ------------------------------------------------------------------------------


BEARER: dict[str, Any] = {"auth": {"kind": "bearer", "token": {"env": "TOKEN"}}}


def sent(server: responses.RequestsMock, header: str = "Authorization") -> list[str | None]:
    return [call.request.headers.get(header) for call in server.calls]


def test_after_401_the_secret_is_read_again_once(
    server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "first")
    listed = rest(URL, **BEARER)
    monkeypatch.setenv("TOKEN", "second")
    server.get(URL, status=401)
    answers(server, page("A-1"))
    assert listed.ids() == ["A-1"]
    assert sent(server) == ["Bearer first", "Bearer second"]
    assert listed.clock.slept == []


@pytest.mark.parametrize(("status", "times"), [(401, 2), (403, 1)])
def test_refused_credentials_are_said_to_be_refused(
    server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, status: int, times: int
) -> None:
    monkeypatch.setenv("TOKEN", "the-token")
    server.get(URL, status=status)
    error = failure(**BEARER)
    assert "credentials" in str(error)
    assert "[accounts.auth]" in error.advice
    assert "the-token" not in str(error)
    assert len(server.calls) == times


@pytest.mark.parametrize("paging", ["link", "redirect"])
def test_another_server_never_sees_the_credentials(
    server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, paging: str
) -> None:
    monkeypatch.setenv("TOKEN", "the-token")
    auth = {"kind": "header", "name": "X-API-Key", "value": {"env": "TOKEN"}}
    there = "https://accounts.example:8443/v1/accounts"
    if paging == "link":
        server.get(URL, json=page("A-1"), headers={"Link": f'<{there}>; rel="next"'})
    else:
        server.get(URL, status=302, headers={"Location": there})
    answers(server, page("A-2"), url=there)
    assert rest(URL, auth=auth, paging="link").ids()[-1] == "A-2"
    assert sent(server, "X-API-Key") == ["the-token", None]


def oauth(server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("CLIENT_SECRET", "the-client-secret")
    secret = {"env": "CLIENT_SECRET"}
    return {"auth": {"kind": "oauth2", "token_url": TOKEN_URL, "client_id": "esg", "client_secret": secret}}


TOKEN_URL = "https://login.example/token"


def test_a_login_server_that_is_away_costs_attempts(
    server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.post(TOKEN_URL, status=503)
    error = failure(attempts=3, **oauth(server, monkeypatch))
    assert "3 attempt" in str(error)
    assert "login" in str(error)
    assert len(server.calls) == 3


def test_a_login_that_is_refused_ends_it_at_once(
    server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.post(TOKEN_URL, status=401, json={"error": "invalid_client"})
    error = failure(**oauth(server, monkeypatch))
    assert "login" in str(error)
    assert "[accounts.auth]" in error.advice
    assert "the-client-secret" not in str(error)
    assert len(server.calls) == 1


def test_a_token_refused_in_the_middle_of_the_list_is_renewed(
    server: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        server.post(TOKEN_URL, json={"access_token": f"token-{number}", "expires_in": 3600})
    answers(server, page("A-1", nextCursor="x"))
    server.get(URL, status=401)
    answers(server, page("A-2"))
    assert rest(URL, **oauth(server, monkeypatch)).ids() == ["A-1", "A-2"]
    assert sent(server)[1::3] == ["Bearer token-1", "Bearer token-2"]
