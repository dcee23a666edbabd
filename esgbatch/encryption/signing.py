"""The optional signature: a secret key in a gpg home of its own, which is gone when the file is made."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from esgbatch.config.model import Encryption
from esgbatch.config.secrets import require_private
from esgbatch.encryption.keys import list_only_key, read_key_file
from esgbatch.encryption.process import STALL, GpgProcess, environment, find_program, open_library
from esgbatch.errors import ConfigError, EncryptionError

PREFIX = "esgbatch-sign-"
AGENT = "default-cache-ttl 0\nmax-cache-ttl 0\ndisable-scdaemon\n"
AGENT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class GpgHome:
    """Where gpg works, and what that adds to its call; `signers` are the fingerprints that may sign."""

    arguments: tuple[str, ...]
    inherit: tuple[int, ...] = ()
    signers: tuple[str, ...] = ()

    def require_signature(self, status: Sequence[str]) -> None:
        """Refuse a file that gpg does not say our key has signed (SIG_CREATED in GnuPG's doc/DETAILS).

        Raises:
            EncryptionError: it does not.
        """
        made = [line.split()[-1] for line in status if line.startswith("SIG_CREATED ")]
        if self.signers and (len(made) != 1 or made[0] not in self.signers):
            raise EncryptionError("gpg did not sign the file with the configured key.")


@contextmanager
def open_home(config: Encryption, keyring: Path) -> Iterator[GpgHome]:
    """The job's keyring folder; to sign, a temporary home with the signing key and its agent instead.

    Raises:
        ConfigError: the signing key or its passphrase is missing, wrong, or open to others.
        EncryptionError: gpg does not take the key.
    """
    if config.sign_with is None:
        yield GpgHome(("--homedir", str(keyring), "--no-autostart", "--no-keyring", "--trust-model", "always"))
        return
    require_private(config.sign_with)
    data = read_key_file(config.sign_with)
    passphrase = "" if config.passphrase is None else config.passphrase.reveal()
    with temporary_home(config.gpg) as home, readable(passphrase.encode() + b"\n") as descriptor:
        library = open_library(config.gpg, home)
        key = list_only_key(library, config.sign_with, data, secret=True)
        if not library.import_keys(data).sec_imported:
            raise EncryptionError(f"gpg does not take the signing key in {config.sign_with}.")
        primary, *subkeys = key["fingerprint"], *(subkey[2] for subkey in key["subkeys"])
        arguments = ("--homedir", str(home), "--pinentry-mode", "loopback", "--passphrase-fd", str(descriptor))
        try:
            yield GpgHome((*arguments, "--local-user", primary, "--sign"), (descriptor,), (primary, *subkeys))
        except EncryptionError as error:
            if "passphrase" not in str(error):
                raise
            raise ConfigError(
                f"The passphrase of the signing key in {config.sign_with} is missing or wrong.",
                advice="correct encryption.passphrase, then `esgbatch doctor`",
            ) from error


@dataclass(frozen=True, slots=True)
class Signature:
    """A detached signature, whose key it is (40 hex digits), and that key's public half; both armored."""

    armored: bytes
    fingerprint: str
    public_key: bytes


def sign_detached(config: Encryption, keyring: Path, data: bytes) -> Signature | None:
    """Sign `data` with the configured key, as `gpg --detach-sign` does; None where none is configured.

    Raises:
        ConfigError, EncryptionError: as `open_home`.
    """
    if config.sign_with is None:
        return None
    common = ("--no-options", "--batch", "--no-tty", "--armor", "--output", "-")
    with open_home(config, keyring) as home:
        sign = (*home.arguments, *common, "--detach-sign")
        armored, status = _run(config.gpg, sign, data, home.inherit)
        home.require_signature(status)
        homedir, primary = home.arguments[:2], home.signers[0]
        public_key, _ = _run(config.gpg, (*homedir, *common, "--export", primary), b"")
    return Signature(armored, primary, public_key)


def _run(
    gpg: str, arguments: Sequence[str], data: bytes, inherit: Sequence[int] = ()
) -> tuple[bytes, Sequence[str]]:
    """gpg's output, which stays in memory, and its status lines."""
    output = os.memfd_create("gpg")
    try:
        with GpgProcess(gpg, arguments, output=output, stall=STALL, inherit=inherit) as process:
            process.write(data)
            status = process.finish()
        return os.pread(output, os.fstat(output).st_size, 0), status
    finally:
        os.close(output)


@contextmanager
def readable(data: bytes) -> Iterator[int]:
    """A descriptor to read a few bytes from: they stand on no command line and in no environment."""
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)
        yield reader
    finally:
        os.close(reader)


@contextmanager
def temporary_home(gpg: str) -> Iterator[Path]:
    """A gpg home in memory where there is such a folder; short, for the agent's socket (108 bytes, unix(7)).

    A lock on the folder, which ends with the process, tells one in use from what a
    killed job has left.
    """
    memory = Path("/dev/shm")  # noqa: S108  mkdtemp makes a private folder there, and nothing reaches a disk
    base = memory if os.access(memory, os.W_OK) else Path("/tmp")  # noqa: S108  likewise
    for left in base.glob(f"{PREFIX}*"):
        _remove_abandoned(gpg, left)
    home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (home / "gpg-agent.conf").write_text(AGENT)
        yield home
    finally:
        _remove(gpg, home)
        os.close(lock)


def _remove_abandoned(gpg: str, home: Path) -> None:
    try:
        lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, or just removed
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.fstat(lock).st_uid == os.geteuid()
        if ours and any(home.iterdir()):  # an empty one is about to be locked by its maker
            _remove(gpg, home)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _remove(gpg: str, home: Path) -> None:
    """End the agent and delete the home. An agent that does not hear ends by itself when its home is gone."""
    beside = Path(find_program(gpg)).with_name("gpgconf")
    gpgconf = str(beside) if beside.exists() else "gpgconf"
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [gpgconf, "--homedir", str(home), "--kill", "all"],
            check=False,
            capture_output=True,
            env=environment(),
            timeout=AGENT_TIMEOUT,
        )
    shutil.rmtree(home, ignore_errors=True)
