"""doctor and the firm's servers: each thing broken in turn is told by its own check."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.lease import lease
from esgbatch.cli.actions import doctor as checking
from esgbatch.clock import SystemClock
from esgbatch.operations.doctor import drop
from esgbatch.operations.doctor.findings import Status
from tests.acceptance.clinic import Clinic, admitted
from tests.acceptance.firm import DAY, TestFirm, firm
from tests.acceptance.sshd import Sshd, make_key
from tests.sockets.faultserver import (
    Answer,
    FaultServer,
    Peer,
    in_order,
    redirect,
    refused_port,
    respond,
)

GOOD = respond(200, b'{"scores": {"environmental": 1, "social": 2, "governance": 3, "overall": 4}}')


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("firm"), 300) as each:
        yield each


@pytest.fixture
def clinic(servers: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    with admitted(servers, tmp_path, monkeypatch) as each:
        yield each


# --- the account system -----------------------------------------------------------------------------


def test_account_system_down(clinic: Clinic):
    clinic.firm.server.switch(accounts_failures=-1)
    found = clinic.fails("account_system")
    assert "The last one failed: HTTP 503" in found.message
    assert found.advice == "when the account system answers again: `esgbatch doctor`"


def test_account_list_elsewhere(clinic: Clinic):
    clinic.set(ACCOUNTS__ITEMS="data.rows")
    assert "gave a page without a list at 'data.rows'" in clinic.fails("account_system").message


def test_account_system_asks_for_a_long_wait(clinic: Clinic):
    with FaultServer(respond(429, headers={"Retry-After": "60"})) as server:
        clinic.set(ACCOUNTS__URL=server.url)
        assert "asks us to wait 60 s" in clinic.fails("account_system").message


def test_the_list_is_asked_for_one_small_page(clinic: Clinic):
    items = ", ".join(
        f'{{"accountId": "A-{n:06d}", "accountName": "N", "status": "active"}}' for n in range(1, 101)
    )
    with FaultServer(respond(200, f'{{"accounts": [{items}], "nextCursor": "more"}}'.encode())) as server:
        clinic.set(ACCOUNTS__URL=server.url + "/accounts")
        assert clinic.ok("account_system") == "of the first 100 rows 100 are active accounts"
        (asked,) = (each for each in server.requests if each.method == "GET")
        assert "limit=100" in asked.query.split("&")


def test_an_empty_account_list(clinic: Clinic):
    with FaultServer(respond(200, b'{"accounts": []}')) as server:
        clinic.set(ACCOUNTS__URL=server.url)
        assert "listed no accounts" in clinic.fails("account_system").message


def test_accounts_without_a_usable_row_or_name(clinic: Clinic):
    clinic.set(ACCOUNTS__ACTIVE='["live"]')
    found = clinic.look()
    assert found["account_system"][0].status is Status.WARN
    assert "none of the first 100 rows is an active account" in found["account_system"][0].message
    assert found["esg_api"][0].message == "not asked: the account system gave no active account to ask for"
    clinic.set(ACCOUNTS__ACTIVE='["active"]', ACCOUNTS__NAME="title")
    assert clinic.warns("account_system").advice == "look at accounts.name"


def test_accounts_in_a_file(clinic: Clinic):
    path = clinic.folder / "accounts.csv"
    path.write_text("accountId,accountName\n" + "".join(f"A-{n:06d},N\n" for n in range(1, 6)))
    clinic.set(ACCOUNTS__SOURCE="csv", ACCOUNTS__PATH=path)
    assert clinic.ok("account_system") == "of the first 5 rows 5 are active accounts"
    path.unlink()
    assert "cannot be read: No such file" in clinic.fails("account_system").message


# --- the ESG API ------------------------------------------------------------------------------------


def test_login_refused(clinic: Clinic):
    secret = clinic.folder / "secret"
    secret.touch(0o600)
    secret.write_text("wrong-secret")
    clinic.set(RATINGS__AUTH__CLIENT_SECRET=f'{{ file = "{secret}" }}')
    found = clinic.fails("token")
    assert "refused the client: HTTP 401" in found.message
    assert "wrong-secret" not in found.message


def test_login_down(clinic: Clinic):
    clinic.firm.server.switch(token_failures=-1)
    assert "answered HTTP 503" in clinic.fails("token").message


def test_esg_api_down(clinic: Clinic):
    clinic.firm.server.switch(outage="503")
    found = clinic.fails("esg_api")
    assert found.message == "The ESG API does not answer as it should: HTTP 503."
    assert found.advice == "when the ESG API answers again: `esgbatch doctor`"


def test_one_account_without_a_rating_is_its_own_trouble(clinic: Clinic):
    first = clinic.firm.books.account_id(0)
    clinic.firm.server.switch(accounts={first: "no_rating"})
    before = clinic.firm.server.stats()["esg"]["requests"]
    assert clinic.ok("esg_api").startswith("rated an account in ")
    assert clinic.firm.server.stats()["esg"]["requests"] - before == 2


def test_no_account_with_a_rating_is_a_wrong_address_or_path(clinic: Clinic):
    clinic.firm.server.switch(accounts={clinic.firm.books.account_id(n): "no_rating" for n in range(3)})
    assert "no_rating, HTTP 404" in clinic.fails("esg_api").message
    clinic.firm.server.switch(accounts={})
    clinic.set(RATINGS__SCORES='[{ column = "E", path = "elsewhere" }]')
    found = clinic.fails("esg_api")
    assert "bad_rating" in found.message
    assert "[[ratings.scores]]" in found.advice


def test_esg_api_asks_for_a_wait(clinic: Clinic):
    with FaultServer(respond(429, headers={"Retry-After": "7"})) as server:
        clinic.set(RATINGS__URL=server.url + "/{account_id}")
        assert clinic.warns("esg_api").message == "it answers, and asks us to wait for 7 s (HTTP 429)"
        assert len(server.requests) == 1


def test_redirects_and_a_renewed_token_are_followed(clinic: Clinic):
    with FaultServer(in_order(respond(401), redirect("/there"), GOOD)) as server:
        clinic.set(RATINGS__URL=server.url + "/{account_id}")
        assert clinic.ok("esg_api").startswith("rated an account")
        first, again, last = (each.path for each in server.requests)
        assert (first == again, last) == (True, "/there")


def test_a_token_that_is_refused_twice(clinic: Clinic):
    with FaultServer(respond(401)) as server:
        clinic.set(RATINGS__URL=server.url + "/{account_id}")
        assert clinic.fails("esg_api").message == "The ESG API refuses our credentials: HTTP 401."


def test_requests_keep_to_the_rate_limit(clinic: Clinic):
    arrivals: list[float] = []

    def answer(peer: Peer) -> None:
        arrivals.append(time.monotonic())
        respond(404)(peer)

    with FaultServer(answer) as server:
        clinic.set(RATINGS__URL=server.url + "/{account_id}", RATINGS__RATE_LIMIT="4")
        clinic.fails("esg_api")
    assert len(arrivals) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(arrivals)) > 0.24


def test_while_a_run_is_at_work_its_quota_and_its_database_are_left_alone(clinic: Clinic):
    clinic.state.mkdir(mode=0o700)
    database = Database.sqlite(clinic.state / "checkpoint.sqlite")
    before = clinic.firm.server.stats()["esg"]["requests"]
    with lease(clinic.state, DAY, "run"), database.writing():
        found = clinic.look()
    database.close()
    assert clinic.firm.server.stats()["esg"]["requests"] == before
    (asked,), (kept,) = found["esg_api"], found["checkpoint"]
    assert (asked.status, kept.status) == (Status.WARN, Status.OK)
    assert "not asked: `esgbatch run`, process" in asked.message
    assert "writes to it" in kept.message


# --- the clock --------------------------------------------------------------------------------------


class ShiftedClock(SystemClock):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return super().time() + self._seconds


@pytest.mark.parametrize(("shift", "side"), [(40, "ahead of"), (-40, "behind")])
def test_a_clock_that_is_a_little_wrong(clinic: Clinic, shift: float, side: str):
    clinic.monkeypatch.setattr(checking, "CLOCK", ShiftedClock(shift))
    found = clinic.warns("clock")
    assert f" s {side} that of 127.0.0.1:" in found.message
    assert found.message.split()[4] in ("39", "40", "41")
    assert "timedatectl" in found.advice


def test_a_clock_that_is_wrong(clinic: Clinic):
    clinic.monkeypatch.setattr(checking, "CLOCK", ShiftedClock(400))
    assert " s ahead of that of 127.0.0.1:" in clinic.fails("clock").message
    clinic.monkeypatch.setattr(checking, "CLOCK", ShiftedClock(25))
    assert clinic.ok("clock").startswith("right to 2")


def test_the_esg_api_is_asked_for_the_time_where_nobody_else_is(clinic: Clinic):
    path = clinic.folder / "accounts.csv"
    path.write_text("accountId,accountName\nA-1,N\n")
    config = clinic.folder / "esgbatch.toml"
    text_before, _, rest = clinic.firm.config.read_text().partition("[alerts.pagerduty]")
    config.write_text(text_before + rest[rest.index("[logging]") :])
    clinic.monkeypatch.setattr(clinic, "firm", replace(clinic.firm, config=config))
    date = {"Date": formatdate(time.time() - 100, usegmt=True)}

    def answer(peer: Peer) -> None:
        (respond(405, headers=date) if peer.request.method == "HEAD" else GOOD)(peer)

    with FaultServer(answer) as server:
        clinic.set(
            ACCOUNTS__SOURCE="csv",
            ACCOUNTS__PATH=path,
            RATINGS__URL=server.url + "/{account_id}",
            RATINGS__AUTH='{ kind = "none" }',
        )
        assert "s ahead of that of" in clinic.warns("clock").message
        assert sorted(each.target for each in server.requests if each.method == "HEAD") == ["/"]


# --- the drop folder --------------------------------------------------------------------------------


def test_an_unknown_host_key(clinic: Clinic):
    empty = clinic.folder / "known_hosts"
    empty.touch()
    clinic.set(DELIVERY__KNOWN_HOSTS=empty)
    found = clinic.fails("sftp_login")
    assert "has no key for it" in found.message
    assert "ask the server's owner for its fingerprint" in found.advice
    clinic.set(DELIVERY__KNOWN_HOSTS=clinic.folder / "missing")
    assert "cannot be read" in clinic.fails("sftp_login").message


def test_another_host_key(clinic: Clinic):
    sshd = clinic.firm.sshd
    known = sshd.write_known_hosts(clinic.folder / "known_hosts", make_key(clinic.folder / "other"))
    clinic.set(DELIVERY__KNOWN_HOSTS=known)
    assert "expects ssh-ed25519 SHA256:" in clinic.fails("sftp_login").message


def test_a_login_that_is_refused(clinic: Clinic):
    clinic.set(DELIVERY__PRIVATE_KEY=make_key(clinic.folder / "stranger"))
    assert "refuses the login" in clinic.fails("sftp_login").message


def test_nobody_listens(clinic: Clinic):
    with refused_port() as port:
        clinic.set(DELIVERY__PORT=port)
        assert "does not do as it should: Connection refused" in clinic.fails("sftp_login").message


def test_a_frozen_sftp_server(clinic: Clinic):
    with Sshd(clinic.folder / "sshd") as sshd:
        clinic.deliver_to(sshd, DELIVERY__TIMEOUT="0.5")
        sshd.freeze()
        assert "took longer than 0.5 s" in clinic.fails("sftp_login").message
        sshd.thaw()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sftp_options": "-R"}, "a file cannot be written: "),
        ({"relay": ["corrupt:write:2"]}, "a file cannot be read back: it has other bytes than were sent"),
        ({"relay": ["deny:setstat:1"]}, "a file cannot be given the mode 0640: "),
        ({"sftp_options": "-P posix-rename"}, "a file cannot be "),
        ({"relay": ["hide:posix-rename@openssh.com"]}, "the server lacks posix-rename@openssh.com"),
        ({"relay": ["fail:remove:1"]}, "-old.tmp cannot be removed: "),
    ],
    ids=["write", "read", "chmod", "rename", "no-posix-rename", "remove"],
)
def test_what_a_delivery_needs_in_the_drop_folder(clinic: Clinic, options: dict[str, object], words: str):
    with Sshd(clinic.folder / "sshd", **options) as sshd:
        clinic.deliver_to(sshd)
        found = clinic.fails("drop_folder")
        assert f"In the drop folder {sshd.drop} on 127.0.0.1 " in found.message
        assert words in found.message
        assert "allowed to create, read, chmod, rename and remove" in found.advice
        assert list(sshd.drop.iterdir()) == []


def test_the_probe_of_a_killed_doctor_is_removed_by_a_later_one(clinic: Clinic):
    folder = clinic.firm.sshd.drop
    old, young, other = (folder / f".esgbatch-doctor-{name}.tmp" for name in ("old", "young", "x"))
    other = folder / ".esgbatch-doctor-notes.txt"
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 2 * drop.ABANDONED,) * 2)
    try:
        clinic.ok("drop_folder")
        assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
    finally:
        for path in (old, young, other):
            path.unlink(missing_ok=True)


# --- mail, pager, metrics ---------------------------------------------------------------------------


def test_mail_troubles(clinic: Clinic):
    with refused_port() as port:
        clinic.set(ALERTS__EMAIL__PORT=port)
        assert "cannot be reached: Connection refused" in clinic.fails("email").message
    clinic.set(ALERTS__EMAIL__PORT=clinic.firm.server.places.mail.port)
    clinic.firm.server.switch(mail_failures=-1)
    found = clinic.fails("email")
    assert "does not take the sender: 451 4.3.0 Try again later" in found.message
    clinic.firm.server.switch(mail_failures=0)
    secret = clinic.folder / "secret"
    secret.touch(0o600)
    secret.write_text("wrong-password")
    clinic.set(ALERTS__EMAIL__PASSWORD=f'{{ file = "{secret}" }}')
    found = clinic.fails("email")
    assert "refuses our login: 535" in found.message
    assert "alerts.email.username and password" in found.advice


def test_a_mail_server_of_another_authority(clinic: Clinic):
    clinic.set(ALERTS__EMAIL__CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt")
    assert "certificate: " in clinic.fails("email").message


def smtp_server(replies: dict[str, bytes], commands: list[str]) -> tuple[int, Callable[[], None]]:
    """Answers each command with its reply, or with 250; returns the port and how to close it."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock, sock.makefile("rb") as lines:
            sock.sendall(replies.get("", b"220 hello\r\n"))
            for line in lines:
                commands.append(line.decode().strip())
                sock.sendall(replies.get(line[:4].decode().upper(), b"250 fine\r\n"))

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], listener.close


@pytest.mark.parametrize(
    ("replies", "security", "words"),
    [
        ({"RCPT": b"550 no such user\r\n"}, "none", "does not take recipient 1 of 1: 550 no such user"),
        ({}, "starttls", "STARTTLS extension not supported"),
        ({"": b"421 too busy\r\n"}, "none", "does not do what is needed: 421 too busy"),
    ],
    ids=["recipient", "no-starttls", "greeting"],
)
def test_what_a_mail_needs(clinic: Clinic, replies: dict[str, bytes], security: str, words: str):
    commands: list[str] = []
    port, close = smtp_server(replies, commands)
    config = clinic.folder / "esgbatch.toml"
    lines = clinic.firm.config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("security", "password", 'username = "esgbatch"'))]
    config.write_text("\n".join(kept))
    clinic.monkeypatch.setattr(clinic, "firm", replace(clinic.firm, config=config))
    clinic.set(ALERTS__EMAIL__PORT=port, ALERTS__EMAIL__SECURITY=security)
    assert words in clinic.fails("email").message
    assert not [each for each in commands if each.upper().startswith("DATA")]
    close()


def test_pagerduty(clinic: Clinic):
    invalid = respond(400, b'{"status": "invalid event"}')
    with FaultServer(in_order(respond(405), invalid)) as server:
        clinic.set(ALERTS__PAGERDUTY__URL=server.url)
        clinic.look()
        (sent,) = [each for each in server.requests if each.method == "POST"]
        assert (sent.path, sent.body) == ("/v2/enqueue", b"{}")


def by_method(head: Answer, post: Answer) -> Answer:
    return lambda peer: (head if peer.request.method == "HEAD" else post)(peer)


def test_pagerduty_troubles(clinic: Clinic):
    clinic.firm.server.switch(pager_failures=-1)
    assert "answers HTTP 500 where it should answer 400" in clinic.fails("pagerduty").message
    with FaultServer(by_method(respond(405), respond(429))) as server:
        clinic.set(ALERTS__PAGERDUTY__URL=server.url)
        assert "HTTP 429" in clinic.warns("pagerduty").message
    with refused_port() as port:
        clinic.set(ALERTS__PAGERDUTY__URL=f"http://127.0.0.1:{port}")
        assert "cannot be reached: Connection refused" in clinic.fails("pagerduty").message


def test_a_routing_key_that_is_none(clinic: Clinic):
    clinic.monkeypatch.setenv("KEY", "short")
    clinic.set(ALERTS__PAGERDUTY__ROUTING_KEY='{ env = "KEY" }')
    found = clinic.warns("pagerduty")
    assert "a routing key has 32 characters" in found.message


def test_the_metrics_file(clinic: Clinic):
    clinic.set(METRICS__TEXTFILE=clinic.folder / "textfile" / "esgbatch.prom")
    assert "is not there" in clinic.fails("metrics_textfile").message
    (clinic.folder / "textfile").mkdir()
    assert clinic.ok("metrics_textfile") == f"{clinic.folder}/textfile can be written"
    assert list((clinic.folder / "textfile").iterdir()) == []
    clinic.set(METRICS__TEXTFILE=clinic.folder / "textfile" / "esgbatch.txt")
    assert "node_exporter reads no esgbatch.txt" in clinic.warns("metrics_textfile").message
    clinic.set(METRICS__TEXTFILE=clinic.folder / "textfile")
    assert "is a folder" in clinic.fails("metrics_textfile").message


def test_the_pushgateway(clinic: Clinic):
    with FaultServer(in_order(respond(200), respond(503), respond(404))) as server:
        clinic.set(METRICS__PUSHGATEWAY=server.url + "/")
        assert clinic.ok("pushgateway") == "127.0.0.1 is ready"
        assert server.requests[0].target == "/-/ready"
        assert "answers HTTP 503" in clinic.fails("pushgateway").message
        assert "answers HTTP 404; a pushgateway says 200" in clinic.warns("pushgateway").message
    assert "cannot be reached" in clinic.fails("pushgateway").message


def test_the_heartbeat(clinic: Clinic):
    with FaultServer(respond(200)) as server:
        clinic.set(METRICS__HEARTBEAT_URL=server.url + "/ping")
        assert clinic.ok("heartbeat") == "127.0.0.1 has an address"
        assert server.requests == []
    clinic.set(METRICS__HEARTBEAT_URL="https://switch.invalid/ping")
    found = clinic.fails("heartbeat")
    assert "switch.invalid, has no address" in found.message
