"""What a check is, what it finds, and what the checks of one examination share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from esgbatch.checkpoint.database import Database
from esgbatch.config.model import Config
from esgbatch.config.secrets import Secret
from esgbatch.errors import BatchError
from esgbatch.ports import AccountSource, Clock, Listener

# Seconds that a server is given for an answer, where the configuration would give it longer:
# less than a check may take, so that what is wrong is told in the server's own terms.
PATIENCE = 15.0

_GO_ON = re.compile(r"`esgbatch (?:run|resume|deliver)\b[^`]*`")


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: no secret, no account name or ID, no score."""

    status: Status
    message: str
    advice: str = ""


def ok(message: str) -> Finding:
    return Finding(Status.OK, message)


def warn(message: str, advice: str = "") -> Finding:
    return Finding(Status.WARN, message, advice)


def failed(error: BatchError) -> Finding:
    """A failure in its own words. Where a night would go on, the next command here is `doctor`."""
    return Finding(Status.FAIL, str(error), _GO_ON.sub("`esgbatch doctor`", error.advice))


@dataclass(slots=True)
class Setup:
    """What is examined: the configuration, and the openers that the job would use.

    The last two fields are what one check finds for another: the scratch folder, which
    the examination removes, and IDs of active accounts.
    """

    path: Path
    config: Config
    clock: Clock
    secrets: Sequence[Secret]
    open_state: Callable[[Config], Path]
    open_source: Callable[[Config, Clock, Listener], AccountSource]
    open_checkpoint: Callable[[Config], Database]
    scratch: Path | None = None
    account_ids: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Check:
    """`look` yields its findings and raises a `BatchError` for what ends it.

    It begins when the checks named in `needs` are done, as far as this configuration has
    them, and not at all where one failed.
    """

    name: str
    look: Callable[[Setup], Iterable[Finding]]
    needs: tuple[str, ...] = ()
