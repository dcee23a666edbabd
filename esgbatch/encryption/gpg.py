"""The encryptor: a stream of plaintext goes into gpg, and one whole OpenPGP file comes out.

A pgp file that decrypts is no proof that it is whole: gpg makes a valid file of
whatever it was given. The steps of `GpgEncryptor.seal` are the proof.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from esgbatch.config.model import Encryption
from esgbatch.encryption.keys import RecipientKey, load_recipients
from esgbatch.encryption.packets import read_recipients
from esgbatch.encryption.process import OFFLINE, STALL, GpgProcess, disk_full
from esgbatch.encryption.signing import open_home
from esgbatch.errors import EncryptionError
from esgbatch.files import sync_folder
from esgbatch.model import Digest, SealedFile

PART = ".part"
HIDDEN_RECIPIENT = "0" * 16


class GpgEncryptor:
    """Seals files for the configured recipients with gpg; no plaintext reaches a disk.

    `home` is the job's own keyring folder. `stall` is how many seconds gpg may give no
    sign of life; how long the stream itself takes is not limited.
    """

    def __init__(
        self, config: Encryption, home: Path, *, stall: float = STALL, now: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._home = home
        self._stall = stall
        self._now = now

    def seal(self, chunks: Iterable[bytes], *, rows: Callable[[], int], name: str, target: Path) -> SealedFile:
        """See `ports.Encryptor`. What lay at `target` before stays until every step has passed.

        Whatever the stream or `rows` raises, a stop signal too, ends gpg, removes the
        part file and goes on to the caller.

        Raises:
            ConfigError: a key file, the passphrase or gpg is not as configured.
            EncryptionError: anything else, with gpg's own words.
        """
        recipients = load_recipients(self._config, self._home, self._now())
        with _part_of(target) as part:
            plaintext = self._encrypt(chunks, name, recipients, part.descriptor)
            count = rows()
            part.require_recipients(recipients)
            encrypted = part.publish()
        return SealedFile(target, plaintext, encrypted, tuple(key.fingerprint for key in recipients), count)

    def check(self) -> tuple[RecipientKey, ...]:
        """Seal a few bytes to nowhere, signature included, to know in time that tonight's file can be made.

        Raises:
            ConfigError, EncryptionError: as `seal`.
        """
        recipients = load_recipients(self._config, self._home, self._now())
        with _reported(Path(os.devnull)):
            nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - closed below
        with nowhere:
            self._encrypt([b"check"], "check", recipients, nowhere.fileno())
        return recipients

    def _encrypt(
        self, chunks: Iterable[bytes], name: str, recipients: Sequence[RecipientKey], output: int
    ) -> Digest:
        """Send the whole stream through gpg; returns only if it took all of it and says so."""
        digest, size = hashlib.sha256(), 0
        with open_home(self._config, self._home) as home:
            arguments = (*home.arguments, *self._arguments(name, recipients))
            with GpgProcess(
                self._config.gpg, arguments, output=output, stall=self._stall, inherit=home.inherit
            ) as gpg:
                for chunk in chunks:
                    gpg.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                status = gpg.finish()
            if "END_ENCRYPTION" not in status:
                raise EncryptionError("gpg ended without saying that the encryption is complete.")
            home.require_signature(status)
        return Digest(digest.hexdigest(), size)

    def _arguments(self, name: str, recipients: Sequence[RecipientKey]) -> tuple[str, ...]:
        compression = ("zlib", "-z", "1") if self._config.compression == "zlib" else ("none",)
        files = (item for key in recipients for item in ("--recipient-file", str(key.copy)))
        return (
            *("--no-options", "--batch", "--no-tty", "--lock-never", "--no-random-seed-file", *OFFLINE),
            *("--compress-algo", *compression),
            *("--set-filename", name),
            *files,
            *("--output", "-", "--encrypt"),
        )


class _Part:
    """The file in the making: our own open descriptor, which gpg only inherits."""

    def __init__(self, path: Path, descriptor: int, target: Path) -> None:
        self.path = path
        self.descriptor = descriptor
        self._target = target

    def require_recipients(self, recipients: Sequence[RecipientKey]) -> None:
        """Read back who can open the file: every recipient by one of its keys, and nobody else."""
        with open(self.descriptor, "rb", closefd=False) as file:
            file.seek(0)
            key_ids = read_recipients(file)
        owners = {key_id: key.fingerprint for key in recipients for key_id in key.subkey_ids}
        if HIDDEN_RECIPIENT in key_ids:
            raise EncryptionError("The encrypted file has a hidden recipient, so it was thrown away.")
        strangers = [key_id for key_id in key_ids if key_id not in owners]
        if strangers:
            raise EncryptionError(
                f"The encrypted file could also be opened by the key {strangers[0]}, which is not configured, "
                "so it was thrown away."
            )
        if sorted(owners[key_id] for key_id in key_ids) != sorted(key.fingerprint for key in recipients):
            raise EncryptionError(
                "The encrypted file is not for each recipient exactly once, so it was thrown away."
            )

    def publish(self) -> Digest:
        """Bring the file to the disk and to its name; both are certain when this returns."""
        with _reported(self._target):
            with ThreadPoolExecutor(1) as aside, open(self.descriptor, "rb", closefd=False) as file:
                synced = aside.submit(os.fsync, self.descriptor)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
                synced.result()
            self.path.replace(self._target)
            try:
                sync_folder(self._target.parent)
            except BaseException:
                self._target.unlink(missing_ok=True)
                raise
        return Digest(digest, size)


@contextmanager
def _part_of(target: Path) -> Iterator[_Part]:
    """A new, private part file beside `target`; what ends in an exception leaves none behind."""
    path = target.with_name(target.name + PART)
    with _reported(path):
        if path.is_symlink():
            raise EncryptionError(
                f"{path} is a symbolic link, which this program never makes.",
                advice="find out who put it there, remove it, then `esgbatch resume --date {date}`",
            )
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        yield _Part(path, descriptor, target)
    except BaseException:
        with suppress(OSError):  # the next one takes its place
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise disk_full(f"{path}: {error.strerror}") from error
        raise EncryptionError(f"The file {path} cannot be written: {error.strerror}.") from error
