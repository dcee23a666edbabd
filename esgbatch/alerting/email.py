"""One mail by SMTP: composed so that no text can become a header, sent over verified TLS, in bounded time."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid, parseaddr

from esgbatch.config.model import Email
from esgbatch.config.secrets import redact
from esgbatch.errors import ChannelError, ConfigError
from esgbatch.http.bounded import within
from esgbatch.http.trust import reason, tls_context

# The whole of a mail takes at most so many times what a single answer of the server may take.
PATIENCE = 3
LONGEST_REPLY = 200
# Encoded, so that no server on the way has to know 8BITMIME (RFC 6152).
_POLICY = SMTP.clone(cte_type="7bit")

_LOGIN_ADVICE = "correct alerts.email.username and password, then `esgbatch doctor`"
_ADDRESS_ADVICE = "correct the addresses under [alerts.email], then `esgbatch doctor`"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file in a mail; `media_type` is like `text/html`."""

    name: str
    content: bytes
    media_type: str


def send_mail(
    settings: Email,
    *,
    recipients: Sequence[str],
    subject: str,
    text: str,
    html: str = "",
    attachments: Sequence[Attachment] = (),
    message_id: str = "",
    limit: float | None = None,
) -> None:
    """Send one mail to all `recipients`.

    Args:
        message_id: the same for a mail that is sent again, so that readers see it once (RFC 5322, 3.6.4).
        limit: seconds for everything; by default three times `settings.timeout`.

    Raises:
        ChannelError: the server did not take it, or (`sent`) not for every recipient.
        ConfigError: a file, secret or address of the configuration cannot be used.
    """
    sender = _address(settings.sender)
    envelope = [_address(recipient) for recipient in recipients]
    message = _compose(settings.sender, recipients, subject, text, html, attachments)
    message["Message-ID"] = message_id or make_msgid(domain=sender.rpartition("@")[2])
    utf8 = not (sender + "".join(envelope)).isascii()
    content = message.as_bytes(policy=_POLICY.clone(utf8=utf8))
    sessions: list[smtplib.SMTP] = []

    def talk() -> dict[str, tuple[int, bytes]]:
        with session(settings) as server:
            sessions.append(server)
            return server.sendmail(sender, envelope, content, ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else [])

    with trouble(settings):
        try:
            refused = within(limit or PATIENCE * settings.timeout, talk)
        except TimeoutError:
            for server in sessions:
                server.close()
            raise
    if refused:
        code, words = next(iter(refused.values()))
        raise ChannelError(
            f"The mail server {settings.host} took the mail, but not for {len(refused)} of "
            f"{len(envelope)} recipients: {said(code, words)}.",
            advice=_ADDRESS_ADVICE,
            sent=True,
        )


@contextmanager
def session(settings: Email, timeout: float | None = None) -> Iterator[smtplib.SMTP]:
    """A server that has let us in; `timeout` are the seconds for a single answer.

    Raises:
        smtplib.SMTPException, OSError: `trouble` puts them into words.
    """
    with closing(_connect(settings, timeout or settings.timeout)) as server:
        if settings.security == "starttls":
            server.starttls(context=tls_context(settings.ca_bundle))
        if settings.password is not None:
            server.login(settings.username, settings.password.reveal())
        server.ehlo_or_helo_if_needed()
        yield server
        with suppress(smtplib.SMTPException, OSError):  # what was to be done is done
            server.quit()


def _connect(settings: Email, timeout: float) -> smtplib.SMTP:
    if settings.security == "tls":
        context = tls_context(settings.ca_bundle)
        return smtplib.SMTP_SSL(settings.host, settings.port, timeout=timeout, context=context)
    return smtplib.SMTP(settings.host, settings.port, timeout=timeout)


@contextmanager
def trouble(settings: Email) -> Iterator[None]:
    """What goes wrong with a mail server, as a `ChannelError`."""
    place = f"The mail server {settings.host}, port {settings.port},"
    advice = "look at host, port, security and ca_bundle under [alerts.email], then `esgbatch doctor`"
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        raise ChannelError(f"{place} refuses our login: {error.smtp_code}.", advice=_LOGIN_ADVICE) from None
    except smtplib.SMTPRecipientsRefused as error:
        words = said(*next(iter(error.recipients.values())))
        raise ChannelError(f"{place} takes none of the recipients: {words}.", advice=_ADDRESS_ADVICE) from None
    except smtplib.SMTPResponseException as error:
        words = said(error.smtp_code, error.smtp_error)
        raise ChannelError(f"{place} does not do what is needed: {words}.", advice=advice) from None
    except smtplib.SMTPException as error:
        words = _short(str(error)) or type(error).__name__
        raise ChannelError(f"{place} does not do what is needed: {words}.", advice=advice) from None
    except TimeoutError:
        raise ChannelError(f"{place} does not answer in time.", advice=advice) from None
    except OSError as error:
        raise ChannelError(f"{place} cannot be reached: {reason(error)}.", advice=advice) from None
    except ValueError:  # smtplib sends ASCII, and no line ends
        raise ChannelError(
            "A host, address, name or password under [alerts.email] is not in ASCII.", advice=_LOGIN_ADVICE
        ) from None


def said(code: int, words: bytes | str) -> str:
    """A server's reply, fit for a sentence."""
    return f"{code} {_short(words if isinstance(words, str) else words.decode('utf-8', 'replace'))}"


def _short(words: str) -> str:
    return _line(redact(words))[:LONGEST_REPLY].rstrip(".")


def _compose(
    sender: str,
    recipients: Sequence[str],
    subject: str,
    text: str,
    html: str,
    attachments: Sequence[Attachment],
) -> EmailMessage:
    message = EmailMessage(policy=_POLICY)
    message["Subject"] = _line(subject)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Date"] = formatdate(localtime=True)
    # No answer by machine (RFC 3834, 5).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    for each in attachments:
        main, _, sub = each.media_type.partition("/")
        message.add_attachment(each.content, maintype=main, subtype=sub, filename=_line(each.name))
    return message


def _line(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _address(configured: str) -> str:
    """The bare address of `Somebody <somebody@firm.example>`."""
    address = parseaddr(configured)[1] if configured.isprintable() else ""
    if not address:
        raise ConfigError(f"No mail address: {_line(configured)!r}.", advice=_ADDRESS_ADVICE)
    return address
