"""What the tests of the encryption share: a gpg in gpg's place, and looks at what runs and what lies about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from esgbatch.config.model import Encryption
from esgbatch.encryption import signing
from esgbatch.encryption.gpg import GpgEncryptor
from esgbatch.model import SealedFile
from tests.keys import KeyPair

NAME = "FirmESGRatings_20261124.csv"
CHUNK = b"A-000001,Smith Family Trust,71.24,64.10,80.00,71.79,Success\r\n" * 1000


def encryption(*recipients: KeyPair, **options: object) -> Encryption:
    return Encryption.model_validate(
        {
            "recipients": [key.public for key in recipients],
            "fingerprints": [key.fingerprint for key in recipients],
            **options,
        }
    )


def wrapper(folder: Path, script: str) -> str:
    """A program in gpg's place. `script` runs for the encryption; keys are read by the real gpg."""
    path = folder / "gpg-wrapper"
    path.write_text(f'#!/bin/sh\ncase " $* " in *" --encrypt "*) ;; *) exec gpg "$@";; esac\n{script}\n')
    path.chmod(0o755)
    return str(path)


def seal(encryptor: GpgEncryptor, target: Path, chunks: object = (CHUNK,)) -> SealedFile:
    return encryptor.seal(chunks, rows=lambda: 1000, name=NAME, target=target)  # type: ignore[arg-type]  # any iterable


def running(*arguments: object) -> list[int]:
    """The live processes with all of these on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # A zombie has an empty command line.
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if all(str(argument) in command for argument in arguments):
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for the system: a starting process has no command line for a moment, a killed one still has."""
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def gpg_at_work(keyring: Path) -> int:
    """The pid of the gpg that encrypts."""
    until(lambda: len(running(keyring)) == 1)
    (pid,) = running(keyring)
    return pid


def endless(at_third: Callable[[], None]) -> Iterator[bytes]:
    """More than any pipe takes, with something happening on the way."""
    for number in range(1000):
        if number == 3:
            at_third()
        yield CHUNK


def make_target(folder: Path) -> Path:
    """Where a file is to be sealed to: a folder of its own, empty now."""
    outbox = folder / "outbox"
    outbox.mkdir()
    return outbox / f"{NAME}.pgp"


def signing_homes() -> list[Path]:
    return [*Path("/dev/shm").glob(f"{signing.PREFIX}*"), *Path("/tmp").glob(f"{signing.PREFIX}*")]
