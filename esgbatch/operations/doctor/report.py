"""The findings as lines for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esgbatch.config.secrets import redact
from esgbatch.operations.doctor.findings import Finding, Status
from esgbatch.untrusted import printable

SCHEMA = 1
WIDTH = len("temporary folder")

_WORDS = {Status.OK: "ok", Status.WARN: "warn", Status.FAIL: "FAIL"}


def line(check: str, finding: Finding) -> str:
    """One finding, whatever its texts hold, on one line."""
    text = finding.message
    if finding.advice:
        text = f"{text.rstrip('.')}. Next: {finding.advice}"
    return f"{_WORDS[finding.status]:<4}  {check.replace('_', ' '):<{WIDTH}}  {_safe(text)}"


def as_dict(findings: Sequence[tuple[str, Finding]]) -> dict[str, Any]:
    """The JSON of `doctor`, schema 1, described in docs/operations.md."""
    return {
        "schema": SCHEMA,
        "status": worst(findings),
        "checks": [
            {
                "check": check,
                "status": finding.status,
                "message": _safe(finding.message),
                "advice": _safe(finding.advice),
            }
            for check, finding in findings
        ],
    }


def worst(findings: Sequence[tuple[str, Finding]]) -> Status:
    statuses = {finding.status for _, finding in findings}
    return next(status for status in (Status.FAIL, Status.WARN, Status.OK) if status in statuses)


def _safe(text: str) -> str:
    """What servers say may hold anything."""
    return printable(redact(" ".join(text.split())))
