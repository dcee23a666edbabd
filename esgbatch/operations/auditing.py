"""What `audit` does: show the trail, verify it, give it to an auditor, and take in the SFTP server's log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO

from esgbatch.compliance.audit import (
    FILE_NAME,
    KEY_FILE,
    Anchor,
    AuditTrail,
    Entry,
    Examined,
    load_or_create_key,
)
from esgbatch.compliance.bundle import Bundle
from esgbatch.compliance.sftplog import Access, Harvest, Place, harvest
from esgbatch.config.model import Config
from esgbatch.config.salvage import Essentials
from esgbatch.encryption.signing import sign_detached
from esgbatch.errors import AuditBroken, BatchError, ConfigError, ExitCode, NothingToDo, RunHeld, WrongUsage
from esgbatch.files import alone, private_folder
from esgbatch.manifest import sealed_name
from esgbatch.operations import anchors
from esgbatch.records import Records

GONE_ADVICE = "bring the state folder back from its backup, and tell those who answer for security"
TOUCHED = "drop_"  # and what was done: drop_opened, drop_read …

OpenRecords = Callable[[], Records]


def open_trail(config: Config | Essentials) -> AuditTrail:
    """The trail, for looking at: nothing is made.

    Raises:
        NothingToDo: there is none, and nothing says that there ever was.
        AuditBroken: it is gone, or its key is.
        ConfigError: this user may not look into the state folder.
    """
    folder = config.job.state_dir
    trail, key = folder / FILE_NAME, folder / KEY_FILE
    try:
        has_trail, has_key = trail.exists(), key.exists()
    except OSError as error:
        raise ConfigError(
            f"The state folder {folder} cannot be looked into: {error.strerror}.",
            advice="call it as the job's user",
        ) from None
    if not has_trail and not has_key and not (kept := list(anchors.archived(folder))):
        raise NothingToDo(
            f"There is no audit trail {trail} yet: the first run begins it.", advice="`esgbatch run`"
        )
    if has_trail or has_key:
        opened = AuditTrail(trail, load_or_create_key(folder))
        kept = [*anchors.archived(folder), *anchors.logged(config.logging.directory, opened.identity)]
        if has_trail or not kept:
            return opened
    last = max(kept, key=lambda each: each.n)
    raise AuditBroken(
        f"The audit trail {trail} is gone: {last.source} proves that it had {last.n:,} records.",
        advice=GONE_ADVICE,
    )


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted; what is None asks for nothing. `until` is not included itself."""

    business_date: date | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def wants(self, entry: Entry) -> bool:
        record = entry.record
        if self.action is not None and record["action"] != self.action:
            return False
        if self.business_date is not None and record["business_date"] != self.business_date.isoformat():
            return False
        at = datetime.fromisoformat(record["time"])
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def as_dict(self) -> dict[str, str]:
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value if isinstance(value, str) else value.isoformat() for key, value in given.items()}


# --- verify ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """A whole trail, the number of anchors that it was compared with, and what could not be compared."""

    examined: Examined
    anchors: int
    remark: str


def verify(config: Config | Essentials, given: Sequence[Anchor], open_records: OpenRecords) -> Verified:
    """Check every record, then the trail against `given` and every anchor that the job has kept.

    Raises:
        AuditBroken: names the first bad record, or the anchor that the trail does not hold.
    """
    try:
        trail = open_trail(config)
    except NothingToDo:
        _recorded(config, open_records)  # it may know better
        raise
    recorded, remark = _recorded(config, open_records)
    logged = anchors.logged(config.logging.directory, trail.identity)
    kept = [*given, *anchors.archived(config.job.state_dir), *logged, *recorded]
    return Verified(trail.examine(kept), len(kept), remark)


def _recorded(config: Config | Essentials, open_records: OpenRecords) -> tuple[list[Anchor], str]:
    """The checkpoint's anchors, or why they cannot be had.

    Raises:
        AuditBroken: there is no trail, and the checkpoint knows of a run.
    """
    try:
        records = open_records()
        if not anchors.shared(config) and not (config.job.state_dir / FILE_NAME).exists():
            _require_no_run(records)
        return list(anchors.recorded(records, config)), ""
    except AuditBroken:
        raise
    except NothingToDo:
        return [], ""
    except BatchError as error:
        return [], f"the checkpoint's manifests were not compared: {error}"


def _require_no_run(records: Records) -> None:
    """Before anything else, a run's command puts its configuration into the trail.

    Raises:
        AuditBroken: there has been a run.
    """
    if dates := records.history.dates(date.min, date.max):
        raise AuditBroken(
            f"The audit trail is gone: the checkpoint proves that there was a run of {dates[-1]}.",
            advice=GONE_ADVICE,
        )


def verify_files(config: Config) -> int:
    """Compare every archived file with the hash that the trail tells; returns their number.

    Raises:
        AuditBroken: one is another than was sealed, or is gone though no record says that it was purged.
    """
    sealed: dict[tuple[date, int], set[str]] = {}
    purged: set[str] = set()
    for entry in open_trail(config).entries():
        record, details = entry.record, entry.record["details"]
        if record["action"] == "sealed":
            key = date.fromisoformat(record["business_date"]), details["revision"]
            sealed.setdefault(key, set()).add(details["encrypted_sha256"])
        elif record["action"] == "purged" and details.get("what") == "files":
            purged.add(record["business_date"])
    count = 0
    for (day, revision), known in sealed.items():
        path = config.job.state_dir / "archive" / f"{day:%Y%m%d}" / f"r{revision}" / sealed_name(day)
        try:
            found = file_digest(path)
        except FileNotFoundError:
            if day.isoformat() in purged:
                continue
            raise _not_as_sealed(path, "is gone, and no record says that it was purged") from None
        except OSError as error:
            raise _not_as_sealed(path, f"cannot be read: {error.strerror}") from None
        if found not in known:
            raise _not_as_sealed(path, "is not the file that was sealed: its SHA-256 is another")
        count += 1
    return count


def _not_as_sealed(path: Path, why: str) -> AuditBroken:
    return AuditBroken(
        f"The archived file {path} {why}.",
        advice="keep everything as it is, compare it with the delivered file and its manifest, "
        "and tell those who answer for security",
    )


# --- export ------------------------------------------------------------------------------------


def export(
    config: Config, trail: AuditTrail, wanted: Filter, output: BinaryIO, keyring: Path, now: datetime
) -> tuple[int, str | None]:
    """Write a bundle; returns the number of records in it and the fingerprint it is signed with, if it is.

    Raises:
        AuditBroken: nothing is exported from a broken trail.
        ConfigError, EncryptionError: it cannot be signed.
    """
    folder = config.job.state_dir
    kept = [*anchors.archived(folder), *anchors.logged(config.logging.directory, trail.identity)]
    trail.examine(kept)
    signer: list[str] = []

    def sign(data: bytes) -> tuple[bytes, bytes] | None:
        made = sign_detached(config.encryption, keyring, data)
        if made is None:
            return None
        signer.append(made.fingerprint)
        return made.armored, made.public_key

    records = Bundle(output, now).write(
        trail.entries(),
        wanted.wants,
        manifests=_manifests(folder / "archive", wanted),
        anchors=kept,
        asked=wanted.as_dict(),
        sign=sign,
    )
    return records, signer[0] if signer else None


def _manifests(archive: Path, wanted: Filter) -> dict[str, bytes]:
    day = "*" if wanted.business_date is None else f"{wanted.business_date:%Y%m%d}"
    found = sorted(archive.glob(f"{day}/*/*.manifest.json"))
    return {"/".join(path.relative_to(archive).parts): path.read_bytes() for path in found}


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- ingest ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ingested:
    """What the logs told, and how many of the accesses were new to the trail."""

    harvest: Harvest
    new: int


def ingest(
    config: Config, trail: AuditTrail, paths: Sequence[Path], *, zone: tzinfo, now: datetime
) -> Ingested:
    """Put what others did to the delivered files into the trail, each once, however often a log is read.

    Raises:
        WrongUsage: a log cannot be read.
        RunHeld: another process is reading logs.
    """
    with _only_one(config.job.state_dir):
        entries = list(trail.entries())
        place = Place(config.delivery.directory, config.delivery.username, _deliveries(entries))
        try:
            found = harvest(paths, place, zone=zone, now=now)
        except OSError as error:
            raise WrongUsage(
                f"{error.filename} cannot be read: {error.strerror}.",
                advice="name logs that this user can read: `esgbatch audit ingest FILE`",
            ) from None
        known = {
            entry.record["details"].get("event")
            for entry in entries
            if entry.record["action"].startswith(TOUCHED)
        }
        new = [access for access in found.accesses if access.event not in known]
        for access in new:
            trail.append(TOUCHED + access.kind, business_date=access.business_date, **_details(access, entries))
    return Ingested(found, len(new))


def _details(access: Access, entries: Sequence[Entry]) -> dict[str, Any]:
    told = asdict(access)
    for key in ("kind", "business_date"):
        del told[key]
    told["at"] = None if access.at is None else access.at.isoformat().replace("+00:00", "Z")
    return {key: value for key, value in told.items() if value is not None} | _version(access, entries)


def _version(access: Access, entries: Sequence[Entry]) -> dict[str, str]:
    """The hash of the file that lay there then, as far as the trail knows it."""
    found: dict[str, str] = {}
    for entry in entries:
        record = entry.record
        if record["action"] not in ("delivered", "delivery_repeated"):
            continue
        earlier = access.at is None or datetime.fromisoformat(record["time"]) < access.at + timedelta(seconds=1)
        if record["business_date"] == access.business_date.isoformat() and earlier:
            found = {"encrypted_sha256": record["details"]["encrypted_sha256"]}
    return found


def _deliveries(entries: Sequence[Entry]) -> Callable[[datetime], bool]:
    """Whether the job was delivering at a time of whole seconds: from the sealing, or a command's start, on."""
    periods: list[tuple[datetime, datetime]] = []
    sealed: dict[tuple[Any, Any], datetime] = {}
    for entry in entries:
        record, details = entry.record, entry.record["details"]
        end = datetime.fromisoformat(record["time"])
        revision = record["run_id"], details.get("revision")
        if record["action"] == "sealed":
            sealed[revision] = end
        elif record["action"] in ("delivered", "delivery_repeated") or details.get("code") == ExitCode.DELIVERY:
            began = (
                datetime.fromisoformat(details["began"]) if "began" in details else sealed.get(revision, end)
            )
            periods.append((began.replace(microsecond=0), end))
    return lambda at: any(began <= at <= end for began, end in periods)


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """No second process that would tell the same."""
    try:
        with alone(private_folder(state_dir / "ingest")):
            yield
    except TimeoutError:
        raise RunHeld(
            "Another process is reading a log into the audit trail.", advice="try again later"
        ) from None


# --- show --------------------------------------------------------------------------------------


def line(entry: Entry) -> str:
    """A record for people, on one line. Others' words may be in it: it is not yet safe for a terminal."""
    record = entry.record
    actor: Mapping[str, Any] = record["actor"]
    who = f"{actor['user']}@{actor['host']}"
    if "login" in actor:
        who += f" (logged in as {actor['login']})"
    day = record["business_date"] or "-"
    details = " ".join(f"{key}={_short(value)}" for key, value in sorted(record["details"].items()))
    return f"{record['n']:>6}  {record['time']}  {day:<10}  {record['action']:<18}  {who}  {details}".rstrip()


def _short(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)


def moment(text: str, zone: tzinfo) -> datetime:
    """`2026-11-24`, where that day begins in `zone`, or a moment of RFC 3339.

    Raises:
        ValueError: it is neither.
    """
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo is not None else at.replace(tzinfo=zone)).astimezone(UTC)
