"""The audit trail: who did what to which file, in a keyed hash chain that shows any change.

One JSON object a line. Every record holds the `mac` of the one before as `prev`, and its own
`mac` as the last key: HMAC-SHA256 (RFC 2104) over the line without it, so that

    sed 's/,"mac":"[0-9a-f]*"}$/}/' | openssl dgst -sha256 -mac HMAC -macopt hexkey:KEY

checks a line. A cut tail leaves a whole chain: it shows against an `Anchor`, which leaves
this machine in the manifest, the log and the daily mail.

The file is only ever appended to. A crash amid a write leaves a torn line; it stays where it
is, and the next record ends it and vouches for it with `torn_tail`, the SHA-256 of its bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from esgbatch.config.secrets import require_private
from esgbatch.errors import AuditBroken, CheckpointError, ConfigError
from esgbatch.files import alone, lock, replacing, sync_folder

FILE_NAME = "audit.jsonl"
KEY_FILE = Path("keyring", "audit.key")
KEY_BYTES = 32
LOCK_SECONDS = 30.0
BLOCK = 8192

_RECORD = re.compile(rb'^(\{[^\n]*),"mac":"([0-9a-f]{64})"\}$', re.MULTILINE)
_BROKEN_ADVICE = (
    "keep the file as it is, compare it with the anchors in manifests, logs and mails, "
    "and tell those who answer for security"
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A trail's length and the mac of its last record: whoever keeps it can prove a later cut.

    `source` says who keeps it, for messages.
    """

    n: int
    mac: str
    source: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.n}:{self.mac}"

    @classmethod
    def parse(cls, text: str, source: str = "") -> Anchor:
        """From `N:HASH`, as it stands in manifests, logs and mails.

        Raises:
            ValueError: it is no anchor.
        """
        if (found := re.fullmatch(r"([0-9]{1,15}):([0-9a-f]{64})", text)) is None:
            raise ValueError("an anchor is N:HASH, a number and 64 hex digits")
        return cls(int(found[1]), found[2], source)


ORIGIN = Anchor(0, "0" * 64)


@dataclass(frozen=True, slots=True)
class Entry:
    """A genuine record in its place: its `line` as it lies in the file, without the line's end."""

    anchor: Anchor
    line: bytes
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Examined:
    """A trail that is whole. `torn` bytes at its end are what a crash left of a record that never was."""

    head: Anchor
    torn: int


class AuditTrail:
    """Appends to a trail and verifies it. Processes and threads may share the file."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = key

    def append(
        self,
        action: str,
        *,
        once: bool = False,
        business_date: date | None = None,
        run_id: str | None = None,
        **details: object,
    ) -> Anchor:
        """Write one record; it is on disk when this returns. `details` hold no name and no score.

        With `once` the record is only written where none tells this action, run and details: for
        what is done in two places, of which a crash may have left the second one undone.

        Raises:
            AuditBroken: the last record is not whole or not ours: nothing is built on it.
            CheckpointError: the file cannot be written; it is as it was, or ends in a torn line.
        """
        with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as file:
            last, torn, newline = self._end(file)
            if once and (told := self._told(file, action, run_id, details)):
                return told
            record: dict[str, object] = {
                "n": last.n + 1,
                "time": _now(),
                "actor": _actor(),
                "action": action,
                "business_date": None if business_date is None else business_date.isoformat(),
                "run_id": run_id,
                "details": details,
                "prev": last.mac,
            }
            if torn:
                record["torn_tail"] = _digest(torn)
            body = _canonical(record)
            mac = self._mac(body)
            line = body[:-1] + f',"mac":"{mac}"}}\n'.encode("ascii")
            _append(file, newline + line, self._path.parent)
        return Anchor(last.n + 1, mac)

    def head(self) -> Anchor | None:
        """The last record, to be kept elsewhere; None for an empty trail.

        Raises:
            AuditBroken: the last record is not whole or not ours.
            CheckpointError: the file cannot be read.
        """
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as file:
                last, _, _ = self._end(file)
        except FileNotFoundError:
            return None
        return last if last != ORIGIN else None

    def verify(self, anchor: Anchor | None = None) -> int:
        """Check every record, and that the trail still holds the one `anchor` names. Returns their number.

        Raises:
            AuditBroken: names the first bad record and what is wrong with it.
            CheckpointError: the file cannot be read.
        """
        return self.examine([] if anchor is None else [anchor]).head.n

    def examine(self, anchors: Sequence[Anchor]) -> Examined:
        """Check every record, and that each of `anchors` names one of them.

        Raises:
            AuditBroken: names the first bad record and what is wrong with it; a record that only an
                anchor shows to be bad is named where no other is.
            CheckpointError: the file cannot be read.
        """
        content = self._content()
        missing = set(anchors)
        last = ORIGIN
        for entry in self._entries(content):
            last = entry.anchor
            missing.discard(last)
        for anchor in sorted(missing, key=lambda each: each.n):
            raise self._broken(anchor.n, self._missed(anchor, last))
        end = content.rfind(b"\n") + 1
        return Examined(last, len(content) - end if _RECORD.fullmatch(content, end) is None else 0)

    def entries(self) -> Iterator[Entry]:
        """Every record, checked as it is read.

        Raises:
            AuditBroken: at the first bad record, after those before it.
            CheckpointError: the file cannot be read.
        """
        return self._entries(self._content())

    def last(self, action: str) -> Mapping[str, Any] | None:
        """The details of the last record of this action; None where there is none.

        Raises:
            AuditBroken: that record is not genuine.
            CheckpointError: the file cannot be read.
        """
        wanted = _canonical({"action": action})[1:-1]
        for line in reversed(list(_lines(self._content()))):
            found = _RECORD.fullmatch(line.removesuffix(b"\n"))
            if found is None or wanted not in line:
                continue
            record = self._authentic(found, None)
            if record["action"] == action:
                details: Mapping[str, Any] = record["details"]
                return details
        return None

    @property
    def identity(self) -> str:
        """Tells this trail from others, in logs that several write to: 16 hex digits that its key makes."""
        return self._mac(b"trail")[:16]

    def pseudonym(self, person: str) -> str:
        """What stands in the trail for somebody whose name or ID must not: a keyed hash, 32 hex digits."""
        return self._mac(b"person:" + person.encode("utf-8", "surrogatepass"))[:32]

    def _entries(self, content: bytes) -> Iterator[Entry]:
        last, torn = ORIGIN, b""
        for line in _lines(content):
            bare = line.removesuffix(b"\n")
            found = _RECORD.fullmatch(bare)
            if found is None:
                torn += line
                continue
            n = last.n + 1
            record = self._authentic(found, n)
            if record["n"] != n:
                raise self._broken(n, f"record {record['n']} stands in its place")
            if record["prev"] != last.mac:
                raise self._broken(n, "it does not follow from the record before it")
            if record.get("torn_tail") != (_digest(torn.removesuffix(b"\n")) if torn else None):
                raise self._broken(n, "the line in its place cannot be read, and no record vouches for it")
            last, torn = Anchor(n, found[2].decode("ascii")), b""
            yield Entry(last, bare, record)
        if torn.endswith(b"\n"):
            raise self._broken(last.n + 1, "it cannot be read")

    @staticmethod
    def _missed(anchor: Anchor, last: Anchor) -> str:
        kept = f", as {anchor.source} proves" if anchor.source else ""
        if last == ORIGIN:
            return f"its tail was cut{kept}: the whole trail is gone"
        if anchor.n > last.n:
            return f"its tail was cut{kept}: the trail ends after record {last.n}"
        return f"it is not the one that the anchor names{kept}: the trail was rewritten"

    def _content(self) -> bytes:
        """The file as it is now. The lock is not kept: a paused reader must not hold up the job."""
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as file:
                return os.pread(file, os.fstat(file).st_size, 0)
        except FileNotFoundError:
            return b""

    def _told(self, file: int, action: str, run_id: str | None, details: dict[str, object]) -> Anchor | None:
        """The record with exactly this action, run and details."""
        wanted = [_canonical({key: value})[1:-1] for key, value in (("action", action), ("run_id", run_id))]
        for line in _lines(os.pread(file, os.fstat(file).st_size, 0)):
            found = _RECORD.fullmatch(line.removesuffix(b"\n"))
            if found is None or not all(text in line for text in wanted):
                continue
            record = self._authentic(found, None)
            if (record["action"], record["run_id"], record["details"]) == (action, run_id, details):
                return Anchor(record["n"], found[2].decode("ascii"))
        return None

    def _end(self, file: int) -> tuple[Anchor, bytes, bytes]:
        """The last record, the torn line after it, and the newline that is missing at the end."""
        position, tail = os.fstat(file).st_size, b""
        found: re.Match[bytes] | None = None
        while found is None and position > 0:
            step = min(BLOCK, position)
            position -= step
            tail = os.pread(file, step, position) + tail
            for match in _RECORD.finditer(tail):
                if match.start() > 0 or position == 0:
                    found = match
        last, torn = ORIGIN, tail
        if found is not None:
            last = Anchor(self._authentic(found, None)["n"], found[2].decode("ascii"))
            torn = tail[found.end() :].removeprefix(b"\n")
        if torn.endswith(b"\n"):
            raise self._broken(last.n + 1, "it cannot be read")
        return last, torn, b"" if not tail or tail.endswith(b"\n") else b"\n"

    def _authentic(self, found: re.Match[bytes], n: int | None) -> dict[str, Any]:
        body = found[1] + b"}"
        if not hmac.compare_digest(self._mac(body), found[2].decode("ascii")):
            raise self._broken(n, "its mac is wrong: it was changed, or written with another key")
        record: dict[str, Any] = json.loads(body)
        return record

    def _mac(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()

    @contextmanager
    def _locked(self, flags: int, kind: int) -> Iterator[int]:
        try:
            file = os.open(self._path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                lock(file, kind, LOCK_SECONDS)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not flags & os.O_CREAT:
                raise
            raise CheckpointError(
                f"The audit trail {self._path} cannot be read or written: {error.strerror}.",
                advice="correct that, then `esgbatch resume --date {date}`",
            ) from None

    def _broken(self, n: int | None, why: str) -> AuditBroken:
        which = "The last record" if n is None else f"Record {n}"
        return AuditBroken(f"{which} of the audit trail {self._path} is broken: {why}.", advice=_BROKEN_ADVICE)


def load_or_create_key(state_dir: Path) -> bytes:
    """The trail's key, made at the first call. It never comes anew where there is a trail already.

    Raises:
        ConfigError: others can read the key, it is no key, or it cannot be made.
        AuditBroken: the trail's key is gone.
    """
    path = state_dir / KEY_FILE
    try:
        # In this order: another process may make both, the key first.
        has_trail = (state_dir / FILE_NAME).exists()
        if not path.exists():
            if has_trail:
                raise AuditBroken(
                    f"The audit trail's key {path} is missing: nothing can be checked or added.",
                    advice="bring it back from the backup of the state folder",
                )
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _create_key(path)
        require_private(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The audit trail's key {path} cannot be had: {error.strerror}.") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"The audit trail's key {path} is damaged: it has {len(key)} bytes, not {KEY_BYTES}.")
    return key


def _create_key(path: Path) -> None:
    """Appears whole or not at all, and never over another."""
    with alone(path.parent):
        if not path.exists():
            with replacing(path) as file:
                file.write(secrets.token_bytes(KEY_BYTES))


def _append(file: int, data: bytes, folder: Path) -> None:
    """All of it or, as far as the file system lets us take it back, nothing; then on disk."""
    before = os.fstat(file).st_size
    written = 0
    try:
        written = os.write(file, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        if written:
            with suppress(OSError):
                os.ftruncate(file, before)
        raise
    os.fsync(file)
    if before == 0:
        sync_folder(folder)


def _lines(content: bytes) -> Iterator[bytes]:
    """Lines with their ends; `splitlines` would see more kinds of them."""
    return (match[0] for match in re.finditer(rb"[^\n]*\n|[^\n]+$", content))


def _canonical(record: dict[str, object]) -> bytes:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _actor() -> dict[str, object]:
    uid = os.getuid()
    login = _login()
    return {
        "user": _user(uid),
        "uid": uid,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": _process(),
    } | ({} if login in (None, uid) else {"login": _user(login)})


@cache
def _login() -> int | None:
    """Who logged in before `sudo` or `su`, as the kernel remembers it (proc(5), loginuid)."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return None
    return None if uid == 2**32 - 1 else uid


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _process() -> str:
    """The program and its command; never the options, which may name a person."""
    command = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1].replace("-", "").isalpha() else ""
    return f"{Path(sys.argv[0]).name} {command}".rstrip()
