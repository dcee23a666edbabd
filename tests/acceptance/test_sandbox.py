"""The sandbox as a process: it starts, speaks every protocol to ordinary clients, and ends."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import signal
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import paramiko
import pytest

from esgbatch.sandbox.__main__ import main
from esgbatch.sandbox.data import Firm, entry_json
from esgbatch.sandbox.launch import RunningSandbox, SandboxFailed, sandbox
from esgbatch.sandbox.server import Options, Sandbox

SOURCE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    """One sandbox with everything off, for tests that leave it so."""
    with sandbox(
        "--root", str(tmp_path_factory.mktemp("sandbox")), "--accounts", "3000", "--seed", "5"
    ) as running:
        yield running


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)


def token(running: RunningSandbox) -> str:
    login = running.places.login
    form = {
        "grant_type": "client_credentials",
        "client_id": login.client_id,
        "client_secret": login.client_secret,
        "scope": login.scope,
    }
    connection = connect(login.token_url)
    connection.request("POST", "/oauth/token", urllib.parse.urlencode(form))
    answer = json.load(connection.getresponse())
    connection.close()
    return str(answer["access_token"])


def rating_path(running: RunningSandbox, account_id: str) -> str:
    return urllib.parse.urlsplit(running.places.ratings_url).path.replace(
        "{account_id}", urllib.parse.quote(account_id, "").replace(".", "%2E")
    )


# --- HTTP -----------------------------------------------------------------------------------------


def test_a_whole_list_and_ratings_over_one_connection_each(shared: RunningSandbox) -> None:
    firm = Firm(3000, 5, inactive=4, duplicates=3, refused=2, odd_ids=17)
    lists = connect(shared.places.accounts_urls["none"])
    lists.request("GET", "/v1/accounts-all?status=active")
    rows = json.load(lists.getresponse())["accounts"]
    active = firm.rows(0, firm.listed(active_only=True), active_only=True)
    assert rows == [json.loads(entry_json(row)) for row in active]

    before = shared.stats()
    authorization = {"Authorization": f"Bearer {token(shared)}"}
    ratings = connect(shared.places.ratings_url)
    for index in range(0, 3000, 7):
        ratings.request("GET", rating_path(shared, firm.account_id(index)), headers=authorization)
        response = ratings.getresponse()
        answer = json.loads(response.read(), parse_float=str, parse_int=str)
        assert response.status == 200
        assert answer["accountId"] == firm.account_id(index)
        assert tuple(answer["scores"].values()) == firm.scores(index)
        assert response.headers["Date"]
    after = shared.stats()
    assert after["esg"]["connections"] - before["esg"]["connections"] == 1
    assert after["esg"]["requests"] - before["esg"]["requests"] == 429
    assert after["login"]["issued"] - before["login"]["issued"] == 1


def test_with_tls_the_web_servers_have_a_certificate_of_the_sandboxs_own_ca(tmp_path: Path) -> None:
    with sandbox("--root", str(tmp_path), "--tls") as running:
        places = running.places
        trusted = ssl.create_default_context(cafile=places.ca_bundle)
        for url, status in (
            (places.accounts_url, 200),
            (places.ratings_url, 401),
            (places.login.token_url, 405),
        ):
            where = urllib.parse.urlsplit(url)
            assert where.scheme == "https"
            web = http.client.HTTPSConnection(where.netloc, timeout=10, context=trusted)
            web.request("GET", urllib.parse.quote(where.path))
            assert web.getresponse().status == status
            web.close()
        stranger = http.client.HTTPSConnection(urllib.parse.urlsplit(places.ratings_url).netloc, timeout=10)
        with pytest.raises(ssl.SSLCertVerificationError):
            stranger.connect()


def test_pipelined_requests_are_answered_in_order_and_bad_ones_refused(shared: RunningSandbox) -> None:
    address = urllib.parse.urlsplit(shared.places.accounts_urls["cursor"])
    wanted = [250, 1, 1000, 3]
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as client:
        for limit in wanted:
            client.sendall(b"GET /v1/accounts?limit=%d HTTP/1.1\r\nHost: x\r\n\r\n" % limit)
        client.sendall(b"HEAD /v1/accounts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b"".join(iter(lambda: client.recv(1 << 16), b""))
    *answers, last = data.split(b"HTTP/1.1 ")[1:]
    assert [answer.count(b'"accountName"') for answer in answers] == wanted
    assert last.startswith(b"405")
    assert last.endswith(b"\r\n\r\n"), "an answer to HEAD has no body"
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
        while client.recv(100):
            pass


def test_a_body_too_large_is_refused(shared: RunningSandbox) -> None:
    connection = connect(shared.places.ratings_post_url)
    connection.request("POST", "/v1/esg", b" " * ((1 << 20) + 1))
    response = connection.getresponse()
    assert response.status == 413
    response.read()
    connection.request("GET", "/nowhere")
    assert connection.getresponse().status == 401


def test_faults_on_the_wire(tmp_path: Path) -> None:
    with sandbox("--root", str(tmp_path), "--no-auth", "--account-fault", "A-000001=reset") as running:
        path = rating_path(running, "A-000001")
        connection = connect(running.places.ratings_url)
        connection.request("GET", path)
        with pytest.raises(http.client.IncompleteRead):
            connection.getresponse().read()
        connection.close()
        running.switch(accounts={}, outage="close")
        connection.request("GET", path)
        with pytest.raises(ConnectionError):
            connection.getresponse()
        connection.close()
        running.switch(outage="", latency=0.05)
        began = time.monotonic()
        connection.request("GET", path)
        assert connection.getresponse().status == 200
        assert time.monotonic() - began >= 0.05
        stats = running.stats()["esg"]
        assert (stats["cut"], stats["dropped"], stats["connections"]) == (1, 1, 3)
        assert (stats["requests"], stats["by_status"]) == (3, {"200": 2})
        assert running.places.login.token_url == ""


def test_the_control_endpoint(shared: RunningSandbox) -> None:
    old = token(shared)
    control, ratings = connect(shared.places.control_url), connect(shared.places.ratings_url)

    def rate(bearer: str) -> int:
        ratings.request("GET", rating_path(shared, "A-000001"), headers={"Authorization": f"Bearer {bearer}"})
        response = ratings.getresponse()
        response.read()
        return response.status

    assert rate(old) == 200
    assert shared.switch(revoke_tokens=True)["latency"] == 0.0
    assert (rate(old), rate(token(shared))) == (401, 200)
    for method, path, body, status in (
        ("POST", "/faults", '{"latency": "much"}', 400),
        ("POST", "/faults", "[1]", 400),
        ("POST", "/faults", "{", 400),
        ("DELETE", "/faults", "", 405),
        ("GET", "/", "", 404),
    ):
        control.request(method, path, body)
        response = control.getresponse()
        response.read()
        assert response.status == status
    control.request("GET", "/faults")
    assert json.load(control.getresponse())["accounts"] == {}


# --- SFTP -----------------------------------------------------------------------------------------


@contextmanager
def sftp(running: RunningSandbox, **changes: Any) -> Iterator[paramiko.SFTPClient]:
    place = running.places.sftp
    with paramiko.SSHClient() as client:
        client.load_host_keys(place.known_hosts)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        login = {"username": place.username, "key_filename": place.private_key} | changes
        client.connect(place.host, place.port, look_for_keys=False, allow_agent=False, timeout=10, **login)
        with client.open_sftp() as session:
            yield session


def test_a_delivery_into_the_drop(shared: RunningSandbox) -> None:
    place = shared.places.sftp
    drop = Path(place.folder)
    assert stat.S_IMODE(Path(place.private_key).stat().st_mode) == 0o600
    with sftp(shared) as session:
        for content in (b"one" * 50_000, b"two" * 60_000):
            with session.open(f"{place.directory}/.part", "wb") as file:
                file.write(content)
                file.flush()
                fsync = (paramiko.sftp.CMD_EXTENDED, "fsync@openssh.com", file.handle)
                reply, _ = session._request(*fsync)  # type: ignore[attr-defined]  # no public call for it
                assert reply == paramiko.sftp.CMD_STATUS
            session.chmod(f"{place.directory}/.part", 0o640)
            session.posix_rename(f"{place.directory}/.part", f"{place.directory}/file.pgp")
            assert (drop / "file.pgp").read_bytes() == content
        assert stat.S_IMODE((drop / "file.pgp").stat().st_mode) == 0o640
        assert session.listdir(place.directory) == ["file.pgp"]
        with session.open(f"{place.directory}/file.pgp", "rb") as file:
            assert file.read() == content
        session.remove(f"{place.directory}/file.pgp")


def test_nothing_outside_the_drop_is_seen(shared: RunningSandbox) -> None:
    with sftp(shared) as session:
        assert session.listdir("/") == ["esg"]
        assert session.listdir("/../..") == ["esg"]
        session.symlink("/../keys", "/esg/way-out")
        try:
            with pytest.raises(OSError):
                session.listdir("/esg/way-out")
        finally:
            session.remove("/esg/way-out")


def test_only_its_user_with_its_key_gets_in(shared: RunningSandbox) -> None:
    stranger = paramiko.ECDSAKey.generate()
    for changes in ({"username": "root"}, {"key_filename": None, "pkey": stranger}):
        with pytest.raises(paramiko.AuthenticationException), sftp(shared, **changes):
            pass
    place = shared.places.sftp
    with socket.create_connection((place.host, place.port)) as raw, paramiko.Transport(raw) as transport:
        transport.start_client(timeout=10)
        with pytest.raises(paramiko.BadAuthenticationType) as refused:
            transport.auth_none(place.username)
        assert refused.value.allowed_types == ["publickey"]


# --- mail and pager -------------------------------------------------------------------------------


def message() -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "esgbatch@firm.example", "esg-dev@firm.example", "Spät"
    mail.set_content("It is late.\n.\nReally.\n")
    return mail


def test_mail_by_starttls_and_login(shared: RunningSandbox) -> None:
    place = shared.places.mail
    context = ssl.create_default_context(cafile=place.ca_bundle)
    with smtplib.SMTP(place.host, place.port, timeout=10) as client:
        with pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS"):
            client.send_message(message())
        client.starttls(context=context)
        with pytest.raises(smtplib.SMTPSenderRefused, match=r"[Aa]uth"):
            client.send_message(message())
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(place.username, "wrong")
        client.login(place.username, place.password)
        client.send_message(message())
    (path,) = Path(place.folder).iterdir()
    text = path.read_text()
    assert text.startswith("X-MailFrom: esgbatch@firm.example\nX-RcptTo: esg-dev@firm.example\n")
    assert text.endswith("\nIt is late.\n.\nReally.\n")
    assert shared.stats()["mail"] == {"connections": 1, "messages": 1, "refused": 0}


def test_plain_mail_and_a_mail_server_that_is_down(tmp_path: Path) -> None:
    with sandbox("--root", str(tmp_path), "--mail-security", "none", "--mail-failures", "1") as running:
        place = running.places.mail
        assert (place.security, place.username, place.password, place.ca_bundle) == ("none", "", "", "")
        with smtplib.SMTP(place.host, place.port, timeout=10) as client:
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                client.send_message(message())
            assert refused.value.smtp_code == 451
            client.send_message(message())
        assert running.stats()["mail"] == {"connections": 1, "messages": 1, "refused": 1}


def test_the_pager(shared: RunningSandbox) -> None:
    place = shared.places.pager
    event = {
        "routing_key": place.routing_key,
        "event_action": "trigger",
        "dedup_key": "late",
        "payload": {"summary": "late", "source": "esgbatch", "severity": "critical"},
    }
    connection = connect(place.url)
    connection.request("POST", "/v2/enqueue", json.dumps(event))
    assert connection.getresponse().status == 202
    assert json.loads(Path(place.events).read_text()) == event
    assert shared.stats()["pager"]["events"] == 1


# --- the process ----------------------------------------------------------------------------------


@contextmanager
def start(root: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "esgbatch.sandbox", "--json", "--root", str(root), *arguments]
    with subprocess.Popen(command, cwd=SOURCE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_whatever_is_under_way(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "--no-auth", "--latency", "60", "--accounts", "1000000") as process:
        assert process.stdout is not None
        places = json.loads(process.stdout.readline())
        mail = places["mail"]
        waiting = connect(places["ratings_url"])
        waiting.request("GET", "/v1/accounts/A-000001/esg")
        listing = connect(places["accounts_urls"]["none"])
        listing.request("GET", "/v1/accounts-all")
        assert listing.getresponse().status == 200
        with (
            smtplib.SMTP(mail["host"], mail["port"], timeout=10),
            socket.create_connection((places["sftp"]["host"], places["sftp"]["port"]), timeout=10) as ssh,
        ):
            assert ssh.recv(4) == b"SSH-"
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(5) == 0
            assert time.monotonic() - began < 1
        rest = process.communicate()
        assert rest == (b"", b""), "one line, and nothing after it"


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from esgbatch.sandbox.launch import sandbox\n"
        "with sandbox('--root', sys.argv[2]) as running:\n"
        "    print(running.places.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", script, str(SOURCE), str(tmp_path)], stdout=subprocess.PIPE, timeout=30
    )
    assert parent.returncode == -signal.SIGKILL
    try:
        descriptor = os.pidfd_open(int(parent.stdout))
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([descriptor], [], [], 5.0)
        if not ended:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert ended, "an orphan stayed"
    finally:
        os.close(descriptor)


def test_in_one_process_nothing_listens_any_longer_after_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with Sandbox(Options(tmp_path)) as places:
            urls = (places.accounts_url, places.ratings_url, places.login.token_url, places.pager.url)
            ports = [urllib.parse.urlsplit(url).port or 0 for url in (*urls, places.control_url)]
            ports += [places.sftp.port, places.mail.port]
            for port in ports:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)

    asyncio.run(run())


def test_a_wrong_call_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxFailed), sandbox("--root", str(tmp_path), "--account-fault", "A-000001=odd"):
        pass
    for arguments in (
        ["--outage", "maybe"],
        ["--accounts", "-1"],
        ["--latency", "-1"],
        ["--error-rate", "2"],
        ["--exit-with-parent"],
    ):
        with Path(os.devnull).open() as nothing, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", nothing)
            with pytest.raises(SystemExit, match="2"):
                main(["--root", str(tmp_path), *arguments])
