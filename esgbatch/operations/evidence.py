"""What the audit trail must hold besides what the job itself tells it: another configuration, a refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

from esgbatch.config.load import fingerprint
from esgbatch.config.model import Config
from esgbatch.config.secrets import redact
from esgbatch.errors import (
    AuditBroken,
    BatchError,
    ConfigError,
    HostKeyMismatch,
    NothingToDo,
    RunHeld,
    StopRequested,
    Withheld,
    WrongUsage,
)
from esgbatch.job import Job
from esgbatch.manifest import rfc3339
from esgbatch.ports import Audit

# A rule said no; what is not among these was tried and went wrong.
REFUSALS = (WrongUsage, ConfigError, RunHeld, Withheld, NothingToDo, HostKeyMismatch, AuditBroken)
SHORT = 16  # hex digits that tell one version of a section from another
LONGEST = 1000


@contextmanager
def attempt(job: Job, business_date: date) -> Iterator[None]:
    """Whatever a command does or is refused within, the trail tells; then its anchor goes to the log.

    Raises:
        AuditBroken, CheckpointError: the trail takes no record: nothing is begun.
    """
    note_configuration(job.audit, job.config)
    began = job.now
    try:
        yield
    except BaseException as error:
        # What is on its way out is the news; a trail that cannot be written is told by the next command.
        with suppress(BatchError):
            job.audit.append(
                "refused" if isinstance(error, REFUSALS) else "failed",
                business_date=business_date,
                began=rfc3339(began),
                **reason(error),
            )
        raise
    finally:
        with suppress(BatchError):
            if (head := job.audit.head()) is not None:
                job.listener.event("audit_anchored", anchor=str(head), trail=job.audit.identity)


def reason(error: BaseException) -> dict[str, Any]:
    """An error as a record's details; without the words of a wrong call or a bug, which may quote a person."""
    details: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, BatchError | StopRequested):
        details["code"] = int(error.code)
        if not isinstance(error, WrongUsage):
            details["reason"] = redact(str(error))[:LONGEST]
    return details


def note_configuration(audit: Audit, config: Config) -> None:
    """Record the configuration where it is not the one that the last record of its kind tells.

    Of a key file or host key that was exchanged, only the digest shows: so those are compared, too.
    """
    now: dict[str, Any] = {
        "config_sha256": fingerprint(config),
        "sections": _sections(config),
        "files": {name: _file_digest(path) for name, path in _trusted_files(config).items()},
        "recipients": list(config.encryption.fingerprints),
    }
    try:
        before = audit.last("config_changed")
    except AuditBroken:  # `audit verify` names it; tonight's configuration is recorded all the same
        before = None
    if before is not None and all(before.get(key) == value for key, value in now.items()):
        return
    changed = (
        [] if before is None else [*_differing(before, now, "sections"), *_differing(before, now, "files")]
    )
    audit.append(
        "config_changed",
        previous=None if before is None else before.get("config_sha256"),
        changed=changed,
        **now,
    )


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], part: str) -> list[str]:
    old, new = before.get(part, {}), now[part]
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def _sections(config: Config) -> dict[str, str]:
    return {
        name: hashlib.sha256(getattr(config, name).model_dump_json().encode()).hexdigest()[:SHORT]
        for name in type(config).model_fields
    }


def _trusted_files(config: Config) -> dict[str, Path]:
    """What says whom the job trusts."""
    keys = {f"encryption.recipients.{at}": path for at, path in enumerate(config.encryption.recipients)}
    return {"delivery.known_hosts": config.delivery.known_hosts, **keys}


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
