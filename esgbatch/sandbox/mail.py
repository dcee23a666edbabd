"""A mail server that keeps what it gets: one `.eml` file a message, numbered in order of arrival."""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from esgbatch.sandbox.certificates import server_tls
from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.faults import Board

USERNAME = "esgbatch"
logging.getLogger("mail.log").setLevel(logging.ERROR)  # at each login aiosmtpd warns of what it does itself


class MailSink:
    """SMTP on a loopback port. With STARTTLS it wants TLS and a login before any mail, else neither."""

    def __init__(self, folder: Path, keys: Path, dice: Dice, board: Board, *, starttls: bool) -> None:
        self.password = dice.text(b"mail", 0) if starttls else ""
        self.username = USERNAME if starttls else ""
        self.ca: Path | None = None
        self.connections = self.messages = self.refused = 0
        self._folder = folder
        self._before = len(list(folder.glob("*.eml")))
        self._board = board
        self._context: ssl.SSLContext | None = None
        if starttls:
            self.ca, self._context = server_tls(keys)

    async def start(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(self._connection, "127.0.0.1", 0)

    def counts(self) -> dict[str, object]:
        """The counters, for the control endpoint."""
        return {"connections": self.connections, "messages": self.messages, "refused": self.refused}

    def _connection(self) -> SMTP:
        self.connections += 1
        secure = self._context is not None
        return SMTP(
            self,
            hostname="localhost",
            enable_SMTPUTF8=True,
            tls_context=self._context,
            require_starttls=secure,
            auth_required=secure,
            authenticator=self._login,
            loop=asyncio.get_running_loop(),
        )

    def _login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        # `handled=False` lets the server itself send the refusal; without it the client waits for ever.
        good = (
            isinstance(data, LoginPassword)
            and data.login == self.username.encode()
            and hmac.compare_digest(data.password, self.password.encode())
        )
        return AuthResult(success=good, handled=False)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._board.fails("mail"):
            self.refused += 1
            return "451 4.3.0 Try again later"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - likewise
        self.messages += 1
        people = f"X-MailFrom: {envelope.mail_from}\r\nX-RcptTo: {', '.join(envelope.rcpt_tos)}\r\n"
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        target = self._folder / f"{self._before + self.messages:04d}.eml"
        part = target.with_suffix(".part")
        part.write_bytes(people.encode() + content)
        part.rename(target)
        return "250 2.0.0 OK"
