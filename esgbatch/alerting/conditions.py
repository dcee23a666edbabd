"""What can be wrong, as conditions that open and end; an alert is what people are told of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How grave it is, in PagerDuty's words."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Name(StrEnum):
    """Each has its section in docs/operations.md."""

    JOB_FAILED = "job_failed"
    DEADLINE_PASSED = "deadline_passed"
    DEADLINE_AT_RISK = "deadline_at_risk"
    FAILED_ACCOUNTS = "failed_accounts"
    OUTAGE = "outage"
    WITHHELD = "withheld"
    DELIVERY_FAILED = "delivery_failed"
    PARTIAL_DELIVERY = "partial_delivery"
    EXPIRING = "expiring"
    AUDIT_BROKEN = "audit_broken"
    NOT_STARTED = "not_started"
    CONFIGURATION = "configuration"
    TEST = "test"

    @property
    def words(self) -> str:
        return self.value.replace("_", " ")

    @property
    def runbook(self) -> str:
        return f"docs/operations.md#{self.value.replace('_', '-')}"


SEVERITY: Mapping[Name, Severity] = {
    Name.JOB_FAILED: Severity.CRITICAL,
    Name.DEADLINE_PASSED: Severity.CRITICAL,
    Name.DEADLINE_AT_RISK: Severity.ERROR,
    Name.FAILED_ACCOUNTS: Severity.WARNING,
    Name.OUTAGE: Severity.ERROR,
    Name.WITHHELD: Severity.CRITICAL,
    Name.DELIVERY_FAILED: Severity.CRITICAL,
    Name.PARTIAL_DELIVERY: Severity.ERROR,
    Name.EXPIRING: Severity.WARNING,
    Name.AUDIT_BROKEN: Severity.CRITICAL,
    Name.NOT_STARTED: Severity.CRITICAL,
    Name.CONFIGURATION: Severity.ERROR,
    Name.TEST: Severity.INFO,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now: no secret, no account, no score.

    `scope` is what it is wrong with: the business date, or with a key the day on which it
    expires. `variant` tells kinds of the same condition apart: only another one is told again.
    """

    name: Name
    scope: str
    summary: str
    advice: str
    figures: Mapping[str, object] = field(default_factory=dict)
    variant: str = ""

    @property
    def severity(self) -> Severity:
        return SEVERITY[self.name]


@dataclass(frozen=True, slots=True)
class Cleared:
    """These conditions of a scope are over.

    `quietly`: because of something graver, which has an alert of its own; pagers resolve, but
    nobody gets good news by mail. `scope` None means every scope but those in `but`.
    """

    names: tuple[Name, ...]
    scope: str | None
    why: str
    quietly: bool = False
    but: frozenset[str] = frozenset()


Change = Condition | Cleared
