"""One mail: what arrives at a real server, and what is said where the server does not take it."""

from __future__ import annotations

import email
import email.policy
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from esgbatch.alerting.email import Attachment, send_mail
from esgbatch.config.model import Email
from esgbatch.config.secrets import Secret
from esgbatch.errors import ChannelError, ConfigError
from esgbatch.sandbox.launch import RunningSandbox, sandbox
from tests.sockets.faultserver import refused_port

PEOPLE = ["operations@firm.example", "Compliance <compliance@firm.example>"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with sandbox("--accounts=10", "--odd-ids=0", f"--root={tmp_path_factory.mktemp('firm')}") as each:
        yield each


@pytest.fixture
def settings(server: RunningSandbox, tmp_path: Path) -> Email:
    mail = server.places.mail
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(mail.password)
    return Email(
        host=mail.host,
        port=mail.port,
        username=mail.username,
        password=Secret(file=password),
        sender="ESG batch <esgbatch@firm.example>",
        recipients=PEOPLE,
        ca_bundle=mail.ca_bundle,
        timeout=5,
    )


def plain(port: int, **changes: object) -> Email:
    return Email.model_validate(
        {"host": "127.0.0.1", "port": port, "security": "none", "sender": "a@b.example", "recipients": PEOPLE}
        | changes
    )


def last(server: RunningSandbox) -> EmailMessage:
    path = max(Path(server.places.mail.folder).glob("*.eml"))
    return email.message_from_bytes(path.read_bytes(), policy=email.policy.default)  # type: ignore[return-value]


def send(settings: Email, **changes: object) -> None:
    wanted = {"recipients": PEOPLE, "subject": "Grüße", "text": "Hello\n"} | changes
    send_mail(settings, **wanted)  # type: ignore[arg-type]


def test_a_mail_with_everything(server: RunningSandbox, settings: Email):
    report = Attachment("report.html", b"<p>r\xc3\xa9port</p>", "text/html")
    send(settings, text="plain é\n", html="<b>rich é</b>", attachments=[report])
    mail = last(server)
    assert mail["Subject"] == "Grüße"
    assert mail["To"] == ", ".join(PEOPLE)
    assert mail["X-RcptTo"] == "operations@firm.example, compliance@firm.example"
    assert mail["X-MailFrom"] == "esgbatch@firm.example"
    assert mail["Message-ID"].endswith("@firm.example>")
    assert abs(mail["Date"].datetime.timestamp() - time.time()) < 60
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_body(("plain",)).get_content().strip() == "plain é"  # type: ignore[union-attr]
    assert mail.get_body(("html",)).get_content().strip() == "<b>rich é</b>"  # type: ignore[union-attr]
    assert mail.as_bytes().isascii()
    (attached,) = mail.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("report.html", "text/html")
    assert attached.get_payload(decode=True) == report.content


def test_no_text_becomes_a_header(server: RunningSandbox, settings: Email):
    evil = "x\r\nBcc: eve@evil.example\n\n.\r\n"
    send(settings, subject=evil, text=f"{evil}.\r\nQUIT\r\n", attachments=[Attachment(evil, b"", "text/plain")])
    mail = last(server)
    assert mail["Bcc"] is None
    assert mail["Subject"] == "x Bcc: eve@evil.example ."
    assert "QUIT" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="No mail address"):
        send(settings, recipients=["a@b.example\nBcc: eve@evil.example"])


def test_a_mail_sent_again_has_the_same_name(server: RunningSandbox, settings: Email):
    send(settings, message_id="<same@firm.example>")
    assert last(server)["Message-ID"] == "<same@firm.example>"


def test_a_wrong_password_is_not_repeated(settings: Email, tmp_path: Path):
    (tmp_path / "password").write_text("hunter2-wrong")
    with pytest.raises(ChannelError, match="refuses our login: 535") as told:
        send(settings)
    assert "hunter2" not in f"{told.value}{told.value.advice}"


def test_a_server_that_nobody_vouches_for(settings: Email):
    with pytest.raises(ChannelError, match="certificate: "):
        send(settings.model_copy(update={"ca_bundle": "/etc/ssl/certs/ca-certificates.crt"}))


def test_a_server_that_is_not_there():
    with refused_port() as port, pytest.raises(ChannelError, match="cannot be reached: Connection refused"):
        send(plain(port))


def serve(talk: Callable[[socket.socket], None]) -> int:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        sock, _ = listener.accept()
        with listener, sock:
            talk(sock)

    threading.Thread(target=run, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def test_a_frozen_server_takes_no_longer_than_it_may():
    ended = threading.Event()
    port = serve(lambda _: ended.wait(30) and None)  # type: ignore[func-returns-value]
    began = time.monotonic()
    with pytest.raises(ChannelError, match=r"timed out|in time"):
        send(plain(port, timeout=0.2))
    assert time.monotonic() - began < 10
    ended.set()


def test_a_server_that_answers_a_byte_at_a_time_takes_no_longer_than_it_may():
    ended = threading.Event()

    def drip(sock: socket.socket) -> None:
        while not ended.wait(0.05):
            sock.sendall(b"2")

    port = serve(drip)
    with pytest.raises(ChannelError, match="does not answer in time"):
        send(plain(port, timeout=5), limit=0.3)
    ended.set()


def replies(sock: socket.socket, refused: set[bytes]) -> None:
    sock.sendall(b"220 hello\r\n")
    data = False
    for line in sock.makefile("rb"):
        if data:
            if line == b".\r\n":
                data = False
                sock.sendall(b"250 taken\r\n")
            continue
        data = line.upper().startswith(b"DATA")
        if any(name in line for name in refused):
            sock.sendall(b"550 no such user\r\n")
        else:
            sock.sendall(b"354 go on\r\n" if data else b"250 fine\r\n")


@pytest.mark.parametrize(
    ("refused", "words", "sent"),
    [
        ({b"operations"}, "took the mail, but not for 1 of 2 recipients: 550 no such user", True),
        ({b"operations", b"compliance"}, "takes none of the recipients: 550 no such user", False),
    ],
)
def test_recipients_that_are_refused(refused: set[bytes], words: str, sent: bool):
    with pytest.raises(ChannelError, match=words) as told:
        send(plain(serve(lambda sock: replies(sock, refused))))
    assert told.value.sent is sent


def test_a_server_that_closes_after_it_took_the_mail_has_taken_it():
    def talk(sock: socket.socket) -> None:
        sock.sendall(b"220 hello\r\n")
        lines = sock.makefile("rb")
        for line in lines:
            if line.upper().startswith(b"DATA"):
                sock.sendall(b"354 go on\r\n")
                while next(lines) != b".\r\n":
                    pass
                sock.sendall(b"250 taken\r\n")
                return
            sock.sendall(b"250 fine\r\n")

    send(plain(serve(talk)))


def test_the_session_is_closed_when_the_server_misbehaves():
    port = serve(lambda sock: sock.sendall(b"421 too busy\r\n"))
    with pytest.raises(ChannelError, match="421 too busy"):
        send(plain(port))
    assert issubclass(smtplib.SMTPException, OSError)  # why `trouble` names it before OSError


def test_a_login_leaves_no_noise_on_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with sandbox("--accounts=10", "--odd-ids=0", f"--root={tmp_path}") as server:
        mail = server.places.mail
        with smtplib.SMTP(mail.host, mail.port) as client:
            client.starttls(context=ssl.create_default_context(cafile=str(mail.ca_bundle)))
            client.login(mail.username, mail.password)
    assert capfd.readouterr().err == ""
