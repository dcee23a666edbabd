"""The server's host key, pinned in a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from esgbatch.config.model import Delivery
from esgbatch.errors import ConfigError, HostKeyMismatch

SSH_PORT = 22
HASHED = "|1|"
RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")  # RFC 8332; SHA-1's ssh-rsa is not offered


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """What a known_hosts file says about one server."""

    path: Path
    name: str
    accepted: tuple[paramiko.PKey, ...]
    revoked: tuple[paramiko.PKey, ...]

    @classmethod
    def load(cls, config: Delivery) -> PinnedKeys:
        """Read `delivery.known_hosts` for the configured host and port.

        Several keys, of the same type too, are all accepted: so a server's keys are changed.
        Unlike paramiko's reader this one knows patterns and the `@revoked` marker.

        Raises:
            ConfigError: the file cannot be read.
        """
        name = config.host if config.port == SSH_PORT else f"[{config.host}]:{config.port}"
        try:
            lines = config.known_hosts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"The known_hosts file {config.known_hosts} cannot be read: {reason}.") from None
        entries = [(marker, key) for marker, key in _entries(lines, name.lower())]
        accepted = tuple(key for marker, key in entries if not marker)
        revoked = tuple(key for marker, key in entries if marker == "@revoked")
        return cls(config.known_hosts, name, accepted, revoked)

    def preferred(self, algorithms: Sequence[str]) -> tuple[str, ...]:
        """`algorithms` with those first of which a key is known, so that the server shows one of these."""
        known = [
            algorithm
            for key in self.accepted
            for algorithm in (RSA_ALGORITHMS if key.get_name() == "ssh-rsa" else (key.get_name(),))
        ]
        return tuple(sorted(algorithms, key=lambda algorithm: algorithm not in known))

    def check(self, shown: paramiko.PKey) -> None:
        """Accept `shown`, or refuse it with both fingerprints.

        Raises:
            HostKeyMismatch: it is revoked, another one, or nothing is known of this server.
        """
        got = f"{shown.get_name()} {shown.fingerprint}"
        if shown in self.revoked:
            raise HostKeyMismatch(f"{self.name} shows the host key {got}, which {self.path} marks as revoked.")
        if shown in self.accepted:
            return
        if self.accepted:
            expected = ", ".join(f"{key.get_name()} {key.fingerprint}" for key in self.accepted)
            raise HostKeyMismatch(
                f"{self.name} shows the host key {got}, but {self.path} expects {expected}. Either the "
                "server's key was changed, or somebody stands between; nothing was sent."
            )
        raise HostKeyMismatch(
            f"{self.name} shows the host key {got}, and {self.path} has no key for it; nothing was sent.",
            advice="ask the server's owner for its fingerprint; if it is this one: "
            f"`{self._scan(shown)}`, then `esgbatch doctor`",
        )

    def _scan(self, shown: paramiko.PKey) -> str:
        line = f"{self.name} {shown.get_name()} {shown.get_base64()}"
        return f"echo {shlex.quote(line)} >> {shlex.quote(str(self.path))}"


def _entries(lines: Sequence[str], name: str) -> Iterator[tuple[str, paramiko.PKey]]:
    """Marker and key of each line about `name`; as in OpenSSH, a line that cannot be read is no line."""
    for line in lines:
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        try:
            entry = HostKeyEntry.from_line(" ".join(fields[:3]))
        except (InvalidHostKey, paramiko.SSHException, ValueError):
            continue
        if entry is not None and entry.key is not None and _matches(entry.hostnames, name):
            yield marker, entry.key


def _matches(patterns: Sequence[str], name: str) -> bool:
    matched = False
    for pattern in patterns:
        if pattern.startswith(HASHED):
            matched = matched or _hash_matches(pattern, name)
        elif pattern.startswith("!"):
            if _wildcard(pattern[1:]).fullmatch(name):
                return False
        elif _wildcard(pattern).fullmatch(name):
            matched = True
    return matched


def _wildcard(pattern: str) -> re.Pattern[str]:
    # fnmatch would take the brackets of [host]:port for a set of characters.
    return re.compile(re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", "."))


def _hash_matches(pattern: str, name: str) -> bool:
    """A hashed name is |1|salt|HMAC-SHA1(salt, name), both in base64."""
    salt, _, expected = pattern.removeprefix(HASHED).partition("|")
    try:
        return hmac.digest(base64.b64decode(salt), name.encode(), "sha1") == base64.b64decode(expected)
    except (binascii.Error, ValueError):
        return False
