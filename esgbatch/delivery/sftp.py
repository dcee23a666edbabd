"""Delivery by SFTP: both files whole under their final names, the manifest last, or nothing new at all."""

from __future__ import annotations

import errno
import hashlib
import io
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from esgbatch.config.model import Delivery
from esgbatch.delivery.client import SLOWEST, UNEXPLAINED, SftpClient
from esgbatch.delivery.session import PASSING, REPLIES, open_session
from esgbatch.errors import DeliveryError, SealedFileMissing
from esgbatch.model import Digest, Package, Receipt, Step
from esgbatch.ports import Clock, Listener

VERIFIED_BY = "sha256 read back"
BACKOFF_BASE = 1.0
BACKOFF_MAX = 30.0


@dataclass(frozen=True, slots=True)
class _Item:
    """One of the two files, where it goes, and the name it has until it is whole."""

    final: str
    temporary: str
    digest: Digest
    open: Callable[[], BinaryIO]


class _Ledger:
    """The steps noted so far: each is noted once, however many attempts there are."""

    def __init__(self, done: Sequence[Step], note: Callable[[Step, str], None]) -> None:
        self._noted = set(done)
        self._note = note

    def __contains__(self, step: Step) -> bool:
        return step in self._noted

    def note(self, step: Step, detail: str) -> None:
        if step not in self._noted:
            self._note(step, detail)
            self._noted.add(step)


class SftpCourier:
    """The `Courier` for an SFTP drop folder.

    A file is uploaded under a hidden temporary name, read back and hashed there, and renamed
    over the final name, which is never deleted and never written to. What has been done is
    decided by a look at the server, not by the ledger, so every call and every attempt does
    what is missing. Only where the receiver takes files away at once is the ledger believed:
    after `RENAMING` a temporary file that is gone has been renamed.
    """

    def __init__(
        self,
        config: Delivery,
        clock: Clock,
        listener: Listener,
        *,
        before_replacing: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_replacing` is called before each rename over a final name, and may raise."""
        self._config = config
        self._clock = clock
        self._listener = listener
        self._before_replacing = before_replacing

    def deliver(self, package: Package, *, done: Sequence[Step], note: Callable[[Step, str], None]) -> Receipt:
        """Deliver once, however often this is called; see `ports.Courier`.

        An attempt ends after ten timeouts and the time that the file takes there and back at
        64 KiB a second, or sooner: at the first answer that takes longer than the timeout.

        Raises:
            DeliveryError: all attempts failed, or the first in a way that does not pass.
            ConfigError: private key, passphrase or known_hosts cannot be used.
        """
        ledger = _Ledger(done, note)
        location = self._location(package)
        ledger.note(Step.INTENDED, location)
        attempt = 1
        while not self._attempted(package, ledger, attempt):
            self._clock.sleep(min(BACKOFF_MAX, BACKOFF_BASE * 2 ** (attempt - 1)))
            attempt += 1
        return Receipt(location, VERIFIED_BY, attempt)

    def _attempted(self, package: Package, ledger: _Ledger, attempt: int) -> bool:
        """Whether this attempt succeeded; False where another one is worth while."""
        limit = REPLIES * self._config.timeout + 2 * package.digest.size / SLOWEST
        try:
            with open_session(self._config, limit) as sftp:
                self._bring(sftp, package, ledger)
        except DeliveryError as error:
            self._listener.event("delivery_attempt_failed", attempt=attempt, error=str(error))
            raise
        except PASSING as error:
            reason = self._reason(error)
            self._listener.event("delivery_attempt_failed", attempt=attempt, error=reason)
            if attempt >= self._config.attempts:
                raise DeliveryError(
                    f"Delivery to {self._location(package)} failed {attempt} times, at last with: {reason}."
                ) from error
            return False
        return True

    # --- one attempt ---------------------------------------------------------------------------

    def _bring(self, sftp: SftpClient, package: Package, ledger: _Ledger) -> None:
        file, manifest = items = self._items(package)
        try:
            waiting = self._waiting(sftp, items, ledger)
            if waiting:
                self._stage(sftp, waiting, ledger)
                ledger.note(Step.RENAMING, ", ".join(item.temporary for item in waiting))
                for item in waiting:
                    self._replace(sftp, item)
            ledger.note(Step.RENAMED, f"{file.final}, {manifest.final}")
            if not self._config.remote_consumes_file:
                self._check_in_place(sftp, file)
        except PermissionError as error:
            raise DeliveryError(
                f"The SFTP server lets {self._config.username} log in, but not do what a delivery to "
                f"{self._config.directory} needs: {error.strerror}.",
                advice="have this user allowed to create, read, chmod and rename files there, "
                "then `esgbatch doctor`",
            ) from error
        self._remove_leftovers(sftp, package)

    def _waiting(self, sftp: SftpClient, items: Sequence[_Item], ledger: _Ledger) -> Sequence[_Item]:
        """What is not in place yet. With the file its manifest always waits too: it comes last."""
        for index, item in enumerate(items):
            if not self._in_place(sftp, item, ledger):
                return items[index:]
        return ()

    def _in_place(self, sftp: SftpClient, item: _Item, ledger: _Ledger) -> bool:
        try:
            if sftp.holds(item.final, item.digest):
                return True
        except PermissionError:
            return False  # somebody else's file: renaming over it is up to the folder's rights
        taken = self._config.remote_consumes_file and Step.RENAMING in ledger
        return taken and not sftp.exists(item.temporary)

    def _stage(self, sftp: SftpClient, items: Sequence[_Item], ledger: _Ledger) -> None:
        """Bring `items` under their temporary names, ready to be renamed."""
        missing = [item for item in items if not sftp.holds(item.temporary, item.digest)]
        for item in missing:
            self._upload(sftp, item)
        ledger.note(Step.UPLOADED, f"{sum(item.digest.size for item in items)} bytes")
        for item in missing:
            if not sftp.holds(item.temporary, item.digest):
                raise OSError(errno.EIO, "the server gives back other bytes than it was sent")
        ledger.note(Step.VERIFIED, f"{VERIFIED_BY}: {items[0].digest.sha256}")
        for item in items:
            sftp.chmod(item.temporary, int(self._config.mode, 8))

    def _upload(self, sftp: SftpClient, item: _Item) -> None:
        try:
            source = item.open()
        except FileNotFoundError as error:
            raise SealedFileMissing(f"The sealed file cannot be read: {error.strerror}.") from error
        except OSError as error:
            raise DeliveryError(f"The sealed file cannot be read: {error.strerror}.") from error
        with source:
            try:
                sent = sftp.upload(source, item.temporary)
            except FileNotFoundError as error:
                raise DeliveryError(
                    f"The drop folder {self._config.directory} is not there on {self._config.host}.",
                    advice="have it made, or correct delivery.directory, then `esgbatch deliver --date {date}`",
                ) from error
        if sent != item.digest:
            raise DeliveryError(
                "The sealed file on this machine is not what was sealed: size or hash differs.",
                advice="bring it back from a backup, then `esgbatch deliver --date {date}`",
            )

    def _replace(self, sftp: SftpClient, item: _Item) -> None:
        self._before_replacing()
        try:
            sftp.replace(item.temporary, item.final)
        except (TimeoutError, PermissionError, FileNotFoundError):
            raise
        except OSError as error:
            if sftp.can_replace or not sftp.exists(item.final):
                raise
            raise DeliveryError(
                f"{item.final} exists, and the SFTP server cannot replace a file in one step: it lacks "
                "posix-rename@openssh.com. The old file is untouched.",
                advice="ask the server's owner for that extension, or to take the old file away, "
                "then `esgbatch deliver --date {date}`",
            ) from error

    def _check_in_place(self, sftp: SftpClient, item: _Item) -> None:
        try:
            size = sftp.stat(item.final).st_size
        except FileNotFoundError as error:
            raise DeliveryError(
                f"{item.final} was put in place, and is gone already.",
                advice="if the receiver takes files away at once, set delivery.remote_consumes_file = true; "
                "ask it whether it has this one before `esgbatch deliver --date {date}`",
            ) from error
        if size != item.digest.size:
            raise OSError(errno.EIO, f"{item.final} has {size} bytes instead of {item.digest.size}")

    def _remove_leftovers(self, sftp: SftpClient, package: Package) -> None:
        """Remove what earlier revisions left under temporary names of ours; delivery does not depend on it."""
        names = "|".join(map(re.escape, (package.name, package.manifest_name)))
        ours = re.compile(rf"\.({names})\..+\.part")
        try:
            for name in filter(ours.fullmatch, sftp.listdir(self._config.directory)):
                sftp.remove(posixpath.join(self._config.directory, name))
                self._listener.event("delivery_leftover_removed", file=name)
        except PASSING as error:
            self._listener.event("delivery_cleanup_failed", error=self._reason(error))

    # --- names and words -----------------------------------------------------------------------

    def _items(self, package: Package) -> tuple[_Item, _Item]:
        def item(name: str, digest: Digest, source: Callable[[], BinaryIO]) -> _Item:
            folder = self._config.directory
            temporary = posixpath.join(folder, f".{name}.{package.token}.part")
            return _Item(posixpath.join(folder, name), temporary, digest, source)

        manifest = Digest(hashlib.sha256(package.manifest).hexdigest(), len(package.manifest))
        return (
            item(package.name, package.digest, lambda: package.path.open("rb")),
            item(package.manifest_name, manifest, lambda: io.BytesIO(package.manifest)),
        )

    def _location(self, package: Package) -> str:
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        path = posixpath.join(self._config.directory, package.name).lstrip("/")
        return f"sftp://{host}:{self._config.port}/{path}"

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return str(error) or f"no answer within {self._config.timeout:g} s"
        if isinstance(error, OSError) and error.errno == UNEXPLAINED:
            return f"{error.strerror}; the server does not say why, a full disk or quota looks like this"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return str(error).rstrip(": ") or "the connection ended"
