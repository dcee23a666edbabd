"""JSON lines for machines, one file a business date, and short warnings on stderr for people.

`docs/logging.md` is the contract with those who read the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeGuard

from loguru import logger

from esgbatch import __version__
from esgbatch.config.model import Logging
from esgbatch.config.secrets import redact
from esgbatch.errors import BatchError, ConfigError, StopRequested
from esgbatch.model import Snapshot
from esgbatch.observability.events import (
    EVENTS,
    Level,
    describe,
    error_text,
    level,
    moment,
    plain,
    rfc3339,
)
from esgbatch.untrusted import printable

if TYPE_CHECKING:
    from loguru import Message, Record

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640
PROGRESS_SECONDS = 60.0
LONGEST_TEXT = 2_000
LONGEST_TRACEBACK = 8_000
INNERMOST_FRAMES = 30

FIXED_FIELDS = (
    "time",
    "level",
    "event",
    "message",
    "run_id",
    "business_date",
    "revision",
    "stage",
    "environment",
    "host",
    "pid",
    "program",
)

# An event that carries one of these sets it for every later line of the process.
_RUN_FIELDS = ("run_id", "revision", "stage")

# The command line tells how a run ended, with advice; libraries' own words are for the file.
_NOT_ON_STDERR = frozenset({"run_failed", "library"})

# Like loguru's logger, this belongs to the process.
_context: dict[str, object] = {}


def configure(
    settings: Logging,
    *,
    environment: str,
    business_date: date,
    zone: tzinfo = UTC,
    stderr_level: Level = "WARNING",
) -> Path:
    """Send log lines to the date's file and, from `stderr_level` up, to stderr. Returns the file.

    The date is the business date, so that a run over midnight has one file. Lines in the file
    are in UTC; people read stderr, in `zone`, as all else that they see.
    A second call replaces the first one's sinks.

    Raises:
        ConfigError: the file cannot be opened for appending.
    """
    path = settings.directory / f"esgbatch-{business_date:%Y%m%d}.jsonl"
    file = _LogFile(path, _open(path))
    logger.remove()
    _context.clear()
    _context.update(
        business_date=business_date.isoformat(),
        environment=environment,
        host=socket.gethostname(),
        program=f"esgbatch {__version__}",
    )
    # loguru's `catch` would print the raw record, secrets included; `diagnose` shows variables.
    for sink, least in ((file, settings.level), (_to_stderr(zone), stderr_level)):
        logger.add(sink, level=least, format="{message}", backtrace=False, diagnose=False, catch=False)
    logging.getLogger().addHandler(_libraries)
    return path


def _open(path: Path) -> int:
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(DIRECTORY_MODE)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, FILE_MODE)
        if os.fstat(descriptor).st_size == 0:
            # The program's umask is for its state; a log is there for its group to ship.
            os.fchmod(descriptor, FILE_MODE)
        return descriptor
    except OSError as error:
        folder = shlex.quote(str(path.parent))
        raise ConfigError(
            f"The log file {path} cannot be written: {error.strerror}.",
            advice=f"give this user the folder, `install -d -m 0750 -o USER {folder}`, "
            "or set logging.directory, then `esgbatch doctor`",
        ) from None


class LogListener:
    """The run's events as log lines."""

    def __init__(self) -> None:
        self._last_progress: float | None = None

    def event(self, name: str, /, **fields: object) -> None:
        """Log an event of the table; an exception among the fields that is a bug brings its traceback."""
        self._log(name, fields)

    def progress(self, snapshot: Snapshot) -> None:
        """Log one snapshot a minute."""
        last = self._last_progress
        if last is not None and 0 <= snapshot.at - last < PROGRESS_SECONDS:
            return
        self._last_progress = snapshot.at
        self._log(
            "progress",
            {
                "stage": snapshot.stage,
                "done": snapshot.done,
                "total": snapshot.total,
                "failed": snapshot.failed,
                "rate": snapshot.rate,
                "in_flight": snapshot.in_flight,
                "concurrency": snapshot.concurrency,
                "retries_waiting": snapshot.retries_waiting,
                "attempts": snapshot.attempts,
                "latency_p50": snapshot.latency_p50,
                "latency_p95": snapshot.latency_p95,
                "held": snapshot.held,
                "held_until": moment(snapshot.held_until),
                "eta": moment(snapshot.eta),
                "deadline": moment(snapshot.deadline),
                "forecast": moment(snapshot.forecast),
                "rate_needed": snapshot.rate_needed,
                "at_risk": snapshot.at_risk,
                "fits": snapshot.fits,
            },
        )

    def _log(self, name: str, fields: dict[str, object]) -> None:
        safe = {key: plain(value) for key, value in fields.items()}
        if name in EVENTS and (stage := EVENTS[name].stage):
            _context["stage"] = str(stage)
        _context.update((key, safe.pop(key)) for key in _RUN_FIELDS if key in safe)
        bug = next((value for value in fields.values() if _is_bug(value)), None)
        taken = {f"event_{key}" if key in FIXED_FIELDS else key: value for key, value in safe.items()}
        logger.opt(exception=bug).bind(event=name, **taken).log(level(name), describe(name, safe))


class _LogFile:
    """A loguru sink: one `write` a line, so that many processes can append (open(2), O_APPEND).

    A disk that takes no line is told once on stderr and never stops the job. When it takes
    lines again, a `log_gap` line says how many are missing.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lost = 0
        self._told = False
        self._torn = False

    def write(self, message: Message) -> None:
        record = message.record
        line = _json_line(record)
        try:
            self._append(self._gap(record) + line)
            self._lost = 0
        except OSError as error:
            self._lost += 1
            if not self._told:
                self._told = True
                _tell(
                    f"warning: the log file {self._path} cannot be written ({error.strerror}): "
                    "the job goes on, errors are shown here"
                )
            if record["level"].no >= logger.level("ERROR").no:
                _tell(line.rstrip("\n"))

    def _append(self, text: str) -> None:
        data = (b"\n" if self._torn else b"") + text.encode("ascii")
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._torn = True
            raise OSError(0, "it takes only a part of a line")
        self._torn = False

    def _gap(self, record: Record) -> str:
        if not self._lost:
            return ""
        fields = {"lines": self._lost}
        gap: dict[str, object] = {"event": "log_gap", **fields}
        return _line(record, level("log_gap"), describe("log_gap", fields), gap)

    def stop(self) -> None:
        os.close(self._descriptor)


def _to_stderr(zone: tzinfo) -> Callable[[Message], None]:
    def write(message: Message) -> None:
        record = message.record
        if record["extra"].get("event") not in _NOT_ON_STDERR:
            at = record["time"].astimezone(zone)
            _tell(f"{at:%H:%M:%S %Z} {record['level'].name.lower()}: {record['message']}")

    return write


def _tell(text: str) -> None:
    """To stderr as it is now: a progress bar may stand in its place. A closed one is no reason to stop."""
    stream: TextIO | None = sys.stderr
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(printable(redact(text)) + "\n")
            stream.flush()


def _json_line(record: Record) -> str:
    fields = dict(record["extra"])
    if record["exception"] is not None and record["exception"].value is not None:
        fields.setdefault("error", error_text(record["exception"].value))
        fields["traceback"] = _traceback(record["exception"].value)
    return _line(record, record["level"].name, record["message"], fields)


def _line(record: Record, grade: str, message: str, fields: dict[str, object]) -> str:
    """One line of ASCII. Secrets go before the encoding, which would hide those with a quote in them."""
    known = {"time": _time(record), "level": grade, "message": message, **_context, **fields}
    known["pid"] = os.getpid()
    ordered = {name: known.pop(name, None) for name in FIXED_FIELDS} | known
    clean = {name: _clean(value, _limit(name)) for name, value in ordered.items()}
    return json.dumps(clean, separators=(",", ":")) + "\n"


def _time(record: Record) -> str:
    return rfc3339(record["time"])


def _limit(name: str) -> int:
    return LONGEST_TRACEBACK if name == "traceback" else LONGEST_TEXT


def _clean(value: object, limit: int) -> object:
    """`plain` values without secrets, numbers that are one included, and not endless."""
    if isinstance(value, str):
        text = redact(value)
        return text if len(text) <= limit else f"{text[:limit]}[cut]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = redact(str(value))
        return value if text == str(value) else text
    if isinstance(value, dict):
        return {key: _clean(item, limit) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, limit) for item in value]
    return value


def _traceback(error: BaseException) -> str:
    """Where it happened, and through what; the stack has source lines, no values."""
    return "\ncame from:\n".join(
        "".join(traceback.format_tb(link.__traceback__, limit=-INNERMOST_FRAMES)) + error_text(link)
        for link in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and, one after another, those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_bug(value: object) -> TypeGuard[BaseException]:
    return isinstance(value, BaseException) and not isinstance(value, (BatchError, StopRequested))


class _LibraryHandler(logging.Handler):
    """Warnings that libraries write through the standard library; without it, raw to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        grade = record.levelname if record.levelname in ("WARNING", "ERROR", "CRITICAL") else "WARNING"
        with contextlib.suppress(Exception):  # the library must not fail by its own log line
            logger.bind(event="library", logger=record.name).log(grade, record.getMessage())


_libraries = _LibraryHandler(logging.WARNING)
