"""The account list from servers that misbehave on the wire."""

from __future__ import annotations

import gzip
import json
import ssl
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from esgbatch.accounts import fetcher
from esgbatch.errors import AccountSystemError, ConfigError
from tests.accounts import Rest, item, rest
from tests.sockets.certificates import Authority, server_context
from tests.sockets.faultserver import (
    Answer,
    FaultServer,
    Peer,
    close_at_once,
    cut,
    drip,
    head,
    in_order,
    redirect,
    refused_port,
    reset_at_once,
    respond,
    respond_json,
    stall,
)

PAGE = json.dumps({"accounts": [item("A-1"), item("A-2")]}).encode()
GOOD = respond(200, PAGE)
GZIP = {"Content-Encoding": "gzip"}


def failure(listed: Rest) -> AccountSystemError:
    with pytest.raises(AccountSystemError) as caught:
        listed.ids()
    return caught.value


def raw(data: bytes) -> Answer:
    """These bytes, then the end of the connection."""

    def answer(peer: Peer) -> None:
        peer.send(data)
        peer.close()

    return answer


def drip_raw(data: bytes, *, pause: float) -> Answer:
    """These bytes, one at a time."""

    def answer(peer: Peer) -> None:
        for byte in data:
            peer.send(bytes([byte]))
            if peer.stopping.wait(pause):
                return

    return answer


# --- worth another attempt --------------------------------------------------------------------

FAULTS: dict[str, tuple[Answer, str]] = {
    "reset at once": (reset_at_once, "Connection reset by peer"),
    "closed at once": (close_at_once, "closed without an answer"),
    "reset in the body": (cut(PAGE, at=20, reset=True), "Connection reset by peer"),
    "body too short": (cut(PAGE, at=len(PAGE) - 1), "cut short"),
    "no HTTP": (raw(b"220 mail.example ESMTP\r\n\r\n"), "no valid HTTP"),
    "endless header": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n" + PAGE), "no valid HTTP"),
    "too many headers": (raw(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n" + PAGE), "no valid HTTP"),
    "broken chunk": (
        raw(head(200, headers={"Transfer-Encoding": "chunked"}) + b"zz\r\n" + PAGE),
        "cut short",
    ),
    "last chunk missing": (
        raw(head(200, headers={"Transfer-Encoding": "chunked"}) + b"5\r\n[1,2]\r\n"),
        "cut short",
    ),
    "no gzip": (respond(200, PAGE, GZIP), "not compressed"),
    "gzip cut": (raw(head(200, headers=GZIP) + gzip.compress(PAGE)[:-20]), "no JSON"),
    "HTML": (respond(200, b"<html>Please log in</html>", {"Content-Type": "text/html"}), "no JSON"),
    "length too small": (
        raw(head(200, length=len(PAGE) - 1, headers={"Connection": "close"}) + PAGE),
        "no JSON",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_survived_and_named(fault: str) -> None:
    answer, named = FAULTS[fault]
    with FaultServer(in_order(answer, answer, GOOD)) as server:
        listed = rest(server.url, attempts=3)
        assert listed.ids() == ["A-1", "A-2"]
    retries = listed.listener.named("accounts_retry")
    assert len(retries) == len(listed.clock.slept) == 2
    for retry in retries:
        assert named in str(retry["error"])
        assert "http" not in str(retry["error"])


def test_a_refused_connection_is_tried_again_and_named() -> None:
    with refused_port() as port:
        listed = rest(f"http://127.0.0.1:{port}/v1/accounts?key=secret", attempts=3)
        text = str(failure(listed))
    assert f"127.0.0.1:{port}/v1/accounts" in text
    assert "3 attempt" in text
    assert "Connection refused" in text
    assert "secret" not in text
    assert len(listed.clock.slept) == 2


def test_an_idle_connection_is_kept_for_the_next_page() -> None:
    pages = [respond_json({"accounts": [item("A-1")], "nextCursor": cursor}) for cursor in ("1", "2", None)]
    with FaultServer(in_order(*pages)) as server:
        rest(server.url).ids()
        assert [request.connection for request in server.requests] == [0, 0, 0]


# --- never for ever ---------------------------------------------------------------------------

SLOW: dict[str, Answer] = {
    "stalled": stall,
    "body drips": drip(PAGE, pause=0.02),
    "body drips in chunks": drip_raw(
        head(200, headers={"Transfer-Encoding": "chunked"}) + b"1\r\n \r\n" * 100, pause=0.02
    ),
    "chunk's size drips": drip_raw(
        head(200, headers={"Transfer-Encoding": "chunked"}) + b"1;" + b"x" * 500, pause=0.02
    ),
    "headers drip": drip_raw(head(200, headers={"X": "x" * 500}), pause=0.02),
}


def elapsed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@pytest.mark.parametrize("fault", SLOW)
def test_a_page_has_one_time_limit_however_slowly_it_comes(fault: str) -> None:
    with FaultServer(in_order(SLOW[fault], GOOD)) as server:
        listed = rest(server.url, timeout=0.4)
        assert elapsed(listed.ids) < 2  # the whole of it would take two seconds and more
    assert [retry["error"] for retry in listed.listener.named("accounts_retry")] == ["timed out"]


def test_the_time_limit_holds_through_a_proxy() -> None:
    with FaultServer(in_order(drip(PAGE, pause=0.02), GOOD)) as proxy:
        listed = rest("http://127.0.0.1:9/v1/accounts", proxy=proxy.url, timeout=0.4)
        assert elapsed(listed.ids) < 2
        assert proxy.requests[0].target.startswith("http://127.0.0.1:9/v1/accounts?")


def test_the_time_limit_holds_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    answer = in_order(drip(PAGE, pause=0.02), GOOD)
    with FaultServer(answer, tls=server_context(authority.sign("127.0.0.1"))) as server:
        listed = rest(server.url, ca_bundle=str(authority.pem), timeout=0.4)
        assert elapsed(listed.ids) < 2


# --- never too much ---------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    monkeypatch.setattr(fetcher, "MAX_PAGE_BYTES", 2 * 1024 * 1024)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b" " * 1024 * 1024) for _ in range(200)) + packer.flush()
    if layers == 2:
        bomb = gzip.compress(bomb)
    answer = respond(200, bomb, {"Content-Encoding": ", ".join(["gzip"] * layers)})
    with FaultServer(in_order(answer, GOOD)) as server:
        listed = rest(server.url)
        tracemalloc.start()
        assert listed.ids() == ["A-1", "A-2"]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20 * 1024 * 1024
    assert listed.listener.named("accounts_retry")[0]["error"] == "the page is larger than 2 MiB"


def test_an_endless_body_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MAX_PAGE_BYTES", 1024 * 1024)

    def endless(peer: Peer) -> None:
        peer.send(head(200))
        while not peer.stopping.is_set():
            peer.send(b" " * 65536)

    with FaultServer(in_order(endless, GOOD)) as server:
        listed = rest(server.url)
        assert listed.ids() == ["A-1", "A-2"]
    assert "larger than 1 MiB" in str(listed.listener.named("accounts_retry"))


def test_a_large_gzip_page_is_read() -> None:
    accounts = [item(f"A-{number}") for number in range(20_000)]
    body = gzip.compress(json.dumps({"accounts": accounts}).encode())
    with FaultServer(respond(200, body, GZIP)) as server:
        assert len(rest(server.url).ids()) == 20_000
        assert "gzip" in server.requests[0].headers["accept-encoding"]


# --- redirects --------------------------------------------------------------------------------


def header_auth(monkeypatch: pytest.MonkeyPatch, kind: str) -> tuple[dict[str, Any], str]:
    monkeypatch.setenv("SECRET", "the-secret")
    if kind == "X-API-Key":
        return {"auth": {"kind": "header", "name": kind, "value": {"env": "SECRET"}}}, "x-api-key"
    return {"auth": {"kind": "bearer", "token": {"env": "SECRET"}}}, "authorization"


@pytest.mark.parametrize("kind", ["X-API-Key", "Authorization"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_another_server_never_sees_the_credential(
    monkeypatch: pytest.MonkeyPatch, kind: str, status: int
) -> None:
    auth, header = header_auth(monkeypatch, kind)
    with (
        FaultServer(GOOD) as there,
        FaultServer(redirect(there.url + "/there?x=1", status)) as here,
    ):
        assert rest(here.url + "/here", **auth).ids() == ["A-1", "A-2"]
        assert "the-secret" in here.requests[0].headers[header]
        assert there.requests[0].target == "/there?x=1"
        assert "the-secret" not in str(there.requests[0].headers)


@pytest.mark.parametrize("kind", ["X-API-Key", "Authorization"])
def test_the_same_server_sees_it_after_a_relative_redirect(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    auth, header = header_auth(monkeypatch, kind)
    with FaultServer(in_order(redirect("/elsewhere"), redirect("again?x=1"), GOOD)) as server:
        assert rest(server.url + "/v1/accounts", **auth).ids() == ["A-1", "A-2"]
        paths = [request.path for request in server.requests]
        assert paths == ["/v1/accounts", "/elsewhere", "/again"]
        assert all("the-secret" in request.headers[header] for request in server.requests)


def test_an_endless_redirect_ends_at_once() -> None:
    with FaultServer(redirect("/round")) as server:
        text = str(failure(rest(server.url + "/v1/accounts")))
        assert "redirects" in text
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://accounts.example/x",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://[",
        "http://u:p@127.0.0.1/",
    ],
)
def test_a_redirect_to_where_we_do_not_go_ends_at_once(location: str) -> None:
    with FaultServer(redirect(location)) as server:
        text = str(failure(rest(server.url + "/v1/accounts")))
        assert "do not go" in text
        assert len(server.requests) == 1


def test_https_never_leads_to_plain_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        FaultServer(GOOD) as plain,
        FaultServer(redirect(plain.url), tls=server_context(authority.sign("127.0.0.1"))) as server,
    ):
        assert "plain http" in str(failure(rest(server.url, ca_bundle=str(authority.pem))))
        assert plain.requests == []


def test_the_body_of_a_redirect_is_not_read() -> None:
    def endless(peer: Peer) -> None:
        peer.send(head(302, headers={"Location": "/there"}))
        while not peer.stopping.is_set():
            peer.send(b" " * 65536)

    with FaultServer(in_order(endless, GOOD)) as server:
        listed = rest(server.url, timeout=5)
        assert elapsed(listed.ids) < 2
        assert listed.clock.slept == []


def test_bytes_beyond_ascii_in_an_address_are_kept() -> None:
    def answer(peer: Peer) -> None:
        peer.send("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /Zürich?x=%2F\r\n\r\n".encode())

    with FaultServer(in_order(answer, GOOD)) as server:
        assert rest(server.url).ids() == ["A-1", "A-2"]
        assert server.requests[1].target == "/Z%C3%BCrich?x=%2F"


def test_a_redirect_without_an_address_ends_at_once() -> None:
    with FaultServer(respond(302)) as server:
        assert "HTTP 302" in str(failure(rest(server.url)))


# --- TLS --------------------------------------------------------------------------------------


def test_a_ca_of_our_own_is_trusted_where_it_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"))) as server:
        assert rest(server.url, ca_bundle=str(authority.pem)).ids() == ["A-1", "A-2"]


@pytest.mark.parametrize(
    ("host", "days", "trusted", "named"),
    [
        ("127.0.0.1", 1, False, "unable to get local issuer"),
        ("127.0.0.2", 1, True, "not valid for '127.0.0.1'"),
        ("127.0.0.1", -1, True, "expired"),
    ],
)
def test_a_certificate_that_is_not_good_ends_it_at_once(
    tmp_path: Path, host: str, days: int, trusted: bool, named: str
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "Another CA")
    with FaultServer(GOOD, tls=server_context(authority.sign(host, days=days))) as server:
        listed = rest(server.url, ca_bundle=str((authority if trusted else other).pem))
        error = failure(listed)
        assert named in str(error)
        assert "ca_bundle" in error.advice
        assert server.requests == []
        assert listed.clock.slept == []


def test_tls_that_fails_for_another_reason_is_worth_another_attempt(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = server_context(authority.sign("127.0.0.1"))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # which the certificate's kind of key cannot serve
    with FaultServer(GOOD, tls=tls) as server:
        listed = rest(server.url, ca_bundle=str(authority.pem), attempts=2)
        assert "TLS: " in str(failure(listed))
        assert len(listed.clock.slept) == 1


def test_our_own_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.sign("esgbatch")
    tls = server_context(authority.sign("127.0.0.1"), clients=authority)
    both = tmp_path / "both.pem"
    both.write_bytes(ours.cert.read_bytes() + ours.key.read_bytes())
    with FaultServer(GOOD, tls=tls) as server:
        bundle = str(authority.pem)
        files = {"client_cert": str(ours.cert), "client_key": str(ours.key)}
        assert rest(server.url, ca_bundle=bundle, **files).ids() == ["A-1", "A-2"]
        assert rest(server.url, ca_bundle=bundle, client_cert=str(both)).ids() == ["A-1", "A-2"]
        failure(rest(server.url, ca_bundle=bundle, attempts=1))
        assert len(server.requests) == 2


def encrypted_key(path: Path) -> Path:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"passphrase")
    target = path.with_suffix(".encrypted")
    target.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return target


def test_certificate_files_that_cannot_be_used_are_said_before_anything_is_asked(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path).sign("esgbatch"), Authority(tmp_path, "Another CA").sign("other")
    empty = tmp_path / "empty.pem"
    empty.touch()
    wrong: list[dict[str, str]] = [
        {"ca_bundle": str(tmp_path / "nosuch.pem")},
        {"ca_bundle": str(empty)},
        {"client_cert": str(tmp_path / "nosuch.pem")},
        {"client_cert": str(ours.cert)},
        {"client_cert": str(ours.cert), "client_key": str(other.key)},
        {"client_cert": str(ours.cert), "client_key": str(encrypted_key(ours.key))},
    ]
    with FaultServer(GOOD) as server:
        for files in wrong:
            with pytest.raises(ConfigError, match=r"(?i)bundle|certificate"):
                rest(server.url, **files).ids()
        assert server.requests == []


def test_ssl_cert_file_is_heeded_where_nothing_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
    with FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"))) as server:
        assert rest(server.url).ids() == ["A-1", "A-2"]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nosuch.pem"))
        with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
            rest(server.url).ids()


# --- the environment --------------------------------------------------------------------------


def test_the_environments_proxies_and_passwords_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.touch(0o600)
    netrc.write_text("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nosuch")
    with refused_port() as port, FaultServer(GOOD) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        assert rest(server.url).ids() == ["A-1", "A-2"]
        assert "authorization" not in server.requests[0].headers
        assert server.requests[0].headers["user-agent"].startswith("esgbatch/")
