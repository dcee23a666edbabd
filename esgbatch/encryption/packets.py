"""Whom an OpenPGP message is really encrypted to, read from its first packets (RFC 9580)."""

from __future__ import annotations

from typing import BinaryIO

from esgbatch.errors import EncryptionError

PUBLIC_KEY_SESSION_KEY = 1
INTEGRITY_PROTECTED = (18, 20)  # SEIPD, and the AEAD packet that GnuPG 2.3 writes
HIDDEN_RECIPIENT = "0" * 16


def read_recipients(stream: BinaryIO) -> tuple[str, ...]:
    """The key IDs, in upper-case hex, that can open the message at the stream's start.

    The file itself is asked, not gpg's report of it: a `gpg.conf`, a wrapper or a
    changed key file cannot add a reader unseen. Only public-key recipients (RFC 9580,
    5.1) before an integrity-protected packet are accepted: a password (5.3) would be
    one more way in.

    Raises:
        EncryptionError: it is no such message.
    """
    recipients: list[str] = []
    while True:
        tag, length = _read_header(stream)
        if tag in INTEGRITY_PROTECTED and recipients:
            return tuple(recipients)
        if tag != PUBLIC_KEY_SESSION_KEY or length is None:
            raise _unexpected(f"packet type {tag} stands among its recipients")
        body = _take(stream, length)
        if length < 9 or body[0] != 3:
            raise _unexpected(f"a recipient's packet has version {body[0] if body else 'none'}")
        recipients.append(body[1:9].hex().upper())


def _read_header(stream: BinaryIO) -> tuple[int, int | None]:
    """A packet's type and length, None where it is not told beforehand (RFC 9580, 4.2)."""
    first = _take(stream, 1)[0]
    if not first & 0x80:
        raise _unexpected("it does not begin with a packet")
    if not first & 0x40:
        size = (1, 2, 4, 0)[first & 3]
        return (first >> 2) & 15, int.from_bytes(_take(stream, size), "big") if size else None
    length = _take(stream, 1)[0]
    if 192 <= length < 224:
        length = ((length - 192) << 8) + _take(stream, 1)[0] + 192
    elif length == 255:
        length = int.from_bytes(_take(stream, 4), "big")
    elif length >= 224:
        return first & 63, None
    return first & 63, length


def _take(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise _unexpected("it ends too early")
    return data


def _unexpected(what: str) -> EncryptionError:
    return EncryptionError(f"The encrypted file is not what was asked of gpg: {what}.")
