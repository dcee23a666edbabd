"""Which host keys a known_hosts file accepts; OpenSSH's manual, sshd(8), is the measure."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path
from typing import Any

import paramiko
import pytest

from esgbatch.config.model import Delivery
from esgbatch.delivery.hostkeys import PinnedKeys
from esgbatch.errors import HostKeyMismatch

KEY, OTHER = (paramiko.ECDSAKey.generate() for _ in range(2))
RSA = paramiko.RSAKey.generate(2048)
TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


def line(hosts: str, key: paramiko.PKey = KEY) -> str:
    return f"{hosts} {key.get_name()} {key.get_base64()}"


def hashed(name: str) -> str:
    salt = bytes(range(20))
    mac = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(mac).decode()}"


def pinned(tmp_path: Path, *lines: str, host: str = "sftp.example", port: int = 22) -> PinnedKeys:
    path = tmp_path / "known_hosts"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values: dict[str, Any] = {
        "host": host,
        "port": port,
        "username": "esgbatch",
        "private_key": path,
        "known_hosts": path,
        "directory": "/drop",
    }
    return PinnedKeys.load(Delivery(**values))


@pytest.mark.parametrize(
    ("hosts", "host", "port"),
    [
        ("sftp.example", "sftp.example", 22),
        ("SFTP.Example", "sftp.example", 22),
        ("sftp.example", "SFTP.EXAMPLE", 22),
        ("other.example,sftp.example,10.0.0.1", "sftp.example", 22),
        ("*.example", "sftp.example", 22),
        ("sft?.example", "sftp.example", 22),
        ("[sftp.example]:2222", "sftp.example", 2222),
        ("[*.example]:2222", "sftp.example", 2222),
        (hashed("sftp.example"), "sftp.example", 22),
        (hashed("[sftp.example]:2222"), "sftp.example", 2222),
        ("2001:db8::1", "2001:db8::1", 22),
        ("[2001:db8::1]:2222", "2001:db8::1", 2222),
    ],
)
def test_the_key_of_this_server_is_accepted(tmp_path: Path, hosts: str, host: str, port: int) -> None:
    pinned(tmp_path, line("elsewhere.example", OTHER), line(hosts), host=host, port=port).check(KEY)


@pytest.mark.parametrize(
    ("hosts", "port"),
    [
        ("sftp.example", 2222),
        ("[sftp.example]:2222", 22),
        ("[sftp.example]:2222", 2223),
        ("*.example,!sftp.example", 22),
        ("!sftp.example,*.example", 22),
        ("sftp.example.evil", 22),
        ("sftpxexample", 22),
        ("sftp", 22),
        (hashed("other.example"), 22),
        ("|1|no base64|at all", 22),
        ("@cert-authority sftp.example", 22),
    ],
)
def test_a_key_of_another_server_is_not(tmp_path: Path, hosts: str, port: int) -> None:
    with pytest.raises(HostKeyMismatch, match="has no key for it"):
        pinned(tmp_path, line(hosts), port=port).check(KEY)


def test_another_key_of_this_server_is_not(tmp_path: Path) -> None:
    with pytest.raises(HostKeyMismatch) as caught:
        pinned(tmp_path, line("sftp.example", OTHER)).check(KEY)
    assert KEY.fingerprint in str(caught.value)
    assert OTHER.fingerprint in str(caught.value)


def test_while_a_server_changes_its_key_both_are_accepted(tmp_path: Path) -> None:
    keys = pinned(tmp_path, line("sftp.example", OTHER), line("sftp.example", KEY))
    keys.check(KEY)
    keys.check(OTHER)


def test_a_revoked_key_is_refused_wherever_else_it_stands(tmp_path: Path) -> None:
    with pytest.raises(HostKeyMismatch, match="revoked"):
        pinned(tmp_path, line("sftp.example"), line("@revoked *")).check(KEY)


def test_comments_blank_lines_blanks_and_damaged_lines_do_no_harm(tmp_path: Path) -> None:
    pinned(
        tmp_path,
        "# sftp.example",
        "",
        "sftp.example",
        "sftp.example ssh-ed25519 !!!",
        "sftp.example ssh-ed25519 AAAA",
        "sftp.example sk-ssh-ed25519@openssh.com AAAA",
        "  " + line("sftp.example").replace(" ", " \t ") + "  a comment",
    ).check(KEY)


@pytest.mark.parametrize(
    ("key", "first"), [(KEY, ["ecdsa-sha2-nistp256"]), (RSA, ["rsa-sha2-512", "rsa-sha2-256"])]
)
def test_the_kinds_of_key_that_are_known_are_asked_for_first(
    tmp_path: Path, key: paramiko.PKey, first: list[str]
) -> None:
    order = pinned(tmp_path, line("sftp.example", key)).preferred(TYPES)
    assert list(order[: len(first)]) == first
    assert sorted(order) == sorted(TYPES)
