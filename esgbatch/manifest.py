"""The manifest beside the file: what a receiver checks, without a name or a score."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

from esgbatch import __version__
from esgbatch.model import Approval, Reason, Revision, Run, SealedFile, Tally

SCHEMA = 1


def plain_name(business_date: date) -> str:
    """The plaintext's name, which is inside the OpenPGP packet, too."""
    return f"FirmESGRatings_{business_date:%Y%m%d}.csv"


def sealed_name(business_date: date) -> str:
    """The name in the drop folder."""
    return f"{plain_name(business_date)}.pgp"


def manifest_name(business_date: date) -> str:
    return f"FirmESGRatings_{business_date:%Y%m%d}.manifest.json"


def rfc3339(moment: datetime) -> str:
    """UTC, to the second, with Z (RFC 3339, 5.6)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(
    run: Run,
    tally: Tally,
    sealed: SealedFile,
    *,
    created: datetime,
    supersedes: Revision | None,
    partial: bool,
    config_sha256: str,
    audit_anchor: str,
) -> bytes:
    """The manifest as it is delivered; its fields are an interface, see docs/user-guide.md."""
    census = run.census
    content = {
        "schema": SCHEMA,
        "file": sealed_name(run.business_date),
        "business_date": run.business_date.isoformat(),
        "revision": run.revision,
        "run_id": run.run_id,
        "created": rfc3339(created),
        "counts": {
            "listed": census.listed,
            "excluded": census.excluded,
            "rows": sealed.rows,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
        },
        "excluded_by": census.excluded_by,
        "failed_by": {str(reason): count for reason, count in sorted(tally.failed_by.items())},
        "plaintext": {"sha256": sealed.plaintext.sha256, "bytes": sealed.plaintext.size},
        "encrypted": {
            "sha256": sealed.encrypted.sha256,
            "bytes": sealed.encrypted.size,
            "recipients": list(sealed.recipients),
        },
        "supersedes": None
        if supersedes is None
        else {"revision": supersedes.number, "sha256": supersedes.sealed.encrypted.sha256},
        "approved": None if run.approval is None else _approval(run.approval),
        "partial": partial,
        "program": f"esgbatch {__version__}",
        "config_sha256": config_sha256,
        "audit_anchor": audit_anchor,
    }
    # An approval's text comes from the command line: what was no UTF-8 there is escaped, as JSON allows.
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _approval(approval: Approval) -> dict[str, str]:
    return {"by": approval.by, "reason": approval.reason, "at": rfc3339(approval.at)}


def tally(content: bytes) -> Tally | None:
    """The accounts as a manifest counts them; None where it does not."""
    try:
        told = json.loads(content)
        failed_by = {Reason(reason): int(count) for reason, count in told["failed_by"].items()}
        return Tally(succeeded=int(told["counts"]["succeeded"]), failed_by=failed_by)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
