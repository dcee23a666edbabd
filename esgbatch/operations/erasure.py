"""Forgetting accounts (GDPR Art. 17, CCPA 1798.105), and the certificate that says what became of them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from esgbatch.checkpoint.privacy import TOMBSTONE
from esgbatch.compliance.masking import mask, mentions
from esgbatch.config.model import Config
from esgbatch.deadline import Deadline
from esgbatch.errors import CheckpointError, ConfigError, WrongUsage
from esgbatch.files import private_folder, replacing
from esgbatch.job import Job
from esgbatch.manifest import rfc3339
from esgbatch.operations.holding import hold
from esgbatch.operations.retention import archived, logs
from esgbatch.records import Records

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Residual:
    """An archived file that only its recipients can open; `certain` where an account is known to be in it."""

    path: Path
    business_date: date
    goes: date
    certain: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """Where the accounts are: in which runs, in which log and error files, in which archived files."""

    runs: Mapping[date, Sequence[str]]
    logs: Mapping[date, Sequence[Path]]
    residual: Sequence[Residual]
    nowhere: Sequence[str]

    @property
    def dates(self) -> Sequence[date]:
        """The dates of which something changes."""
        return sorted({*self.runs, *self.logs})


@dataclass(frozen=True, slots=True)
class Erased:
    """What was done; `certificate` tells it to others, without an ID."""

    findings: Findings
    rows: Mapping[date, int]
    lines: Mapping[date, int]
    certificate: Path


def find(config: Config, records: Records, account_ids: Sequence[str], subjects: Sequence[str]) -> Findings:
    """Look for the accounts wherever the job keeps anything; `subjects` are their keyed hashes."""
    runs = records.privacy.holding(account_ids)
    before = records.privacy.holding([TOMBSTONE + each for each in subjects])
    rated = set(records.privacy.rated())
    told = {
        day: [path for path in paths if mentions(path, account_ids)]
        for day, paths in logs(config.logging.directory).items()
    }
    residual = [
        Residual(path, day, day + timedelta(days=config.retention.files_days + 1), certain=day in rated)
        for day, paths in sorted(archived(config.job.state_dir).items())
        for path in paths
        if path.name.endswith(".pgp") and (day in runs or day in before or day not in rated)
    ]
    found = {each for ids in runs.values() for each in ids}
    return Findings(
        runs,
        {day: paths for day, paths in sorted(told.items()) if paths},
        residual,
        [each for each in account_ids if each not in found],
    )


def refuse_holds(config: Config, findings: Findings, account_ids: Sequence[str]) -> None:
    """Raises WrongUsage: a legal hold names one of the accounts, or a date that they are in."""
    held = config.retention.held_accounts.intersection(account_ids)
    if held:
        raise WrongUsage(
            f"Accounts on legal hold: {len(held)}. Nothing was erased.",
            advice="ask who ordered the hold; once it is lifted, take it out of retention.holds",
        )
    dates = config.retention.held_dates.intersection(findings.dates)
    if dates:
        raise WrongUsage(
            f"The accounts are in the data of {', '.join(map(str, sorted(dates)))}, which is on legal hold: "
            "nothing was erased.",
            advice="ask who ordered the hold; once it is lifted, take it out of retention.holds",
        )


def require_impersonal(reason: str, account_ids: Sequence[str]) -> None:
    """Raises WrongUsage: the reason, which is kept for good, names an account."""
    if any(each in reason.split() or (len(each) > 3 and each in reason) for each in account_ids):
        raise WrongUsage(
            "--reason is kept for good, in the audit trail and the certificate: no account's ID may be in it.",
            advice="name the request instead, like --reason 'GDPR Art. 17, case 4711'",
        )


def erase(job: Job, account_ids: Sequence[str], reason: str) -> Erased:
    """Remove the accounts' IDs, names and scores from the checkpoint, and their IDs from logs and error files.

    Done again, whatever was interrupted is finished. The dates that the accounts are in are held
    meanwhile, so that no run works on them.

    Raises:
        WrongUsage: a legal hold is in the way; nothing was changed.
        RunHeld: a run of such a date is at work; nothing was changed.
        CheckpointError: the database or a file cannot be written, or something was left.
    """
    config, records = job.config, job.records
    subjects = {each: job.audit.pseudonym(each) for each in account_ids}
    with ExitStack() as held:
        findings = find(config, records, account_ids, list(subjects.values()))
        refuse_holds(config, findings, account_ids)
        for day in findings.dates:
            held.enter_context(hold(job, day, "erase", Deadline(None, job.clock)))
        for subject in subjects.values():
            job.audit.append("erasure_begun", subject=subject, reason=reason)
        rows = dict(_from_runs(job, findings, subjects))
        lines = dict(_from_logs(findings, account_ids))
        records.privacy.remember(list(subjects.values()))
        left = find(config, records, account_ids, ())
        if left.dates:
            raise CheckpointError(
                f"The accounts came back meanwhile, in the data of {', '.join(map(str, left.dates))}.",
                advice="give the same command again",
            )
        certificate, digest = _certify(job, findings, subjects, rows, lines, reason)
        for account_id, subject in subjects.items():
            job.audit.append(
                "erased",
                subject=subject,
                dates=[str(day) for day, ids in findings.runs.items() if account_id in ids],
                lines=sum(lines.values()),
                residual_files=len(findings.residual),
                certificate=certificate.name,
                certificate_sha256=digest,
            )
    return Erased(findings, rows, lines, certificate)


def _from_runs(job: Job, findings: Findings, subjects: Mapping[str, str]) -> Iterator[tuple[date, int]]:
    for day, ids in findings.runs.items():
        run = job.records.runs.find(day)
        if run is not None:
            yield day, job.records.privacy.erase(run, {each: subjects[each] for each in ids})


def _from_logs(findings: Findings, account_ids: Sequence[str]) -> Iterator[tuple[date, int]]:
    for day, paths in findings.logs.items():
        try:
            yield day, sum(mask(path, account_ids) for path in paths)
        except OSError as error:
            raise ConfigError(
                f"The log {error.filename} cannot be written: {error.strerror}.",
                advice="correct its rights, then give the same command again",
            ) from None


def _certify(
    job: Job,
    findings: Findings,
    subjects: Mapping[str, str],
    rows: Mapping[date, int],
    lines: Mapping[date, int],
    reason: str,
) -> tuple[Path, str]:
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "certificate": "erasure",
        "issued": rfc3339(job.now),
        "environment": job.config.job.environment,
        "reason": reason,
        "subjects": list(subjects.values()),
        "erased": {
            "checkpoint_rows": {str(day): count for day, count in rows.items()},
            "log_lines": {str(day): count for day, count in lines.items()},
        },
        "checked": "no ID, name or score of them is in the checkpoint, its write-ahead log or a log file",
        "residual": [
            {
                "file": str(each.path),
                "business_date": str(each.business_date),
                "holds_subject": "yes" if each.certain else "perhaps",
                "removed_after": str(each.goes),
                "why": "encrypted for its recipients; the job cannot open it",
            }
            for each in findings.residual
        ],
        "audit_anchor": str(job.audit.head()),
    }
    data = (json.dumps(content, indent=2) + "\n").encode()
    folder = job.config.job.state_dir / "certificates"
    path = folder / f"erasure-{job.now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
    try:
        private_folder(folder)
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise CheckpointError(
            f"The certificate {path} cannot be written: {error.strerror}.",
            advice="correct that, then give the same command again",
        ) from None
    return path, hashlib.sha256(data).hexdigest()
