"""Open conditions on disk, and what each channel was told of them: one small file a condition.

In the state folder and not in the checkpoint, since the checkpoint may be what failed. A file
is there as long as its condition is open, or a channel has not taken the news of its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from esgbatch.alerting.conditions import Cleared, Condition, Name, Severity
from esgbatch.files import lock, private_folder, replacing

SCHEMA = 1
LOCK_SECONDS = 2.0
FORGET_SECONDS = 60 * 86_400.0
LONGEST_KEY = 255


@dataclass(slots=True)
class Told:
    """What a channel has taken: the variant, None before the first time, and whether the end."""

    variant: str | None = None
    end: bool = False


@dataclass(slots=True)
class Entry:
    """A condition with its history. Times are seconds since the epoch."""

    key: str
    environment: str
    host: str
    name: Name
    scope: str
    severity: Severity
    summary: str
    advice: str
    figures: Mapping[str, object]
    variant: str
    opened: float
    ended: float | None = None
    why: str = ""
    quietly: bool = False
    told: dict[str, Told] = field(default_factory=dict)

    def owes(self, channel: str) -> bool:
        """Whether the channel has not been told how it stands."""
        told = self.told.get(channel, Told())
        if self.ended is None:
            return told.variant != self.variant
        return not told.end

    def was_told(self, channel: str) -> bool:
        return self.told.get(channel, Told()).variant is not None

    def took(self, channel: str) -> None:
        """The channel knows now."""
        self.told[channel] = Told(self.variant, self.ended is not None)


class Outbox:
    """The folder of open conditions. Every method may be called from several processes and threads.

    Raises:
        OSError: from every method, where the folder cannot be used.
    """

    def __init__(self, folder: Path, environment: str, host: str) -> None:
        self._folder = folder
        self._environment = environment
        self._host = host

    def open(self, condition: Condition, now: float) -> bool:
        """Note that a condition is there; False where that was known already."""
        with self._alone():
            found = self._read(self._path(condition.name, condition.scope))
            known = found is not None and found.ended is None
            entry = entry_of(condition, self._environment, self._host, now)
            if found is not None and known:
                entry.opened, entry.told, entry.key = found.opened, found.told, found.key
            self._write(entry)
        return not (found is not None and known and found.variant == condition.variant)

    def clear(self, cleared: Cleared, now: float) -> list[Entry]:
        """Note that conditions are over; returns those that were open."""
        ended = []
        with self._alone():
            for entry in self._entries():
                applies = (
                    entry.scope not in cleared.but if cleared.scope is None else entry.scope == cleared.scope
                )
                if applies and entry.name in cleared.names and entry.ended is None:
                    entry.ended, entry.why, entry.quietly = now, cleared.why, cleared.quietly
                    self._write(entry)
                    ended.append(entry)
        return ended

    def is_empty(self) -> bool:
        """Whether no condition is open, and nothing is left to be told."""
        return not any(self._folder.glob("*.json"))

    def owed(self, channel: str) -> list[Entry]:
        """What a channel has yet to be told, oldest first."""
        with self._alone():
            return sorted(
                (entry for entry in self._entries() if entry.owes(channel)), key=lambda entry: entry.opened
            )

    def took(self, entry: Entry, channel: str, channels: list[str], now: float) -> None:
        """The channel was told of `entry` as it stood; what all `channels` know to be over goes."""
        path = self._path(entry.name, entry.scope)
        with self._alone():
            present = self._read(path)
            if present is None or present.opened != entry.opened:
                return
            present.told[channel] = Told(entry.variant, entry.ended is not None)
            settled = not any(present.owes(each) for each in channels)
            if settled and (present.ended is not None or present.opened < now - FORGET_SECONDS):
                path.unlink(missing_ok=True)
            else:
                self._write(present)

    @contextmanager
    def sending(self, channel: str, seconds: float) -> Iterator[None]:
        """Only one process at a time uses a channel, so that nothing is sent twice.

        Raises:
            TimeoutError: another one is at it.
        """
        private_folder(self._folder)
        path = self._folder / f"{channel}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor, fcntl.LOCK_EX, seconds)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        private_folder(self._folder)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock(descriptor, fcntl.LOCK_EX, LOCK_SECONDS)
            for part in self._folder.glob("*.part"):  # of a process that was killed while it wrote
                part.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: Name, scope: str) -> Path:
        safe = re.sub(r"[^A-Za-z0-9-]+", "-", scope)[:80]
        unique = "" if safe == scope else "-" + hashlib.sha256(scope.encode()).hexdigest()[:8]
        return self._folder / f"{safe}{unique}.{name}.json"

    def _entries(self) -> Iterator[Entry]:
        for path in sorted(self._folder.glob("*.json")):
            if (entry := self._read(path)) is not None:
                yield entry

    def _read(self, path: Path) -> Entry | None:
        """What a crash or a hand has spoiled is no entry, and is written anew."""
        try:
            data: dict[str, Any] = json.loads(path.read_bytes())
            told = {channel: Told(**each) for channel, each in data.pop("told").items()}
            if data.pop("schema") != SCHEMA:
                return None
            return Entry(
                **data | {"name": Name(data["name"]), "severity": Severity(data["severity"]), "told": told}
            )
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _write(self, entry: Entry) -> None:
        with replacing(self._path(entry.name, entry.scope)) as file:
            file.write(json.dumps({"schema": SCHEMA, **asdict(entry)}, ensure_ascii=True, default=str).encode())


def entry_of(condition: Condition, environment: str, host: str, now: float) -> Entry:
    """A condition that has just opened; its key says environment, scope and condition."""
    key = f"esgbatch/{environment}/{condition.scope}/{condition.name}"
    if len(key) > LONGEST_KEY:
        key = f"esgbatch/{hashlib.sha256(key.encode()).hexdigest()}"
    return Entry(
        key=key,
        environment=environment,
        host=host,
        name=condition.name,
        scope=condition.scope,
        severity=condition.severity,
        summary=condition.summary,
        advice=condition.advice,
        figures=dict(condition.figures),
        variant=condition.variant,
        opened=now,
    )
