"""The retention policy: what is too old, by its business date, goes; what a legal hold names stays."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path

from esgbatch.config.model import Config
from esgbatch.deadline import Deadline, today
from esgbatch.errors import BatchError, ConfigError, RunHeld, StopRequested
from esgbatch.files import sync_folder
from esgbatch.job import Job
from esgbatch.manifest import manifest_name, sealed_name
from esgbatch.operations.holding import hold
from esgbatch.records import Records


class What(StrEnum):
    """What can be too old. The names stand in the audit trail."""

    RATINGS = "ratings"
    FILES = "files"
    HISTORY = "history"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Item:
    """Something of one business date that is too old; `hold` says why it stays all the same."""

    what: What
    business_date: date
    paths: tuple[Path, ...] = ()
    size: int = 0  # bytes of its files
    accounts: int = 0
    hold: str = ""


@dataclass(frozen=True, slots=True)
class Purged:
    """What came of it: what was removed, and what stayed because a hold names it or a run was at work."""

    removed: tuple[Item, ...]
    stayed: tuple[Item, ...]


def due(config: Config, records: Records, day: date) -> Iterator[Item]:
    """Everything that is too old on `day`, oldest first in its kind; what is on hold says so."""
    retention = config.retention
    holds = Holds(config, records)
    rated = records.privacy.rated()

    def old(each: date, days: int) -> bool:
        return (day - each).days > days

    for each in rated:
        if old(each, retention.ratings_days):
            yield Item(What.RATINGS, each, accounts=_accounts(records, each), hold=holds.on_ratings(each))
    for each, paths in sorted(archived(config.job.state_dir).items()):
        if old(each, retention.files_days):
            yield Item(What.FILES, each, tuple(paths), _size(paths), hold=holds.on_files(each, rated))
    compared = _compared_with(records)
    for each in records.history.dates(date.min, day):
        if old(each, retention.files_days) and each != compared:
            yield Item(What.HISTORY, each, hold=holds.on_ratings(each))
    for each, paths in sorted(logs(config.logging.directory).items()):
        if old(each, retention.logs_days):
            yield Item(What.LOGS, each, tuple(paths), _size(paths), hold=holds.on_logs(each, paths))


def purge(job: Job, *, sparing: date | None = None) -> Purged:
    """Remove what is due, but nothing of the date `sparing`. Killed in between, the next call finishes.

    The trail tells of each removal before it is made, so that nothing goes without a record; where
    a crash came between the two, the next call tells of it again.

    Raises:
        BatchError: something could not be removed; everything else was.
    """
    removed, stayed = [], []
    problems: list[str] = []
    for item in list(due(job.config, job.records, today(job.clock, job.config.zone))):
        if item.business_date == sparing:
            continue
        if item.hold:
            stayed.append(item)
            continue
        try:
            with hold(job, item.business_date, "purge", Deadline(None, job.clock)):
                _remove(job, item)
        except RunHeld:
            stayed.append(item)
        except OSError as error:
            problems.append(f"{error.filename}: {error.strerror}")
        else:
            removed.append(item)
    job.listener.event("purged", removed=len(removed), held=len(stayed))
    if problems:
        raise ConfigError(
            f"{len(problems)} of what is too old could not be removed, first {problems[0]}.",
            advice="correct the rights there, then `esgbatch purge`",
        )
    return Purged(tuple(removed), tuple(stayed))


def tidy(job: Job, delivered: date) -> None:
    """`purge` after a run of that date was delivered; nothing that happens here changes its result."""
    try:
        purge(job, sparing=delivered)
    except (Exception, StopRequested, KeyboardInterrupt) as error:  # noqa: BLE001 - the file is delivered
        told = str(error) if isinstance(error, BatchError) else type(error).__name__
        job.listener.event("purge_failed", error=told)


class Holds:
    """Which dates and accounts are on hold, and why something is."""

    def __init__(self, config: Config, records: Records) -> None:
        self._dates = config.retention.held_dates
        self._accounts = config.retention.held_accounts
        self._with_accounts = records.privacy.holding(sorted(self._accounts)) if self._accounts else {}

    def on_ratings(self, day: date) -> str:
        if day in self._with_accounts:
            return "an account on hold is in it"
        return self.on_date(day)

    def on_files(self, day: date, rated: Sequence[date]) -> str:
        """A file holds every account of its day; who was in it is only known while the accounts are."""
        if self._accounts and day not in rated:
            return "an account on hold may be in it"
        return self.on_ratings(day)

    def on_logs(self, day: date, paths: Iterable[Path]) -> str:
        wanted = [json.dumps(each).encode() for each in self._accounts]
        if wanted and any(each in path.read_bytes() for path in paths for each in wanted):
            return "an account on hold is in it"
        return self.on_date(day)

    def on_date(self, day: date) -> str:
        return "the date is on hold" if day in self._dates else ""


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _accounts(records: Records, day: date) -> int:
    run = records.runs.find(day)
    return 0 if run is None else records.outcomes.tally(run).rows


def _compared_with(records: Records) -> date | None:
    """The date that the gates compare tomorrow's file with: the last one whose whole file was delivered."""
    for day in reversed(records.history.dates(date.min, date.max)):
        run = records.runs.find(day)
        if run and any(each.delivered and not each.partial for each in records.ledger.revisions(run)):
            return day
    return None


def _remove(job: Job, item: Item) -> None:
    run = job.records.runs.find(item.business_date)
    job.audit.append(
        "purged",
        business_date=item.business_date,
        run_id=None if run is None else run.run_id,
        what=item.what,
        accounts=item.accounts,
        files=[_described(path) for path in item.paths],
    )
    for path in item.paths:
        path.unlink(missing_ok=True)
    for folder in sorted({path.parent for path in item.paths}):
        sync_folder(folder)
    if item.what is What.FILES:
        _remove_folders(job.config.job.state_dir / "archive" / f"{item.business_date:%Y%m%d}")
    if run is not None and item.what in (What.RATINGS, What.HISTORY):
        job.records.privacy.purge(run, history=item.what is What.HISTORY)


def _remove_folders(folder: Path) -> None:
    """A date's folder and those of its revisions; one that holds something of others stays."""
    for each in (*sorted(folder.glob("r*")), folder):
        with suppress(OSError):
            each.rmdir()


def _described(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        return {
            "file": str(path),
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            "bytes": path.stat().st_size,
        }


# --- what the job itself has made, and nothing else -------------------------------------------


def archived(state_dir: Path) -> dict[date, list[Path]]:
    """The archived files and manifests by date."""
    found: dict[date, list[Path]] = {}
    for folder in _entries(state_dir / "archive", Path.is_dir):
        day = _date(folder.name)
        if day is None:
            continue
        ours = {name + end for name in (sealed_name(day), manifest_name(day)) for end in ("", ".part")}
        for revision in _entries(folder, Path.is_dir):
            if re.fullmatch(r"r[0-9]+", revision.name):
                found.setdefault(day, []).extend(
                    path for path in _entries(revision, Path.is_file) if path.name in ours
                )
    return {day: paths for day, paths in found.items() if paths}


def logs(directory: Path) -> dict[date, list[Path]]:
    """The log and error files by date."""
    found: dict[date, list[Path]] = {}
    for path in _entries(directory, Path.is_file):
        name = re.fullmatch(r"(?:esgbatch|errors)-([0-9]{8})\.jsonl(?:\.part)?", path.name)
        day = _date(name[1]) if name else None
        if day is not None:
            found.setdefault(day, []).append(path)
    return found


def _entries(folder: Path, kind: Callable[[Path], bool]) -> list[Path]:
    """What is in a folder, in order; never a link, which the job makes none of."""
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink() and kind(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"The folder {folder} cannot be read: {error.strerror}.",
            advice="correct its rights, then `esgbatch purge`",
        ) from None


def _date(text: str) -> date | None:
    with suppress(ValueError):
        if re.fullmatch(r"[0-9]{8}", text):
            return date.fromisoformat(text)
    return None
