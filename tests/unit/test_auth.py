"""Which credential goes with a request, and how it is renewed: once, in time, for all threads."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from esgbatch.config.model import OAuth2Auth, Web
from esgbatch.config.secrets import Secret, redact
from esgbatch.errors import ConfigError
from esgbatch.http.auth import ClientCredentials, Credential, LoginRefused, LoginUnavailable, authenticator
from tests.sockets.faultserver import (
    Answer,
    FaultServer,
    Peer,
    close_at_once,
    in_order,
    redirect,
    refused_port,
    respond,
    respond_json,
)

THREADS = 16


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret/+ value")


def web(**auth: Any) -> Web:
    return Web.model_validate({"auth": auth})


# --- fixed credentials ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"kind": "none"}, None),
        ({"kind": "bearer", "token": {"env": "SECRET"}}, Credential("Authorization", "Bearer s3cret/+ value")),
        (
            {"kind": "header", "name": "X-API-Key", "value": {"env": "SECRET"}},
            Credential("X-API-Key", "s3cret/+ value"),
        ),
        (
            {"kind": "basic", "username": "Jörg", "password": {"env": "SECRET"}},
            Credential("Authorization", "Basic " + base64.b64encode("Jörg:s3cret/+ value".encode()).decode()),
        ),
    ],
)
def test_each_kind_has_its_header(auth: dict[str, Any], expected: Credential | None) -> None:
    assert authenticator(web(**auth)).credential() == expected


def test_a_basic_credential_is_redacted_in_its_encoded_form_too() -> None:
    credential = authenticator(web(kind="basic", username="u", password={"env": "SECRET"})).credential()
    assert credential is not None
    assert redact(credential.value) == "Basic [redacted]"


@pytest.mark.parametrize("value", ["two\nlines", "naïve", "a\tb", "\x7f"])
@pytest.mark.parametrize("kind", ["bearer", "header"])
def test_what_no_header_can_carry_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: str, value: str
) -> None:
    monkeypatch.setenv("SECRET", value)
    auth = (
        {"name": "X-API-Key", "value": {"env": "SECRET"}} if kind == "header" else {"token": {"env": "SECRET"}}
    )
    with pytest.raises(ConfigError) as caught:
        authenticator(web(kind=kind, **auth))
    assert value not in str(caught.value)


def test_a_password_may_be_any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "p\udcffw")  # as os.environ gives a byte that is no UTF-8
    credential = authenticator(web(kind="basic", username="u", password={"env": "SECRET"})).credential()
    assert credential == Credential("Authorization", "Basic " + base64.b64encode(b"u:p\xffw").decode())


@pytest.mark.parametrize("kind", ["bearer", "oauth2"])
def test_a_missing_secret_is_said_at_once(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("SECRET")
    auth: dict[str, Any] = {"token": {"env": "SECRET"}}
    if kind == "oauth2":
        secret = {"env": "SECRET"}
        auth = {"token_url": "https://login.example/", "client_id": "esg", "client_secret": secret}
    with pytest.raises(ConfigError, match="SECRET"):
        authenticator(web(kind=kind, **auth))


def test_a_refused_secret_is_read_again(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.touch(0o600)
    secret.write_text("first\n")
    found = authenticator(web(kind="bearer", token={"file": str(secret)}))
    first = found.credential()
    secret.write_text("second\n")
    assert found.credential() == first == Credential("Authorization", "Bearer first")
    found.refused(first)
    assert found.credential() == Credential("Authorization", "Bearer second")
    secret.write_text("third\n")
    found.refused(first)  # by a slow thread: it is not the current one any more
    assert found.credential() == Credential("Authorization", "Bearer second")


def test_a_secret_that_cannot_be_read_again_leaves_the_refused_one(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.touch(0o600)
    secret.write_text("first")
    found = authenticator(web(kind="bearer", token={"file": str(secret)}))
    secret.unlink()
    found.refused(found.credential())
    assert found.credential() == Credential("Authorization", "Bearer first")


def test_a_secret_is_always_ready(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.touch(0o600)
    secret.write_text("first")
    for found in (
        authenticator(web(kind="none")),
        authenticator(web(kind="bearer", token={"file": str(secret)})),
    ):
        assert found.ready()
        found.refused(found.credential())
        assert found.ready(), "nobody is asked but a file"


# --- OAuth2 -----------------------------------------------------------------------------------


class Login:
    """A login server, a client of it, and the client's clock."""

    def __init__(self, answer: Answer, *, scope: str = "", path: str = "/token") -> None:
        self.now = 1000.0
        self.server = FaultServer(answer)
        auth = OAuth2Auth(
            kind="oauth2",
            token_url=self.server.url + path,
            client_id="esg/batch",
            client_secret=Secret(env="SECRET"),
            scope=scope,
        )
        self.client = ClientCredentials(auth, Web(), monotonic=lambda: self.now)

    @property
    def calls(self) -> int:
        return len(self.server.requests)

    def token(self) -> str:
        return self.client.credential().value.removeprefix("Bearer ")


@pytest.fixture
def login() -> Iterator[Callable[..., Login]]:
    made: list[Login] = []

    def make(answer: Answer, **options: Any) -> Login:
        made.append(Login(answer, **options))
        made[-1].server.__enter__()
        return made[-1]

    yield make
    for one in made:
        one.server.__exit__(None, None, None)


def tokens(expires_in: object = 3600, **more: object) -> Answer:
    """token-1, token-2, …, each living so long; None: no `expires_in`."""
    given = iter(range(1, 10_000))

    def answer(peer: Peer) -> None:
        life = {} if expires_in is None else {"expires_in": expires_in}
        respond_json({"access_token": f"token-{next(given)}", "token_type": "Bearer", **life, **more})(peer)

    return answer


def test_the_client_asks_as_rfc_6749_says(login: Callable[..., Login]) -> None:
    one = login(tokens(), scope="esg.read esg.list", path="/token?tenant=7")
    assert one.client.credential() == Credential("Authorization", "Bearer token-1")
    request = one.server.requests[0]
    assert (request.method, request.target) == ("POST", "/token?tenant=7")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    scope = ["esg.read esg.list"]
    assert parse_qs(request.body.decode()) == {"grant_type": ["client_credentials"], "scope": scope}
    pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    assert pair == "esg%2Fbatch:s3cret%2F%2B+value"  # 2.3.1: both are form-encoded first
    assert redact("token-1") == "[redacted]"


def test_without_a_scope_none_is_asked_for(login: Callable[..., Login]) -> None:
    one = login(tokens())
    one.token()
    assert parse_qs(one.server.requests[0].body.decode()) == {"grant_type": ["client_credentials"]}


@pytest.mark.parametrize(
    ("expires_in", "renewed_after"), [(3600, 3540.0), (60, 54.0), (3, 2.7), ("3600", 3540.0), (0.5, 0.45)]
)
def test_a_token_is_renewed_before_it_expires(
    login: Callable[..., Login], expires_in: object, renewed_after: float
) -> None:
    one = login(tokens(expires_in))
    assert one.token() == "token-1"
    one.now += renewed_after - 0.01
    assert one.token() == "token-1"
    one.now += 0.02
    assert one.token() == "token-2"
    assert one.calls == 2


@pytest.mark.parametrize("expires_in", [None, "soon", 0, -5, [], {}, float("nan"), float("inf"), 10**400])
def test_without_a_usable_life_a_token_serves_until_it_is_refused(
    login: Callable[..., Login], expires_in: object
) -> None:
    one = login(tokens(expires_in))
    first = one.client.credential()
    one.now += 1e9
    assert one.client.credential() == first
    one.client.refused(first)
    assert one.token() == "token-2"


def test_sixteen_threads_make_one_call_at_each_expiry(login: Callable[..., Login]) -> None:
    one = login(tokens(3))
    barrier = threading.Barrier(THREADS)

    def ask(_: int) -> str:
        barrier.wait(10)
        return one.token()

    with ThreadPoolExecutor(THREADS) as pool:
        for expiry in range(1, 6):
            assert set(pool.map(ask, range(THREADS))) == {f"token-{expiry}"}
            assert one.calls == expiry
            one.now += 3


def test_sixteen_refusals_of_one_token_make_one_call(login: Callable[..., Login]) -> None:
    one = login(tokens())
    first = one.client.credential()
    barrier = threading.Barrier(THREADS)

    def refuse(_: int) -> str:
        barrier.wait(10)
        one.client.refused(first)
        return one.token()

    with ThreadPoolExecutor(THREADS) as pool:
        assert set(pool.map(refuse, range(THREADS))) == {"token-2"}
    assert one.calls == 2


def test_only_the_current_token_can_be_refused(login: Callable[..., Login]) -> None:
    one = login(tokens())
    first = one.client.credential()
    one.client.refused(first)
    second = one.client.credential()
    one.client.refused(first)
    one.client.refused(None)
    assert one.client.credential() == second
    assert one.calls == 2


def test_a_token_is_ready_until_it_is_to_be_renewed_or_refused(login: Callable[..., Login]) -> None:
    one = login(tokens(3600))
    assert not one.client.ready()
    assert one.calls == 0, "it asks nobody"
    first = one.client.credential()
    assert one.client.ready()
    one.now += 3539.9
    assert one.client.ready()
    one.now += 0.2
    assert not one.client.ready(), "though it holds for another minute"
    second = one.client.credential()
    assert one.client.ready()
    one.client.refused(first)
    assert one.client.ready()
    one.client.refused(second)
    assert not one.client.ready()
    assert one.calls == 2


def test_a_token_that_could_not_be_renewed_but_still_holds_is_ready(login: Callable[..., Login]) -> None:
    one = login(in_order(tokens(3600), respond(503)))
    one.token()
    one.now += 3545
    assert not one.client.ready()
    one.token()
    assert one.client.ready()
    one.now += 5.1
    assert not one.client.ready()


@contextlib.contextmanager
def renewal_under_way(login: Callable[..., Login], renewal: Answer) -> Iterator[Login]:
    """A token that holds for another minute, and is being renewed; at the end the login server answers."""
    go = threading.Event()

    def slow(peer: Peer) -> None:
        go.wait(10)
        renewal(peer)

    one = login(in_order(tokens(3600), slow, respond_json({"access_token": "token-9"})))
    one.token()
    one.now += 3550

    def renew() -> None:
        with contextlib.suppress(LoginUnavailable):
            one.token()

    renewing = threading.Thread(target=renew)
    renewing.start()
    one.server.wait_for(2)
    yield one
    go.set()
    renewing.join(10)
    assert not renewing.is_alive()


def test_a_refusal_does_not_wait_for_a_renewal_under_way(login: Callable[..., Login]) -> None:
    with renewal_under_way(login, respond_json({"access_token": "token-2"})) as one:
        began = time.monotonic()
        one.client.refused(Credential("Authorization", "Bearer token-1"))
        assert time.monotonic() - began < 5
        assert not one.client.ready()
    assert one.token() == "token-2"
    assert one.calls == 2


def test_a_token_refused_during_a_renewal_that_fails_is_not_used_again(login: Callable[..., Login]) -> None:
    """It still holds, says its `expires_in`; the API knows better."""
    with renewal_under_way(login, respond(503)) as one:
        one.client.refused(Credential("Authorization", "Bearer token-1"))
    assert not one.client.ready()
    assert one.token() == "token-9"


def test_refusals_of_an_old_token_do_not_hide_one_of_the_current(login: Callable[..., Login]) -> None:
    """As many threads hear of a 401 at once."""
    one = login(tokens())
    old = one.client.credential()
    one.client.refused(old)
    for number in range(2, 7):
        current = one.client.credential()
        assert current.value == f"Bearer token-{number}"
        stop = threading.Event()

        def refuse_the_old(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                one.client.refused(old)

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(THREADS):
                pool.submit(refuse_the_old)
            one.client.refused(current)
            stop.set()
        assert not one.client.ready()


def test_threads_that_wait_for_a_login_that_fails_share_the_failure(login: Callable[..., Login]) -> None:
    go = threading.Event()

    def slow(peer: Peer) -> None:
        go.wait(10)
        one.now += 30
        respond(503)(peer)

    one = login(in_order(slow, tokens()))
    waiting = threading.Semaphore(0)

    def watched() -> float:
        now = one.now
        waiting.release()
        return now

    one.client._monotonic = watched

    def ask(_: int) -> str:
        with pytest.raises(LoginUnavailable, match="503") as caught:
            one.client.credential()
        return str(caught.value)

    with ThreadPoolExecutor(THREADS) as pool:
        asked = pool.map(ask, range(THREADS))
        for _ in range(THREADS + 1):  # everybody on arrival, and the one that asks
            assert waiting.acquire(timeout=10)
        go.set()
        assert len(set(asked)) == 1
    assert one.calls == 1
    assert one.token() == "token-1"


def test_a_login_server_that_is_away_does_not_end_a_token_that_still_holds(login: Callable[..., Login]) -> None:
    one = login(in_order(tokens(3600), respond(503)))
    assert one.token() == "token-1"
    one.now += 3545
    assert one.token() == "token-1"
    assert one.calls == 2
    one.now += 4
    assert one.token() == "token-1"
    assert one.calls == 2  # not at every request
    one.now += 2
    assert one.token() == "token-1"
    assert one.calls == 3
    one.now += 50
    with pytest.raises(LoginUnavailable):
        one.token()


@pytest.mark.parametrize("status", [400, 401, 403])
def test_these_refuse_the_client(login: Callable[..., Login], status: int) -> None:
    with pytest.raises(LoginRefused, match=str(status)):
        login(respond_json({"error": "invalid_client"}, status=status)).token()


@pytest.mark.parametrize(
    "answer",
    [
        *(respond(status) for status in (404, 429, 500, 503, 201)),
        respond(200, b"<html>"),
        respond(200, b"[" * 50_000),
        respond(200, b" " * 70_000),
        respond_json({}),
        respond_json([]),
        *(respond_json({"access_token": token}) for token in (None, "", "a b", "a\nb", "naïve", 7)),
        close_at_once,
        redirect("https://login.example/"),
    ],
)
def test_these_are_worth_another_try(login: Callable[..., Login], answer: Answer) -> None:
    one = login(in_order(answer, tokens()))
    with pytest.raises(LoginUnavailable) as caught:
        one.token()
    assert "naïve" not in str(caught.value)
    assert one.token() == "token-1"


def test_a_login_server_that_is_not_there_is_worth_another_try() -> None:
    with refused_port() as port:
        url = f"http://127.0.0.1:{port}/"
        auth = OAuth2Auth(kind="oauth2", token_url=url, client_id="esg", client_secret=Secret(env="SECRET"))
        with pytest.raises(LoginUnavailable, match="Connection refused"):
            ClientCredentials(auth, Web()).credential()


def test_a_rotated_client_secret_is_taken_up(
    login: Callable[..., Login], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = login(tokens())
    first = one.client.credential()
    monkeypatch.setenv("SECRET", "rotated")
    one.client.refused(first)
    one.token()
    sent = [base64.b64decode(request.headers["authorization"][6:]) for request in one.server.requests]
    assert sent == [b"esg%2Fbatch:s3cret%2F%2B+value", b"esg%2Fbatch:rotated"]


def test_a_client_secret_that_has_gone_refuses_the_login(
    login: Callable[..., Login], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = login(tokens())
    monkeypatch.delenv("SECRET")
    with pytest.raises(LoginRefused, match="SECRET"):
        one.token()
    assert one.calls == 0
