"""Who touched the delivered file, from the log of the OpenSSH server that keeps it.

`internal-sftp` and `sftp-server` (sftp-server(8), `-l INFO` or VERBOSE) write a line when a session
is opened, a file is opened, closed, renamed or removed. How the line begins depends on who keeps
it: syslog (RFC 3164, or ISO 8601 as rsyslog's newer default), `journalctl` in its text formats and
`-o json`, or nobody (`sftp-server -e`, where a line has neither time nor process).

The same event may come again in a copy, in a rotated file, in another format. What makes it the
same is the server, the process, the second and the words; where one session did the same thing
several times in that second, the number of them. A log that was written twice tells twice that the
session was opened, too, and by that its events are divided.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Any

LONGEST_LINE = 64 * 1024
LONGEST_TEXT = 1024  # OpenSSH itself cuts a message there (MSGBUFSIZ)
MOST_REPEATS = 1000
MARK = 16  # bytes that tell a line from others
GROWING = timedelta(days=1)  # a session without an end that began longer ago has ended

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PROGRAM = r"(?:internal-sftp|sftp-server|sshd(?:-session)?)"
_HEADER = re.compile(
    r"(?:<\d{1,3}>)?(?:"
    r"(?P<month>[A-Z][a-z]{2}) {1,2}(?P<day>\d{1,2}) (?P<clock>\d\d:\d\d:\d\d)(?:\.\d{1,9})?"
    r"|(?:[A-Z][a-z]{2} )?(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,]\d{1,9})?"
    r" ?(?P<zone>Z|[+-]\d\d:?\d\d|[A-Z]{3,5})?"
    r"|(?P<unix>\d{9,11})(?:\.\d{1,9})?"
    rf") (?P<host>\S{{1,255}}) {_PROGRAM}\[(?P<pid>\d{{1,10}})\]: (?P<message>.*)",
    re.ASCII,
)
_REPEATED = re.compile(r"message repeated (\d{1,6}) times: \[ (.*)\]", re.ASCII)

# Paths are matched greedily, so that no file name can end one and forge what comes behind it.
_MESSAGES = tuple(
    (kind, re.compile(pattern, re.ASCII))
    for kind, pattern in (
        ("session", r"session opened for local user (?P<user>.*) from \[(?P<address>.*)\]"),
        ("end", r"session closed for local user .* from \[.*\]"),
        ("opened", r'open "(?P<path>.*)" flags (?P<flags>[A-Z,]*) mode 0[0-7]*'),
        (
            "closed",
            r'(?:forced )?close "(?P<path>.*)" bytes read (?P<read>\d{1,20}) written (?P<written>\d{1,20})',
        ),
        ("removed", r'remove name "(?P<path>.*)"'),
        ("renamed", r'(?:posix-)?rename old "(?P<path>.*)" new "(?P<target>.*)"'),
        ("linked", r'(?:hardlink|symlink|link) old "(?P<path>.*)" new "(?P<target>.*)"'),
        ("listed", r'opendir "(?P<path>.*)"'),
        ("status", r"sent status (?P<status>.*)"),
    )
)
_NAME = re.compile(r"\.?(FirmESGRatings_(\d{8})\.(?:csv\.pgp|manifest\.json))(?:\..+\.part)?", re.ASCII)
_PIECE = re.compile(rb'sftp|" flags |bytes read|written \d+$', re.MULTILINE)
_ESCAPE = re.compile(r"\\(?:([0-7]{3})|(.))", re.DOTALL)
_C_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a", "v": "\v", "f": "\f", "s": " ", "0": "\0"}


@dataclass(frozen=True, slots=True)
class Access:
    """Something that was done to a delivered file or its manifest.

    `kind` is `opened`, `read`, `written`, `removed`, `renamed` or `linked`; `event` is the same
    however often and in whichever format the log is read. `at` is None in a log without times.
    """

    event: str
    kind: str
    at: datetime | None
    server: str
    session: str
    user: str | None
    address: str | None
    path: str
    file: str
    business_date: date
    flags: str | None = None
    bytes: int | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the file is delivered to and by whom; `ours(at)` says whether the job was delivering then."""

    directory: str
    username: str
    ours: Callable[[datetime], bool]


@dataclass(frozen=True, slots=True)
class Harvest:
    """What the logs tell. `own` are the job's own; `growing` wait for the end of a session of its user."""

    accesses: tuple[Access, ...]
    lines: int
    unreadable: int
    own: int
    growing: int


@dataclass(slots=True)
class _Line:
    kind: str
    at: datetime | None
    host: str
    pid: str
    message: str
    fields: dict[str, str]
    times: int = 1
    refused: str | None = None


@dataclass(slots=True)
class _Session:
    began: datetime | None
    user: str | None = None
    address: str | None = None
    wrote: bool = False
    listed: bool = False
    ended: bool = False


@dataclass(slots=True)
class _Kept:
    """The lines that concern us, in their order."""

    lines: list[_Line] = field(default_factory=list)
    last: dict[tuple[str, str], _Line] = field(default_factory=dict)

    def take(self, line: _Line, *, concerns: bool) -> None:
        """A refusal goes to the line of the same process before it; not to a file that is closed later.

        It may also answer something that is not logged, such as a look at a file that is not there.
        """
        process = line.host, line.pid
        if line.kind == "status":
            answered = self.last.get(process)
            if answered is not None and answered.kind in ("opened", "removed", "renamed", "linked"):
                answered.refused = line.fields["status"][:LONGEST_TEXT]
            return
        self.last[process] = line
        if line.kind == "closed" and concerns:
            for each in reversed(self.lines):
                opened = (each.host, each.pid, each.kind, each.fields.get("path"))
                if opened == (*process, "opened", line.fields["path"]):
                    each.refused = None
                    break
        if concerns:
            self.lines.append(line)


@dataclass(slots=True)
class _File:
    """A log file; `head` and `tail` are pieces of lines at its ends that may belong to its neighbours."""

    kept: _Kept = field(default_factory=_Kept)
    count: int = 0
    unreadable: int = 0
    head: bytes = b""
    tail: bytes = b""


def harvest(paths: Sequence[Path], place: Place, *, zone: tzinfo, now: datetime) -> Harvest:
    """Read log files, `.gz` too, in any order. `zone` is that of times without one; `now` tells their year.

    Raises:
        OSError: a file cannot be read.
    """
    reader = _Reader(place.directory, zone, now)
    files = [reader.file(_raw_lines(path)) for path in paths]
    files.sort(key=_order)
    for before, after in pairwise(files):
        reader.join(before, after)
    streams = _streams([file.kept.lines for file in files])
    sessions = _Sessions()
    for stream in streams:
        sessions.learn(stream)
    accesses: dict[str, Access] = {}
    own: set[str] = set()
    growing: set[str] = set()
    for access, session in (each for stream in streams for each in _accesses(stream, sessions)):
        if _is_own(session, access, place):
            own.add(access.event)
        elif session.user == place.username and _may_grow(session, now):
            growing.add(access.event)
        else:
            accesses.setdefault(access.event, access)
    ordered = sorted(accesses.values(), key=lambda access: access.at or _EARLIEST)
    unreadable = sum(file.unreadable + bool(_PIECE.search(file.head)) + bool(file.tail) for file in files)
    return Harvest(tuple(ordered), sum(file.count for file in files), unreadable, len(own), len(growing))


# --- from bytes to lines -----------------------------------------------------------------------


def _raw_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file, "rb") if packed else file as content:
            try:
                while line := content.readline(LONGEST_LINE):
                    whole = len(line) < LONGEST_LINE or line.endswith(b"\n")
                    yield line if whole else b"\n"
                    while not whole:  # no line of ours is so long
                        whole = not (rest := content.readline(LONGEST_LINE)) or rest.endswith(b"\n")
            except (EOFError, zlib.error, gzip.BadGzipFile):  # cut off while it was packed
                return


class _Reader:
    def __init__(self, directory: str, zone: tzinfo, now: datetime) -> None:
        self._directory = directory
        self._zone = zone
        self._now = now

    def file(self, raw: Iterable[bytes]) -> _File:
        file, bare = _File(), _Kept()
        prefix, session = hashlib.sha256(), "#"
        for number, each in enumerate(raw):
            file.count += 1
            if not each.endswith(b"\n"):
                file.tail = each
                break
            prefix.update(each)
            line = self._line(each)
            if number == 0 and (line is None or not line.pid):
                file.head = each  # a line that was cut behind its header looks like one that never had any
            if line is None:
                file.unreadable += number > 0 and b"sftp" in each
            elif line.pid:
                file.kept.take(line, concerns=self._concerns(line))
            else:
                # There is no process to tell sessions apart: what the log was until this one began does.
                session = f"#{prefix.hexdigest()[:16]}" if line.kind == "session" else session
                line.pid = session
                bare.take(line, concerns=self._concerns(line))
        if not file.kept.last:  # only then are lines without a header no pieces of lines
            file.kept = bare
            file.head = b"" if bare.last else file.head
        return file

    def join(self, before: _File, after: _File) -> None:
        """A line that was cut by the rotation."""
        line = self._line(before.tail + after.head) if before.tail and after.head else None
        if line is not None and line.pid and line.kind != "other":
            before.tail = after.head = b""
            before.kept.take(line, concerns=self._concerns(line))

    def _concerns(self, line: _Line) -> bool:
        if line.kind in ("session", "end"):
            return True
        if line.kind == "listed":
            return _alike(line.fields["path"], self._directory)
        return any(
            _NAME.fullmatch(posixpath.basename(path)) and _alike(posixpath.dirname(path), self._directory)
            for path in (line.fields.get("path"), line.fields.get("target"))
            if path is not None
        )

    def _line(self, raw: bytes) -> _Line | None:
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
        found = _json_header(text) if text.startswith("{") else self._header(text)
        at, host, pid, message = found or (None, "", "", text)
        times = 1
        if (repeated := _REPEATED.fullmatch(message)) is not None:
            times, message = min(int(repeated[1]), MOST_REPEATS), repeated[2]
        message = message.removesuffix(" [postauth]")
        for kind, pattern in _MESSAGES:
            if (said := pattern.fullmatch(message)) is not None:
                fields = {key: _unescaped(value) for key, value in said.groupdict().items()}
                return _Line(kind, at, host, pid, message, fields, times)
        return _Line("other", at, host, pid, message, {}) if found else None

    def _header(self, text: str) -> tuple[datetime | None, str, str, str] | None:
        found = _HEADER.fullmatch(text)
        if found is None:
            return None
        try:
            at = self._time(found)
        except (ValueError, OverflowError, OSError):
            return None
        return at, found["host"], found["pid"], found["message"]

    def _time(self, found: re.Match[str]) -> datetime:
        if found["unix"]:
            return datetime.fromtimestamp(int(found["unix"]), UTC)
        if found["iso"]:
            at = datetime.fromisoformat(found["iso"])
            offset = found["zone"] or ""
            if offset in ("Z", "UTC", "GMT"):
                return at.replace(tzinfo=UTC)
            if offset[:1] in ("+", "-"):
                return datetime.strptime(f"{at:%Y%m%d%H%M%S}{offset}", "%Y%m%d%H%M%S%z").astimezone(UTC)
            return at.replace(tzinfo=self._zone).astimezone(UTC)
        month = _MONTHS.index(found["month"]) + 1
        hour, minute, second = map(int, found["clock"].split(":"))
        latest = (self._now + timedelta(days=1)).astimezone(self._zone)
        for year in range(latest.year, latest.year - 9, -1):  # a 29 February may be eight years away
            try:
                at = datetime(year, month, int(found["day"]), hour, minute, min(second, 59), tzinfo=self._zone)
            except ValueError:
                continue
            if at <= latest:
                return at.astimezone(UTC)
        raise ValueError("no such day")


def _json_header(text: str) -> tuple[datetime | None, str, str, str] | None:
    """A line of `journalctl -o json` (systemd.journal-fields(7))."""
    try:
        entry: Any = json.loads(text)
        if not isinstance(entry, dict) or not re.fullmatch(_PROGRAM, str(entry.get("SYSLOG_IDENTIFIER", ""))):
            return None
        message = entry["MESSAGE"]
        if isinstance(message, list):  # bytes that are no UTF-8
            message = bytes(message).decode("utf-8", "replace")
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) // 1_000_000, UTC)
        pid = str(entry.get("SYSLOG_PID") or entry["_PID"])
        if not isinstance(message, str) or not re.fullmatch(r"\d{1,10}", pid, re.ASCII):
            return None
        return at, str(entry["_HOSTNAME"])[:255], pid, message
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return None


def _unescaped(text: str) -> str:
    """OpenSSH writes what is not printable as octal or C escapes (vis(3)), UTF-8 a byte at a time."""
    if "\\" not in text:
        return text
    raw = _ESCAPE.sub(
        lambda found: chr(int(found[1], 8) & 255) if found[1] else _C_ESCAPES.get(found[2], found[2]),
        "".join(c if ord(c) < 128 else "".join(map(chr, c.encode("utf-8", "replace"))) for c in text),
    )
    return "".join(c if ord(c) < 256 else "?" for c in raw).encode("latin-1").decode("utf-8", "replace")


def _alike(logged: str, directory: str) -> bool:
    """Whether they may be the same folder: a chroot or a start folder hides the beginning of either."""
    one, two = (
        [part for part in posixpath.normpath(path or ".").split("/") if part not in ("", ".")]
        for path in (logged, directory)
    )
    shorter, longer = sorted((one, two), key=len)
    return not shorter or longer[-len(shorter) :] == shorter


# --- copies and pieces of the same log ---------------------------------------------------------


def _streams(files: Sequence[list[_Line]]) -> list[list[_Line]]:
    """Files in the order of their times, without copies; pieces that follow one another are put together.

    A piece may begin with the end of the one before. That is only believed of more than one process
    or second, or of a session's beginning: who gets a file twice at once leaves the same lines twice.
    """
    streams: list[list[_Line]] = []
    for lines in files:
        marks = _marks(lines)
        for stream in streams:
            known = _marks(stream)
            if _within(marks, known):
                break
            if _within(known, marks):
                stream[:] = lines
                break
            if _ends(stream) <= _begins(lines):
                stream += lines[_overlap(stream, lines) :]
                break
        else:
            streams.append(list(lines))
    return streams


def _overlap(before: Sequence[_Line], after: Sequence[_Line]) -> int:
    ours, theirs = _marks(before), _marks(after)
    for at, mark in enumerate(ours):
        count = len(ours) - at
        if theirs and mark == theirs[0] and ours[at:] == theirs[:count]:
            both = after[:count]
            sure = any(line.kind == "session" for line in both) or len({_words(line)[:3] for line in both}) > 1
            return count if sure else 0
    return 0


def _within(few: Sequence[bytes], many: Sequence[bytes]) -> bool:
    one, other = b"".join(few), b"".join(many)
    at = other.find(one)
    while at > 0 and at % MARK:
        at = other.find(one, at + 1)
    return at >= 0


def _marks(lines: Sequence[_Line]) -> list[bytes]:
    return [bytes.fromhex(_identity(*_words(line)))[:MARK] for line in lines]


def _order(file: _File) -> tuple[datetime, datetime, bool]:
    """By time; in the same second, a file that begins amid a line comes after the one that ends amid it."""
    if file.tail and file.count == 1:
        return _EARLIEST, _EARLIEST, False
    return _begins(file.kept.lines), _ends(file.kept.lines), bool(file.head)


def _begins(lines: Sequence[_Line]) -> datetime:
    return min((line.at for line in lines if line.at is not None), default=_LATEST)


def _ends(lines: Sequence[_Line]) -> datetime:
    return max((line.at for line in lines if line.at is not None), default=_EARLIEST)


# --- from lines to what was done ---------------------------------------------------------------


class _Sessions:
    """Which session a line belongs to: the last one that its process opened."""

    def __init__(self) -> None:
        self._by_process: dict[tuple[str, str], list[_Session]] = {}

    def learn(self, lines: Sequence[_Line]) -> None:
        for line in lines:
            if line.kind == "session":
                self._opened(line)
                continue
            session = self.of(line)
            session.ended = session.ended or line.kind == "end"
            session.listed = session.listed or line.kind == "listed"
            session.wrote = session.wrote or (_brings(line) and line.refused is None)

    def of(self, line: _Line) -> _Session:
        known = self._by_process.setdefault((line.host, line.pid), [])
        for session in reversed(known):
            if line.at is None or session.began is None or session.began <= line.at:
                return session
        known.insert(0, _Session(None))
        return known[0]

    def _opened(self, line: _Line) -> None:
        known = self._by_process.setdefault((line.host, line.pid), [])
        user, address = line.fields["user"], line.fields["address"]
        if not any((each.began, each.user, each.address) == (line.at, user, address) for each in known):
            known.append(_Session(line.at, user, address))
            known.sort(key=lambda each: each.began or _EARLIEST)


def _brings(line: _Line) -> bool:
    """Whether it writes, or puts into place, one of the courier's temporary files."""
    temporary = posixpath.basename(line.fields.get("path", ""))
    if _NAME.fullmatch(temporary) is None or not temporary.endswith(".part"):
        return False
    return line.kind == "renamed" or (line.kind == "opened" and "WRITE" in line.fields["flags"].split(","))


def _accesses(lines: Sequence[_Line], sessions: _Sessions) -> Iterator[tuple[Access, _Session]]:
    opened = Counter(_words(line) for line in lines if line.kind == "session")
    copies: dict[int, int] = {}
    for line in lines:
        if line.kind == "session":
            session = sessions.of(line)
            copies[id(session)] = max(copies.get(id(session), 1), opened[_words(line)])
    counted: Counter[tuple[str, ...]] = Counter()
    found: dict[tuple[str, ...], _Line] = {}
    for line in lines:
        if line.kind in ("opened", "closed", "removed", "renamed", "linked"):
            counted[_words(line)] += line.times
            found.setdefault(_words(line), line)
    for words, line in found.items():
        session = sessions.of(line)
        number = -(-counted[words] // copies.get(id(session), 1))
        for each in _told(line, session):
            for ordinal in range(1, number + 1):
                yield replace(each, event=_identity(*words, each.kind, str(ordinal))), session


def _told(line: _Line, session: _Session) -> Iterator[Access]:
    """The accesses that one line tells of."""
    for path in (line.fields.get("path"), line.fields.get("target")):
        name = None if path is None else _NAME.fullmatch(posixpath.basename(path))
        if path is None or name is None:
            continue
        try:
            day = datetime.strptime(name[2], "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            continue
        access = Access(
            event="",
            kind=line.kind,
            at=line.at,
            server=line.host,
            session=line.pid,
            user=None if session.user is None else session.user[:LONGEST_TEXT],
            address=None if session.address is None else session.address[:LONGEST_TEXT],
            path=path[:LONGEST_TEXT],
            file=name[1],
            business_date=day,
            flags=line.fields.get("flags"),
            refused=line.refused,
        )
        if line.kind != "closed":
            yield access
            return
        for kind, count in (("read", int(line.fields["read"])), ("written", int(line.fields["written"]))):
            if count:
                yield replace(access, kind=kind, bytes=count)
        return


def _words(line: _Line) -> tuple[str, ...]:
    """What makes two lines the same; without the year, which syslog does not write."""
    at = "" if line.at is None else f"{line.at:%m-%dT%H:%M:%S}"
    return line.host, line.pid, at, line.message


def _identity(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _is_own(session: _Session, access: Access, place: Place) -> bool:
    """A session that brought the file; or one of our user's that looked after it while the job delivered."""
    if session.user is not None and session.user != place.username:
        return False
    if session.wrote:
        return True
    looked = session.user is not None and session.listed and access.at is not None
    return looked and access.at is not None and place.ours(access.at)


def _may_grow(session: _Session, now: datetime) -> bool:
    return not session.ended and session.began is not None and now - session.began < GROWING
