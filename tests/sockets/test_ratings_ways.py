"""The ways to the ESG API: log-ins, redirects, proxies and TLS, and that credentials stay where they belong."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from esgbatch.config.model import Ratings
from esgbatch.errors import ConfigError
from esgbatch.http import trust
from esgbatch.model import Verdict
from tests.sockets.certificates import Authority, Pair, server_context
from tests.sockets.faultserver import (
    FaultServer,
    Peer,
    close_at_once,
    in_order,
    redirect,
    refused_port,
    respond,
    respond_json,
)
from tests.sockets.provider import (
    ACCOUNT,
    API_KEY,
    BEARER,
    GOOD,
    TOKEN,
    oauth2,
    provider,
    rate,
    ways,
)

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESG_TOKEN", TOKEN)


# --- logging in -------------------------------------------------------------------------------


def test_a_refused_secret_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(in_order(respond(401), GOOD)) as server:
        client = provider(server.url, auth=API_KEY)
        monkeypatch.setenv("ESG_TOKEN", "rotated")
        assert client.rate(ACCOUNT).verdict is Verdict.UNAUTHORIZED
        assert client.rate(ACCOUNT).verdict is Verdict.RATED
        assert [request.headers["x-api-key"] for request in server.requests] == [TOKEN, "rotated"]


def test_a_refused_secret_that_is_gone_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(respond(401)) as server:
        client = provider(server.url, auth=API_KEY)
        monkeypatch.delenv("ESG_TOKEN")
        assert client.rate(ACCOUNT).verdict is Verdict.UNAUTHORIZED


@pytest.mark.parametrize(
    ("login", "verdict", "detail"),
    [
        (respond(503), Verdict.TRANSIENT, "login: the token endpoint answered HTTP 503"),
        (close_at_once, Verdict.TRANSIENT, "login: the token endpoint failed"),
        (respond(401), Verdict.LOGIN_REFUSED, "the token endpoint refused the client: HTTP 401"),
    ],
)
def test_a_login_that_fails_sends_nothing(login: Callable[[Peer], None], verdict: Verdict, detail: str) -> None:
    with FaultServer(login) as gate, FaultServer(GOOD) as server:
        answer = rate(server.url, auth=oauth2(gate))
        assert (answer.verdict, answer.http_status) == (verdict, None)
        assert answer.detail.startswith(detail)
        assert not server.requests


def test_nobody_logs_in_after_an_abort() -> None:
    with FaultServer(respond_json({"access_token": "t"})) as gate:
        client = provider("https://esg.example", auth=oauth2(gate))
        client.abort()
        assert client.rate(ACCOUNT).detail == "stopped"
        assert not gate.requests


def test_a_token_is_renewed_after_401() -> None:
    tokens = in_order(*(respond_json({"access_token": f"t{n}", "token_type": "Bearer"}) for n in (1, 2)))
    with FaultServer(tokens) as gate, FaultServer(in_order(GOOD, respond(401), GOOD)) as server:
        client = provider(server.url, auth=oauth2(gate))
        verdicts = [client.rate(ACCOUNT).verdict for _ in range(3)]
        assert verdicts == [Verdict.RATED, Verdict.UNAUTHORIZED, Verdict.RATED]
        sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer t1", "Bearer t1", "Bearer t2"]
        assert len(gate.requests) == 2


def test_a_secret_lost_before_the_login_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(respond(200)) as gate, FaultServer(GOOD) as server:
        client = provider(server.url, auth=oauth2(gate))
        monkeypatch.delenv("ESG_TOKEN")
        assert client.rate(ACCOUNT).verdict is Verdict.LOGIN_REFUSED
        assert not server.requests


# --- redirects --------------------------------------------------------------------------------


def test_a_redirect_is_followed_by_the_next_attempt() -> None:
    with FaultServer(in_order(redirect("../moved?to=%2F"), GOOD, GOOD)) as server:
        client = provider(server.url, auth=BEARER)
        first = client.rate(ACCOUNT)
        assert (first.verdict, first.http_status, len(server.requests)) == (Verdict.REDIRECTED, 302, 1)
        assert client.rate("another").verdict is Verdict.RATED
        assert client.rate(ACCOUNT).verdict is Verdict.RATED
        assert not client._api._redirected
        targets = [request.target for request in server.requests]
        assert targets[1:] == ["/v1/accounts/another/esg", "/v1/accounts/moved?to=%2F"]
        assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in server.requests)


@pytest.mark.parametrize(("auth", "header"), [(BEARER, "authorization"), (API_KEY, "x-api-key")])
def test_another_origin_sees_no_credential(auth: dict[str, object], header: str) -> None:
    """Another port is another origin (RFC 6454); on the way back home the credential goes along again."""
    with FaultServer(GOOD) as home, FaultServer(GOOD) as stranger:
        home._answer = in_order(redirect(stranger.url + "/x"), GOOD)
        stranger._answer = redirect(home.url + "/back")
        client = provider(home.url, auth=auth)
        verdicts = [client.rate(ACCOUNT).verdict for _ in range(3)]
        assert verdicts == [Verdict.REDIRECTED, Verdict.REDIRECTED, Verdict.RATED]
        assert header not in stranger.requests[0].headers
        assert TOKEN not in str(stranger.requests[0])
        assert [request.headers[header] for request in home.requests] == [home.requests[0].headers[header]] * 2


def test_redirects_come_to_an_end() -> None:
    with FaultServer(redirect("/round")) as server:
        client = provider(server.url)
        answers = [client.rate(ACCOUNT) for _ in range(7)]
        assert [answer.verdict for answer in answers[:5]] == [Verdict.REDIRECTED] * 5
        assert (answers[5].verdict, answers[5].detail) == (Verdict.TRANSIENT, "more than 5 redirects")
        assert server.requests[6].target == f"/v1/accounts/{ACCOUNT}/esg", "a new attempt starts anew"


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "ftp://esg.example/x",
        "file:///etc/passwd",
        "http://esg.example/plain",
        "http://localhost:99999/",
        "javascript:alert(1)",
        "http://[::1",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_nowhere(location: str | None, status: int) -> None:
    headers = {} if location is None else {"Location": location}
    with FaultServer(respond(status, headers=headers)) as server:
        client = provider(server.url)
        answer = client.rate(ACCOUNT)
        assert not client._api._redirected
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, f"HTTP {status} without a usable Location")


def test_a_location_beyond_ascii() -> None:
    with FaultServer(GOOD) as server:
        server._answer = in_order(redirect(server.url + "/caf\xe9 x?\xff"), GOOD)
        client = provider(server.url)
        assert client.rate(ACCOUNT).verdict is Verdict.REDIRECTED
        assert client.rate(ACCOUNT).verdict is Verdict.RATED
        assert server.requests[1].target.lower() == "/caf%e9%20x?%ff"


def test_no_other_protocol_is_spoken() -> None:
    """Whatever should come past the checks of the configuration and of redirects."""
    config = Ratings(url="https://esg.example/{account_id}").model_copy(update={"url": "file:///etc/hostname"})
    answer = ways.open(config).rate(ACCOUNT)
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, "no valid HTTP")


@pytest.mark.parametrize(
    ("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")]
)
def test_the_method_of_a_redirected_post(status: int, method: str) -> None:
    with FaultServer(in_order(redirect("/x", status), GOOD, GOOD)) as server:
        client = provider(server.url, method="POST", body={"id": "{account_id}"})
        for _ in range(3):
            client.rate(ACCOUNT)
        sent = [(request.method, request.body) for request in server.requests]
    body = b'{"id": "%s"}' % ACCOUNT.encode()
    assert sent == [("POST", body), (method, body if method == "POST" else b""), ("POST", body)]


# --- proxies ----------------------------------------------------------------------------------


def test_a_proxy_is_used_whatever_the_environment_excepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with FaultServer(GOOD) as proxy, refused_port() as port:
        answer = rate(f"http://127.0.0.1:{port}", proxy=proxy.url)
        assert answer.verdict is Verdict.RATED
        assert proxy.requests[0].target == f"http://127.0.0.1:{port}/v1/accounts/{ACCOUNT}/esg"


def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(GOOD) as server, refused_port() as port:
        for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert rate(server.url).verdict is Verdict.RATED


def test_a_proxy_that_refuses() -> None:
    with FaultServer(respond(407)) as proxy:
        answer = rate("https://esg.example", proxy=proxy.url, auth=BEARER)
        (request,) = proxy.requests
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, "the proxy answered HTTP 407")
    assert (request.method, request.target) == ("CONNECT", "esg.example:443")
    assert TOKEN not in str(request)


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_server_of_our_authority(authority: Authority) -> None:
    with FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"))) as server:
        client = provider(server.url, ca_bundle=str(authority.pem), auth=BEARER)
        assert [client.rate(ACCOUNT).verdict for _ in range(3)] == [Verdict.RATED] * 3
        assert server.connections == 1


def expired(authority: Authority) -> Pair:
    return authority.sign("127.0.0.1", days=-1)


def elsewhere(authority: Authority) -> Pair:
    return authority.sign("esg.example")


def stranger(authority: Authority) -> Pair:
    return Authority(authority.pem.parent, "Stranger").sign("127.0.0.1")


@pytest.mark.parametrize(
    ("certificate", "detail"),
    [
        (expired, "certificate: certificate has expired"),
        (elsewhere, "certificate: for another host"),
        (stranger, "certificate: unable to get local issuer certificate"),
    ],
)
def test_a_server_that_cannot_prove_itself(
    authority: Authority, certificate: Callable[[Authority], Pair], detail: str
) -> None:
    with FaultServer(GOOD, tls=server_context(certificate(authority))) as server:
        answer = rate(server.url, ca_bundle=str(authority.pem), auth=BEARER)
        assert not server.requests
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, detail)


def test_an_authority_nobody_named_is_not_trusted(authority: Authority) -> None:
    with FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"))) as server:
        assert rate(server.url).detail.startswith("certificate: ")


def test_of_the_systems_authorities_only_the_one_needed_is_loaded(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of all of them costs 0.8 MiB a connection; a folder that knows others is not used."""
    folder, bundle = tmp_path / "certs", tmp_path / "bundle.pem"
    folder.mkdir()
    others = [Authority(folder, f"Other {number}") for number in range(3)]
    (folder / "ours.pem").write_bytes(authority.pem.read_bytes())
    bundle.write_bytes(b"".join(each.read_bytes() for each in folder.iterdir()))
    subprocess.run(["openssl", "rehash", folder], check=True)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(trust, "SYSTEM_BUNDLES", (bundle,))
    monkeypatch.setattr(trust, "SYSTEM_FOLDERS", (tmp_path / "nowhere", folder))

    assert trust.ca_folder(str(authority.pem)) is None
    assert trust.ca_folder(str(bundle)) == str(folder)
    for good, verdict in ((authority, Verdict.RATED), (others[1], Verdict.RATED), (None, Verdict.TRANSIENT)):
        signed = (good or Authority(tmp_path, "Stranger")).sign("127.0.0.1")
        with FaultServer(GOOD, tls=server_context(signed)) as server:
            assert rate(server.url).verdict is verdict
    Authority(folder, "Smuggled in")
    subprocess.run(["openssl", "rehash", folder], check=True)
    assert trust.ca_folder(str(bundle)) is None
    with FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"))) as server:
        assert rate(server.url).verdict is Verdict.RATED


def test_our_own_certificate(authority: Authority) -> None:
    ours = authority.sign("esgbatch")
    tls = server_context(authority.sign("127.0.0.1"), clients=authority)
    with FaultServer(GOOD, tls=tls) as server:
        trusted = {"ca_bundle": str(authority.pem)}
        options = {"client_cert": str(ours.cert), "client_key": str(ours.key), **trusted}
        assert rate(server.url, **options).verdict is Verdict.RATED
        assert rate(server.url, **trusted).verdict is Verdict.TRANSIENT
        assert len(server.requests) == 1


def test_certificate_and_key_in_one_file(authority: Authority, tmp_path: Path) -> None:
    ours = authority.sign("esgbatch")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.cert.read_bytes() + ours.key.read_bytes())
    with FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"), clients=authority)) as server:
        answer = rate(server.url, ca_bundle=str(authority.pem), client_cert=str(both))
    assert answer.verdict is Verdict.RATED


@pytest.mark.parametrize("option", ["ca_bundle", "client_cert", "client_key"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificate_files_are_looked_at_beforehand(
    authority: Authority, tmp_path: Path, option: str, content: str | None
) -> None:
    ours = authority.sign("esgbatch")
    wrong = tmp_path / "wrong.pem"
    if content is not None:
        wrong.write_text(content)
    files = {"client_cert": str(ours.cert), "client_key": str(ours.key), option: str(wrong)}
    with pytest.raises(ConfigError):
        provider("https://esg.example", **files)


def test_a_key_of_another_certificate(authority: Authority) -> None:
    cert, key = authority.sign("esgbatch").cert, authority.sign("esgbatch").key
    with pytest.raises(ConfigError, match="cannot be used"):
        provider("https://esg.example", client_cert=str(cert), client_key=str(key))


def test_no_redirect_leads_out_of_tls(authority: Authority) -> None:
    with FaultServer(GOOD) as plain:
        tls = server_context(authority.sign("127.0.0.1"))
        with FaultServer(redirect(plain.url + "/x"), tls=tls) as server:
            client = provider(server.url, ca_bundle=str(authority.pem))
            answers = [client.rate(ACCOUNT) for _ in range(2)]
        assert not plain.requests
    assert [answer.verdict for answer in answers] == [Verdict.TRANSIENT] * 2
    assert answers[0].detail == "redirected from https to plain http"


def test_a_tunnel_through_a_proxy_keeps_the_credential_inside(authority: Authority) -> None:
    def tunnel(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        with socket.create_connection((server.host, server.port)) as upstream:
            back = threading.Thread(target=copy, args=(upstream, peer._sock))
            back.start()
            copy(peer._sock, upstream)
            back.join()

    with (
        FaultServer(GOOD, tls=server_context(authority.sign("esg.example"))) as server,
        FaultServer(tunnel) as proxy,
    ):
        ca = str(authority.pem)
        answer = rate("https://esg.example", proxy=proxy.url, ca_bundle=ca, auth=BEARER)
        assert answer.verdict is Verdict.RATED
        assert (proxy.requests[0].method, proxy.requests[0].target) == ("CONNECT", "esg.example:443")
        assert TOKEN not in str(proxy.requests[0])
        assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


# --- held back --------------------------------------------------------------------------------


def test_a_request_is_held_back_at_the_last_moment_and_keeps_its_way() -> None:
    """The connection stands by then; nothing is sent, and a redirect is not forgotten."""
    says = iter([True, False, True])
    with FaultServer(in_order(redirect("/moved"), GOOD)) as server:
        client = ways.open(Ratings(url=server.url + "/{account_id}"), before_sending=lambda: next(says))
        verdicts = [client.rate(ACCOUNT).verdict for _ in range(3)]
        assert verdicts == [Verdict.REDIRECTED, Verdict.LOST, Verdict.RATED]
        assert [request.target for request in server.requests] == [f"/{ACCOUNT}", "/moved"]
