"""The worked examples of docs/integration.md, each against a real server of that shape."""

from __future__ import annotations

import base64
import json
import re
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from esgbatch.clock import SystemClock
from esgbatch.config.model import Config
from esgbatch.http.auth import authenticator
from esgbatch.model import Reason, Verdict
from esgbatch.observability.progress import Broadcast
from esgbatch.ratings.client import CurlRatings
from esgbatch.wiring import open_source

PAGE = Path(__file__).parents[2] / "docs" / "integration.md"
REST = {
    "encryption": {"recipients": ["/k.asc"], "fingerprints": ["0" * 40]},
    "delivery": {
        "host": "h", "username": "u", "private_key": "/k", "known_hosts": "/h", "directory": "/d"
    },
}  # fmt: skip
SECRET = "a-secret-of-the-test"
ACCOUNTS = [(f"P {number}/é", f"Trust {number}", number % 3 != 0) for number in range(1, 8)]
ACTIVE = [(account, name) for account, name, active in ACCOUNTS if active]

# Given method, path, query, headers and body: status, answer, and headers to send.
Answer = tuple[int, object, dict[str, str]]
Shape = Callable[[str, str, dict[str, str], dict[str, str], bytes], Answer]


@contextmanager
def served(shape: Shape) -> Iterator[str]:
    """A server of this shape on this machine; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer, more = shape(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def example(vendor: str) -> str:
    """The configuration under the vendor's heading, as it stands there."""
    section = PAGE.read_text().partition(f"### Vendor {vendor}:")[2]
    found = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert found
    return found.group(1)


def configured(text: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in re.findall(r'env = "(\w+)"', text):
        monkeypatch.setenv(name, SECRET)
    return Config.model_validate(tomllib.loads(text) | REST)


def listed(config: Config) -> list[tuple[str | None, str]]:
    source = open_source(config, SystemClock(), Broadcast([]))
    return [(each.account_id, each.name) for each in source.accounts() if each.active]


def rated(config: Config, account_id: str) -> tuple[Verdict, tuple[Decimal, ...], Reason | None]:
    answer = CurlRatings(config.ratings, authenticator(config.ratings)).rate(account_id)
    return answer.verdict, answer.scores, answer.reason


def decimals(*texts: str) -> tuple[Decimal, ...]:
    return tuple(map(Decimal, texts))


def vendor_a(method: str, path: str, query: dict[str, str], headers: dict[str, str], _: bytes) -> Answer:
    if path == "/clients":
        if headers.get("x-api-key") != SECRET or query["state"] != "OPEN":
            return 401, {}, {}
        start, count = int(query["start"]), int(query["count"])
        # As strict as a real one may be: never more than three rows.
        rows = [
            {"id": account, "displayName": name, "state": "OPEN" if active else "CLOSED"}
            for account, name, active in ACCOUNTS[start : start + min(count, 3)]
        ]
        return 200, {"data": {"items": rows}}, {}
    if headers.get("authorization") != f"Bearer {SECRET}" or path != "/v2/esg":
        return 401, {}, {}
    if query["portfolio"] != ACTIVE[0][0]:
        return 404, {"error": "unknown"}, {}
    pillars = [
        {"pillar": name, "value": value} for name, value in (("S", "64.1"), ("E", "71.235"), ("G", "80"))
    ]
    return 200, {"result": pillars, "total": {"value": "70.0"}}, {}


def vendor_b(method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
    if path == "/portfolios":
        login = base64.b64encode(f"esgbatch:{SECRET}".encode()).decode()
        if headers.get("authorization") != f"Basic {login}":
            return 401, [], {}
        page = int(query.get("page", "1"))
        rows = [
            {"ref": account, "holder": {"name": name}, "flags": {"live": active}}
            for account, name, active in ACCOUNTS[(page - 1) * 4 : page * 4]
        ]
        more = {"Link": f'</portfolios?page={page + 1}>; rel="next"'} if page * 4 < len(ACCOUNTS) else {}
        return 200, rows, more
    if method != "POST" or headers.get("x-api-key") != SECRET:
        return 401, {}, {}
    if json.loads(body) != {"query": {"portfolio": ACTIVE[0][0]}}:
        return 200, {"scores": {"e": 10.01, "s": 1, "g": 1, "all": 1}}, {}
    return 200, {"scores": {"e": 7.125, "s": 6, "g": 9.999, "all": 10}}, {}


def vendor_c(method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
    if path == "/oauth/token":
        told = dict(parse_qsl(body.decode()))
        basic = base64.b64encode(f"esgbatch:{SECRET}".encode()).decode()
        if told.get("client_secret") != SECRET and headers.get("authorization") != f"Basic {basic}":
            return 401, {"error": "invalid_client"}, {}
        return 200, {"access_token": "a-token-for-an-hour", "token_type": "Bearer", "expires_in": 3600}, {}
    if headers.get("authorization") != "Bearer a-token-for-an-hour":
        return 401, {}, {}
    if path != "/api/P%201%2F%C3%A9":
        return 410, {}, {}
    values = {"env": {"score": 71.235}, "soc": {"score": 64.1}, "gov": {"score": 80}, "total": {"score": 71.8}}
    return 200, {"esg": {"values": values, "carbon": {"intensity": 12.5}}}, {}


def test_vendor_a(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(vendor_a) as base:
        text = example("A").replace("page_size = 500", "page_size = 3")
        config = configured(re.sub(r"https://\w+\.example", base, text), monkeypatch)
        assert listed(config) == ACTIVE
        assert rated(config, ACTIVE[0][0]) == (
            Verdict.RATED,
            decimals("71.24", "64.10", "80.00", "70.00"),
            None,
        )
        assert rated(config, ACTIVE[1][0])[2] is Reason.NO_RATING


def test_vendor_b(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(vendor_b) as base:
        config = configured(re.sub(r"https://\w+\.example", base, example("B")), monkeypatch)
        assert listed(config) == ACTIVE
        assert rated(config, ACTIVE[0][0]) == (Verdict.RATED, decimals("7.13", "6.00", "10.00", "10.00"), None)
        assert rated(config, ACTIVE[1][0])[2] is Reason.BAD_RATING


def test_vendor_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "accounts.csv"
    lines = [f"{account},{name},{'A' if at % 2 else 'P'}" for at, (account, name) in enumerate(ACTIVE)]
    path.write_text("\n".join(["KONTO,NAME,ST", *lines, "X,Closed,C"]), encoding="utf-8")
    with served(vendor_c) as base:
        text = re.sub(r"https://\w+\.example", base, example("C")).replace("/data/accounts.csv", str(path))
        config = configured(text, monkeypatch)
        assert listed(config) == ACTIVE
        scores = decimals("71.24", "64.10", "80.00", "71.80", "12.50")
        assert rated(config, ACTIVE[0][0]) == (Verdict.RATED, scores, None)
        assert rated(config, ACTIVE[1][0])[2] is Reason.NO_RATING
        assert config.header[-2] == "Carbon Intensity"
