"""What is kept of one account, for a request of access (GDPR Art. 15, CCPA 1798.110)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from esgbatch.compliance.audit import AuditTrail
from esgbatch.config.model import Config
from esgbatch.errors import NothingToDo
from esgbatch.manifest import rfc3339
from esgbatch.model import Held, Revision, Run
from esgbatch.records import Records

SCHEMA = 1
# Not every record of those dates concerns the account: what became of the files that it is in does.
TELLING = ("sealed", "delivered", "delivery_repeated", "decrypted", "purged", "erased")


def answer(records: Records, trail: AuditTrail, config: Config, account_id: str) -> dict[str, Any]:
    """Everything, as `audit show --account` writes it with `--json`; docs/compliance.md tells the fields.

    Raises:
        NothingToDo: nothing is kept of it.
    """
    held: list[tuple[Run, Held]] = []
    for day in records.history.dates(date.min, date.max):
        run = records.runs.find(day)
        found = None if run is None else records.outcomes.held(run, account_id)
        if run is not None and found is not None:
            held.append((run, found))
    days = {run.business_date.isoformat() for run, _ in held}
    subject = trail.pseudonym(account_id)
    told = [
        dict(entry.record)
        for entry in trail.entries()
        if entry.record["details"].get("subject") == subject
        or (entry.record["business_date"] in days and _tells(entry.record["action"]))
    ]
    logged = list(_logged(config.logging.directory, account_id))
    if not held and not told and not logged:
        raise NothingToDo(
            "Nothing is kept of this account: it is in no run, or what was kept has been purged or erased.",
            advice="look at the ID; archived files of earlier dates can be searched after `esgbatch decrypt`",
        )
    keep = config.retention
    return {
        "schema": SCHEMA,
        "account_id": account_id,
        "subject": subject,
        "sources": {
            "names": f"account system ({config.accounts.source})",
            "scores": "ESG Portfolio Analysis API",
        },
        "retention_days": {
            "files": keep.files_days,
            "scores_and_names": keep.ratings_days,
            "logs": keep.logs_days,
        },
        "runs": [_run(records, run, each) for run, each in held],
        "records": told,
        "log_lines": logged,
    }


def _logged(folder: Path, account_id: str) -> Iterator[dict[str, Any]]:
    """The lines about it in logs and error files."""
    quoted = json.dumps(account_id).encode("ascii")
    for path in sorted([*folder.glob("esgbatch-*.jsonl"), *folder.glob("errors-*.jsonl")]):
        try:
            lines = [line for line in path.read_bytes().split(b"\n") if quoted in line]
        except OSError:
            continue
        for line in lines:
            with suppress(ValueError, RecursionError):
                content = json.loads(line)
                if isinstance(content, dict) and content.get("account_id") == account_id:
                    yield {"file": path.name, "line": content}


def _tells(action: str) -> bool:
    return action in TELLING or action.startswith("drop_")


def _run(records: Records, run: Run, held: Held) -> dict[str, Any]:
    scores = None if held.row.scores is None else dict(zip(run.columns, held.row.scores, strict=False))
    return {
        "business_date": run.business_date.isoformat(),
        "run_id": run.run_id,
        "name": held.row.name,
        "scores": scores,
        "state": held.state,
        "reason": held.reason,
        "attempts": held.attempts,
        "first_attempt": _moment(held.first_attempt),
        "last_attempt": _moment(held.last_attempt),
        "files": [_file(revision) for revision in records.ledger.revisions(run)],
    }


def _file(revision: Revision) -> dict[str, Any]:
    return {
        "revision": revision.number,
        "encrypted_sha256": revision.sealed.encrypted.sha256,
        "recipients": list(revision.sealed.recipients),
        "delivered": None if revision.delivered is None else rfc3339(revision.delivered),
        "location": revision.location,
        "archive": str(revision.sealed.path) if revision.sealed.path.exists() else None,
    }


def render(content: dict[str, Any]) -> Iterator[str]:
    """The same for people, a line each; others' words may be in it: it is not yet safe for a terminal."""
    yield f"Account {content['account_id']}"
    yield f"  names come from the {content['sources']['names']}, scores from the {content['sources']['scores']}"
    days = content["retention_days"]
    kept = f"files {days['files']}, names and scores {days['scores_and_names']}, logs {days['logs']}"
    yield f"  days that they are kept: {kept}"
    for run in content["runs"]:
        yield ""
        yield f"{run['business_date']}  {run['state']}{', ' + run['reason'] if run['reason'] else ''}"
        yield f"  name     {run['name']}"
        for column, score in (run["scores"] or {}).items():
            yield f"  {column:<24} {score}"
        yield f"  asked    {run['attempts']} time(s), last {run['last_attempt'] or 'never'}"
        for file in run["files"]:
            yield f"  in file  revision {file['revision']}, sha256 {file['encrypted_sha256']}"
            yield f"           for {', '.join(file['recipients'])}"
            yield f"           delivered {file['delivered'] or 'never'} {file['location'] or ''}".rstrip()
    if content["log_lines"]:
        yield ""
        yield "In logs and error files"
        for each in content["log_lines"]:
            line = each["line"]
            yield f"  {each['file']}  {line.get('message') or line.get('reason')}"
    if content["records"]:
        yield ""
        yield "What became of these files, in the audit trail"
        for record in content["records"]:
            details = record["details"]
            who = details.get("user") or record["actor"]["user"]
            day = record["business_date"] or "-"
            yield f"  {record['n']:>6}  {record['time']}  {day:<10}  {record['action']}  {who}"


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))
