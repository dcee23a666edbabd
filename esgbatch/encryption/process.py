"""gpg as a child process that can neither hang the job nor outlive it."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType

import gnupg

from esgbatch.errors import ConfigError, EncryptionError

LIBRARY_TIMEOUT = 60
STALL = 60.0  # seconds without a sign of life
OFFLINE = ("--disable-dirmngr", "--no-auto-key-locate", "--no-auto-key-retrieve")  # no network for gpg
KILL_GRACE = 10.0
PIPE = 1 << 20  # so that gpg goes on while the next piece is made
KEPT_OUTPUT = 1 << 20
FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large")

# At DEBUG python-gnupg logs the first bytes of every key, secret ones too; its warnings become our errors.
logging.getLogger("gnupg").setLevel(logging.CRITICAL)


def environment() -> dict[str, str]:
    """What gpg gets to see: nothing of the job's secrets, and English words that can be looked for."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "LC_ALL": "C"}


def find_program(gpg: str) -> str:
    """The full path of the configured gpg.

    Raises:
        ConfigError: there is none.
    """
    found = shutil.which(gpg)
    if found is None:
        raise ConfigError(
            f"The program {gpg} is not there, so nothing can be encrypted.",
            advice="`apt-get install gnupg` or set encryption.gpg, then `esgbatch doctor`",
        )
    return found


class Library(gnupg.GPG):  # type: ignore[misc]  # python-gnupg carries no types
    """python-gnupg for keys. It waits for gpg without a limit of its own, so `timeout` sets one."""

    def make_args(self, args: list[str], passphrase: bool) -> list[str]:
        return ["timeout", "-s", "KILL", str(LIBRARY_TIMEOUT), *super().make_args(args, passphrase)]


def open_library(gpg: str, home: os.PathLike[str], *options: str) -> Library:
    """python-gnupg on the configured gpg and an own home folder.

    Raises:
        ConfigError: gpg is not installed.
        EncryptionError: it does not run.
    """
    try:
        library = Library(
            gpgbinary=find_program(gpg),
            gnupghome=str(home),
            env=environment(),
            options=["--no-options", "--lock-never", "--no-random-seed-file", *OFFLINE, *options],
        )
    except (OSError, ValueError) as error:
        raise EncryptionError(f"The program {gpg} does not run: {error}.") from error
    if library.version is None:
        raise EncryptionError(f"The program {gpg} does not run: it ended without telling its version.")
    return library


@functools.cache
def _bound_to_parent() -> tuple[str, ...]:
    """What goes before a command so that the kernel kills it when our thread ends, where that can be had."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    command = (setpriv, "--pdeathsig", "KILL")
    try:
        # busybox has a setpriv without this option.
        subprocess.run(
            [*command, "true"], check=True, capture_output=True, env=environment(), timeout=KILL_GRACE
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return command


class GpgProcess:
    """One gpg that reads from us and writes to an open file.

    Everything happens in the caller's thread: the input is non-blocking, and whenever
    gpg does not take it, its messages are read, so that no full pipe blocks either side.
    Leaving the context kills what still runs.
    """

    def __init__(
        self,
        gpg: str,
        arguments: Sequence[str],
        *,
        output: int,
        stall: float,
        inherit: Sequence[int] = (),
        terminal: Mapping[str, str] | None = None,
    ) -> None:
        """Start gpg; `stall` is the longest time in seconds without any sign of life.

        `terminal` are the variables by which an agent finds the person it asks.

        Raises:
            ConfigError: gpg is not installed.
            EncryptionError: it cannot be started.
        """
        program = find_program(gpg)
        self._stall = stall
        self._status_pipe, status_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*_bound_to_parent(), program, "--status-fd", str(status_end), *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(status_end, *inherit),
                env=environment() | dict(terminal or {}),
                start_new_session=True,  # a wrapper's children die with it; Ctrl-C is ours to handle
            )
        except OSError as error:
            os.close(self._status_pipe)
            raise EncryptionError(f"The program {gpg} cannot be started: {error.strerror}.") from error
        finally:
            os.close(status_end)
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._input, self._errors = self._process.stdin, self._process.stderr
        self._status, self._words = bytearray(), bytearray()
        os.set_blocking(self._input.fileno(), False)
        with suppress(OSError):  # more than this user may have
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, PIPE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._input, selectors.EVENT_WRITE)
        self._selector.register(self._status_pipe, selectors.EVENT_READ, self._status)
        self._selector.register(self._errors, selectors.EVENT_READ, self._words)

    def __enter__(self) -> GpgProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._selector.close()
        self._input.close()
        self._errors.close()
        os.close(self._status_pipe)

    def kill(self) -> None:
        """End gpg and what it has started, at once; nothing happens if it has ended."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # it waits for a dead disk; the signal is pending
                self._process.wait(KILL_GRACE)

    def write(self, chunk: bytes) -> None:
        """Give gpg the whole chunk.

        Raises:
            EncryptionError: gpg has ended, with its own words, or takes nothing any more.
        """
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._input.fileno(), rest) :]
            except BlockingIOError:
                self._listen()
            except BrokenPipeError:
                self._wait()
                raise self._failure() from None

    def finish(self) -> tuple[str, ...]:
        """End the input, wait for gpg, and return its status lines without their prefix.

        Raises:
            EncryptionError: its exit code is not 0 (END_ENCRYPTION alone proves nothing:
                gpg 2.2 says it after a failed write, too), or it does not come to an end.
        """
        self._wait()
        if self._process.returncode != 0:
            raise self._failure()
        lines = self._status.decode("utf-8", "replace").splitlines()
        return tuple(line.removeprefix("[GNUPG:] ") for line in lines)

    def _wait(self) -> None:
        with suppress(KeyError):
            self._selector.unregister(self._input)
        self._input.close()
        while self._selector.get_map():
            self._listen()
        try:
            self._process.wait(self._stall)
        except subprocess.TimeoutExpired:
            raise self._stalled() from None

    def _listen(self) -> None:
        """Wait until gpg takes input or says something, and take in what it says."""
        ready = self._selector.select(self._stall)
        if not ready:
            raise self._stalled()
        for key, _ in ready:
            if key.fileobj is self._input:
                continue
            data = os.read(key.fd, 65536)
            key.data.extend(data[: KEPT_OUTPUT - len(key.data)])
            if not data:
                self._selector.unregister(key.fileobj)

    def _stalled(self) -> EncryptionError:
        self.kill()
        return EncryptionError(
            f"gpg gave no sign of life for {self._stall:g} seconds and was killed.",
            advice="look whether the disk or the machine hangs, then `esgbatch resume --date {date}`",
        )

    def _failure(self) -> EncryptionError:
        """The error for a gpg that has ended: what it said, or what ended it."""
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        text = self._words.decode("utf-8", "replace")
        words = "; ".join(line.removeprefix("gpg: ") for line in text.splitlines()[-6:] if line.strip())
        if any(full in text for full in FULL_DISK):
            return disk_full(words)
        return EncryptionError(f"gpg ended with {how}: {words or 'it said nothing'}.")


def disk_full(detail: str) -> EncryptionError:
    """The error for a file that has no room."""
    return EncryptionError(
        f"The disk is full, so the encrypted file could not be written: {detail}.",
        advice="make room where job.state_dir lies, then `esgbatch resume --date {date}`",
    )
