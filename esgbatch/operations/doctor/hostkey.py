"""`doctor --trust-host`: pin the SFTP server's key, once a person has compared it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paramiko

from esgbatch.config.model import Delivery
from esgbatch.delivery.hostkeys import PinnedKeys
from esgbatch.errors import ConfigError, DeliveryError, DoctorFailed
from esgbatch.operations.doctor.findings import PATIENCE

MODE = 0o644  # it holds no secret, and is not always written by the user who reads it


@dataclass(frozen=True, slots=True)
class Trusted:
    """What to say, and the fingerprint of the key that was written down, None where it was known already."""

    text: str
    host: str
    path: Path
    fingerprint: str | None


def trust_host(config: Delivery, ask: Callable[[str], str]) -> Trusted:
    """Show the key to a person, and write it down if the answer is yes.

    Raises:
        HostKeyMismatch: another key of this server is known, or this one is revoked: what is
            wrong there is not for a question in passing.
        DeliveryError: no key could be had.
        DoctorFailed: the answer is no.
        ConfigError: known_hosts cannot be read or written.
    """
    pinned = _pinned(config)
    shown = _shown(config)
    if pinned.accepted or pinned.revoked:
        pinned.check(shown)
        text = f"{pinned.name} shows the host key that {config.known_hosts} has."
        return Trusted(text, pinned.name, config.known_hosts, None)
    answer = ask(
        f"{pinned.name} shows the host key\n\n    {shown.get_name()} {shown.fingerprint}\n\n"
        "Ask the server's owner for its fingerprint by another way, and compare them.\n"
        f"Are they equal, and is it to be written to {config.known_hosts}? (yes or no) "
    )
    if answer.strip().lower() != "yes":
        raise DoctorFailed("The host key was not confirmed; nothing was written.")
    _append(config.known_hosts, f"{pinned.name} {shown.get_name()} {shown.get_base64()}\n")
    text = f"It is written to {config.known_hosts}. Next: `esgbatch doctor`"
    return Trusted(text, pinned.name, config.known_hosts, f"{shown.get_name()} {shown.fingerprint}")


def _pinned(config: Delivery) -> PinnedKeys:
    """What is known; nothing, where there is no file yet."""
    if not config.known_hosts.exists():
        config = config.model_copy(update={"known_hosts": Path(os.devnull)})
    return PinnedKeys.load(config)


def _shown(config: Delivery) -> paramiko.PKey:
    """The key of the kind that a delivery would be shown. Nothing but the handshake is sent."""
    timeout = min(config.timeout, PATIENCE)
    try:
        with socket.create_connection((config.host, config.port), timeout) as connection:
            transport = paramiko.Transport(connection)
            try:
                transport.banner_timeout = transport.handshake_timeout = timeout
                transport.start_client(timeout=timeout)
                return transport.get_remote_server_key()
            finally:
                transport.close()
    except (paramiko.SSHException, EOFError, OSError) as error:
        words = getattr(error, "strerror", None) or str(error).rstrip(".") or "no answer in time"
        raise DeliveryError(
            f"The SFTP server {config.host}, port {config.port}, shows no host key: {words}.",
            advice="look at delivery.host and delivery.port, then `esgbatch doctor --trust-host`",
        ) from error


def _append(path: Path, line: str) -> None:
    try:
        is_new = not path.exists()
        before = b"" if is_new else path.read_bytes()
        with path.open("ab") as file:
            file.write((b"" if not before or before.endswith(b"\n") else b"\n") + line.encode())
        if is_new:
            path.chmod(MODE)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}.",
            advice="as a user who may write there: `esgbatch doctor --trust-host`",
        ) from None
