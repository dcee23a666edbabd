"""What this machine has to have: secrets, folders that can be written, room."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from esgbatch.errors import ConfigError
from esgbatch.operations.doctor.findings import Finding, Setup, failed, ok, warn
from esgbatch.operations.doctor.records import largest_run

MIB = 1024 * 1024
# Measured: an account takes 140 bytes in the checkpoint, as many in its write-ahead log while
# the list is enrolled, and 70 in the file, of which there may be several revisions.
STATE_BYTES = 500
LOG_BYTES = 250  # an account's line in the error file, if it fails
FLOOR = 64 * MIB
SCRATCH_FLOOR = 16 * MIB
MANY_ACCOUNTS = 1_000_000  # where no run has shown how many there are


def secrets(setup: Setup) -> Iterator[Finding]:
    """Read every one: several may be missing."""
    readable = 0
    for secret in setup.secrets:
        try:
            secret.reveal()
            readable += 1
        except ConfigError as error:
            yield failed(error)
    if readable == len(setup.secrets):
        yield ok(f"all {readable} can be read" if readable else "none is needed")


def state_folder(setup: Setup) -> Iterator[Finding]:
    folder = setup.config.job.state_dir
    advice = f"`install -d -m 0700 -o $(id -un) {shlex.quote(str(folder))}`, or another job.state_dir"
    if _exists(folder, advice):
        setup.open_state(setup.config)
    yield ok(_writable(folder, advice))


def log_folder(setup: Setup) -> Iterator[Finding]:
    folder = setup.config.logging.directory
    advice = f"`install -d -m 0750 -o $(id -un) {shlex.quote(str(folder))}`, or another logging.directory"
    yield ok(_writable(folder, advice))


def temporary_folder(setup: Setup) -> Iterator[Finding]:
    try:
        # The name first: a signal may come as soon as the folder is there, and leave it to be removed.
        setup.scratch = Path(tempfile.gettempdir()) / f"esgbatch-doctor-{uuid.uuid4().hex}"
        setup.scratch.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"No temporary folder can be made: {error.strerror}.",
            advice="make room there, or name another place with TMPDIR",
        ) from None
    yield ok(f"{setup.scratch.parent} can be written")


def metrics_folder(setup: Setup) -> Iterator[Finding]:
    """node_exporter's folder: the file is written beside itself, and renamed."""
    file = Path(setup.config.metrics.textfile)
    advice = f"have {shlex.quote(str(file.parent))} made for this user, or correct metrics.textfile"
    if not _exists(file.parent, advice):
        raise ConfigError(f"The folder of metrics.textfile, {file.parent}, is not there.", advice=advice)
    if file.is_dir():
        raise ConfigError(
            f"metrics.textfile, {file}, is a folder.", advice="name a file in it, like esgbatch.prom"
        )
    if file.suffix != ".prom":
        yield warn(f"node_exporter reads no {file.name}", "let metrics.textfile end in .prom")
    yield ok(_writable(file.parent, advice))


def disk_space(setup: Setup) -> Iterator[Finding]:
    counted = largest_run(setup)
    many = counted or MANY_ACCOUNTS
    assert setup.scratch is not None
    places = (
        (setup.config.job.state_dir, FLOOR + many * STATE_BYTES),
        (setup.config.logging.directory, FLOOR + many * LOG_BYTES),
        (setup.scratch.parent, SCRATCH_FLOOR),
    )
    what = f"{many:,} accounts{'' if counted else ' (no run has counted them yet)'}"
    short = False
    for folder, needed in places:
        free = shutil.disk_usage(_nearest(folder)).free
        if free < needed:
            short = True
            yield warn(
                f"{folder} has {free // MIB:,} MiB left; a run of {what} may need {needed // MIB:,} MiB",
                "make room before tonight",
            )
    if not short:
        yield ok(f"there is enough for {what}")


def _exists(folder: Path, advice: str) -> bool:
    try:
        return folder.exists()
    except OSError as error:
        raise ConfigError(
            f"The folder {folder} cannot be looked at: {error.strerror}.", advice=advice
        ) from None


def _writable(folder: Path, advice: str) -> str:
    """Write a byte to a file without a name (O_TMPFILE, open(2)); where the folder is missing, look above.

    Raises:
        ConfigError: neither can be done.
    """
    if not _exists(folder, advice):
        parent = _nearest(folder)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return f"{folder} is made by the first run"
        raise ConfigError(f"The folder {folder} is not there, and cannot be made in {parent}.", advice=advice)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\n")
    except OSError as error:
        raise ConfigError(f"Nothing can be written in {folder}: {error.strerror}.", advice=advice) from None
    return f"{folder} can be written"


def _nearest(folder: Path) -> Path:
    """The folder, or what of its path is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())
