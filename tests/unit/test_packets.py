"""Recipients as they stand in a message's first packets (RFC 9580)."""

from __future__ import annotations

import io

import pytest

from esgbatch.encryption.packets import read_recipients
from esgbatch.errors import EncryptionError

RECIPIENT = bytes.fromhex("840c 03 0123456789abcdef 12 0000")


@pytest.mark.parametrize(
    ("packets", "found"),
    [
        (RECIPIENT + b"\xd2\xff\x00\x00\x10\x00", ["0123456789ABCDEF"]),
        (b"\xc1\x0c" + RECIPIENT[2:] + RECIPIENT + b"\xd4\xe0", ["0123456789ABCDEF"] * 2),
        (b"\xc1\xc0\x08" + RECIPIENT[2:12] + bytes(190) + b"\xd2\x05", ["0123456789ABCDEF"]),
        (
            b"\x85\x00\x0c" + RECIPIENT[2:] + b"\xc1\xff\0\0\0\x0c" + RECIPIENT[2:] + b"\xd2\x05",
            ["0123456789ABCDEF"] * 2,
        ),
    ],
    ids=["old format", "both formats, AEAD", "two-octet length", "long lengths"],
)
def test_recipients_are_read_from_packets(packets: bytes, found: list[str]) -> None:
    assert list(read_recipients(io.BytesIO(packets))) == found


@pytest.mark.parametrize(
    "packets",
    [
        b"",
        b"-----BEGIN PGP MESSAGE-----",
        b"\xd2\x05",  # encrypted to nobody
        RECIPIENT + b"\x8c\x04\x04\x09\x00\x02\xd2\x05",  # a password as well (tag 3)
        RECIPIENT + b"\xc9\x05",  # no integrity protection (tag 9)
        RECIPIENT[:8],
        b"\x84\x0c\x06" + RECIPIENT[3:] + b"\xd2\x05",  # a version that carries no key ID
        b"\x84\x03\x03\x01\x23\xd2\x05",
    ],
)
def test_anything_else_than_recipients_first_is_refused(packets: bytes) -> None:
    with pytest.raises(EncryptionError):
        read_recipients(io.BytesIO(packets))
