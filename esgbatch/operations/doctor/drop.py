"""The SFTP server: its key and our login, and all that a delivery does in the drop folder, done to a probe."""

from __future__ import annotations

import io
import os
import posixpath
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from esgbatch.config.model import Delivery
from esgbatch.delivery.client import UNEXPLAINED, SftpClient
from esgbatch.delivery.session import PASSING, open_session
from esgbatch.errors import DeliveryError
from esgbatch.operations.doctor.findings import PATIENCE, Finding, Setup, ok

PROBE = b"Written by `esgbatch doctor`, to be removed at once.\n"
ABANDONED = 3600.0  # seconds after which a probe's doctor is not at work any more

_OURS = re.compile(r"\.esgbatch-doctor-.+\.tmp")


def sftp_login(setup: Setup) -> Iterator[Finding]:
    config = setup.config.delivery
    with _session(config):
        yield ok(f"{config.host} shows the known host key, and lets {config.username} in")


def drop_folder(setup: Setup) -> Iterator[Finding]:
    """Write two hidden files, read one back, rename it over the other, remove it."""
    config = setup.config.delivery
    with _session(config) as sftp:
        _remove_abandoned(sftp, config.directory, setup.clock.time())
        _try(sftp, config)
    yield ok(f"{config.directory} lets us write, read, replace and remove a file")


def _try(sftp: SftpClient, config: Delivery) -> None:
    stem = f".esgbatch-doctor-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    new, old = (posixpath.join(config.directory, f"{stem}-{part}.tmp") for part in ("new", "old"))
    try:
        with _step("a file cannot be written", config):
            sftp.upload(io.BytesIO(b"old"), old)
            digest = sftp.upload(io.BytesIO(PROBE), new)
        with _step("a file cannot be read back", config):
            if not sftp.holds(new, digest):
                raise OSError(UNEXPLAINED, "it has other bytes than were sent")
        with _step(f"a file cannot be given the mode {config.mode}", config):
            sftp.chmod(new, int(config.mode, 8))
        with _step(_replacing(sftp), config):
            sftp.replace(new, old)
        with _step(f"the probe {posixpath.basename(old)} cannot be removed", config):
            sftp.remove(old)
    except BaseException:
        for path in (new, old):
            with suppress(*PASSING):
                sftp.remove(path)
        raise


def _replacing(sftp: SftpClient) -> str:
    if sftp.can_replace:
        return "a file cannot be renamed over another"
    return "a file cannot be replaced in one step (the server lacks posix-rename@openssh.com)"


def _remove_abandoned(sftp: SftpClient, folder: str, now: float) -> None:
    """Remove the probes of doctors that were killed; a server that shows no list keeps them."""
    with suppress(*PASSING):
        for entry in sftp.listdir_attr(folder):
            if _OURS.fullmatch(entry.filename) and (entry.st_mtime or now) < now - ABANDONED:
                sftp.remove(posixpath.join(folder, entry.filename))


@contextmanager
def _session(config: Delivery) -> Iterator[SftpClient]:
    try:
        with open_session(config.model_copy(update={"timeout": min(config.timeout, PATIENCE)})) as sftp:
            yield sftp
    except PASSING as error:
        raise DeliveryError(
            f"The SFTP server {config.host}, port {config.port}, does not do as it should: {_words(error)}.",
            advice="look at delivery.host and delivery.port, the server and what stands between, "
            "then `esgbatch doctor`",
        ) from error


@contextmanager
def _step(trouble: str, config: Delivery) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno is None:  # not the server's answer
            raise
        raise DeliveryError(
            f"In the drop folder {config.directory} on {config.host} {trouble}: {_words(error)}.",
            advice=f"have the folder made, and {config.username} allowed to create, read, chmod, rename and "
            "remove files there, or correct delivery.directory, then `esgbatch doctor`",
        ) from error


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(": .") or (
        "no answer in time" if isinstance(error, TimeoutError) else "it hung up"
    )
