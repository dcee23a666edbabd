"""Is this night as if nothing had happened? What is outside the process is compared, by code not its own."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from esgbatch.compliance.audit import Anchor, AuditTrail
from esgbatch.errors import BatchError
from tests.acceptance.firm import DAY
from tests.crash.site import BAD_ACCOUNT, Ran, Site, read_lines

SEALED = f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp"
MANIFEST = f"FirmESGRatings_{DAY:%Y%m%d}.manifest.json"
ERRORS = f"errors-{DAY:%Y%m%d}.jsonl"
LOG = f"esgbatch-{DAY:%Y%m%d}.jsonl"
VOLATILE = ("created", "run_id", "encrypted", "audit_anchor", "config_sha256")
ERROR_VOLATILE = ("run_id", "first_attempt", "last_attempt", "attempts")


class Oracle:
    """Knows the undisturbed night of a site, and tells what is different in another one."""

    def __init__(self, site: Site, start: str) -> None:
        """Live through the undisturbed night from a start."""
        self._site = site
        site.begin(start)
        ran = site.ran(*site.start.command)
        assert ran.code == 0, ran
        self._revision = site.start.revision
        self._told = list(dict.fromkeys(action for action, _ in self._trail()))
        self._manifest = self._read_manifest()
        self._errors = self._read_errors()
        self._files = _files(site.state)
        self._logs = _files(site.logs)
        found = list(self.differences())
        assert not found, found

    def differences(self) -> Iterator[str]:
        """What is not as it should be after a night that was completed."""
        try:
            yield from self._delivered()
            yield from self._checkpoint()
            yield from self._audit()
            yield from self._left_over()
        except (OSError, ValueError, KeyError, sqlite3.Error, BatchError) as error:
            yield f"the night cannot be examined: {type(error).__name__}: {error}"

    # --- what the receiver has ---

    def _delivered(self) -> Iterator[str]:
        names = sorted(path.name for path in self._site.drop.iterdir())
        if names != sorted((SEALED, MANIFEST)):
            yield f"the remote folder holds {names}"
            return
        opened = self._site.traces / "opened.csv"
        self._site.firm.desk.decrypt(self._site.drop / SEALED, opened)
        if opened.read_bytes() != self._site.firm.expected({BAD_ACCOUNT}):
            yield "the decrypted file is not what the firm's books say"
        if stat.S_IMODE((self._site.drop / SEALED).stat().st_mode) != 0o640:
            yield "the delivered file has another mode"
        if (manifest := self._read_manifest()) != self._manifest:
            yield f"the manifest is {manifest}"
        if self._manifest_content()["encrypted"]["sha256"] != self._sha256:
            yield "the manifest tells of another encrypted file"
        if (errors := self._read_errors()) != self._errors:
            yield f"the error file is {errors}"

    @property
    def _sha256(self) -> str:
        return hashlib.sha256((self._site.drop / SEALED).read_bytes()).hexdigest()

    def _manifest_content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self._site.drop / MANIFEST).read_bytes())
        return content

    def _read_manifest(self) -> dict[str, Any]:
        content = {key: value for key, value in self._manifest_content().items() if key not in VOLATILE}
        content["supersedes"] = content["supersedes"] and content["supersedes"]["revision"]
        content["approved"] = content["approved"] and content["approved"]["by"]
        return content

    def _read_errors(self) -> list[dict[str, Any]]:
        lines = read_lines(self._site.logs / ERRORS)
        return [{key: value for key, value in line.items() if key not in ERROR_VOLATILE} for line in lines]

    # --- what the checkpoint says ---

    def _checkpoint(self) -> Iterator[str]:
        if (state := self._ask("pragma integrity_check")) != [("ok",)]:
            yield f"the database is damaged: {state}"
        if (runs := self._ask("select revision, stage from runs")) != [(self._revision, "delivered")]:
            yield f"the runs are {runs}"
        states = dict(self._ask("select state, count(*) from accounts group by state"))
        if states != {"succeeded": self._site.firm.books.accounts - 1, "failed": 1}:
            yield f"the accounts are {states}"
        ended, code = self._ask("select ended is not null, exit_code from executions order by id")[-1]
        # A SIGTERM amid the last commit is obeyed after it.
        if ended and code not in (0, 143):
            yield f"the last execution ended with {code}"
        yield from self._ledger()

    def _ledger(self) -> Iterator[str]:
        revisions = self._ask(
            "select revision, delivered is not null, encrypted_sha256 from revisions order by revision"
        )
        all_delivered = [(number, 1) for number in range(1, self._revision + 1)]
        if [tuple(each[:2]) for each in revisions] != all_delivered or revisions[-1][2] != self._sha256:
            yield f"the revisions are {revisions}"
        superseded = self._manifest_content()["supersedes"]
        if (superseded and superseded["sha256"]) != (revisions[-2][2] if len(revisions) > 1 else None):
            yield f"the manifest supersedes {superseded}"
        for number, _ in all_delivered:
            noted = self._ask(f"select step from delivery_steps where revision = {number} order by id")
            steps = [step for (step,) in noted]
            if steps.count("recorded") != 1 or steps[0] != "intended" or steps[-1] != "recorded":
                yield f"the delivery's steps are {steps}"

    def _ask(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self._site.state / "checkpoint.sqlite")) as connection:
            return connection.execute(statement).fetchall()

    # --- what the trail says ---

    def _audit(self) -> Iterator[str]:
        path = self._site.state / "audit.jsonl"
        trail = AuditTrail(path, (self._site.state / "keyring" / "audit.key").read_bytes())
        n, _, mac = self._manifest_content()["audit_anchor"].partition(":")
        trail.verify(Anchor(int(n), mac))
        told = self._trail()
        actions = [action for action, _ in told]
        if list(dict.fromkeys(actions)) != self._told:
            yield f"the trail tells {actions}"
        ours = [action for action, details in told if details.get("encrypted_sha256") == self._sha256]
        if ours != ["sealed", "delivered"] or actions.count("delivered") != self._revision:
            yield f"the trail tells {ours} of the delivered file, {actions} of all"

    def _trail(self) -> list[tuple[str, dict[str, Any]]]:
        lines = (self._site.state / "audit.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines if line.endswith("}")]
        # What a command could not do is told as well; how often that is, is up to the fault.
        kept = [record for record in records if record["action"] not in ("failed", "refused")]
        return [(record["action"], record["details"]) for record in kept]

    # --- what lies about ---

    def _left_over(self) -> Iterator[str]:
        if (files := _files(self._site.state) - set(self._still_to_be_told())) != self._files:
            yield f"in the state folder {_difference(files, self._files)}"
        if (files := _files(self._site.logs)) != self._logs:
            yield f"in the log folder {_difference(files, self._logs)}"
        for line in (self._site.logs / LOG).read_text().splitlines():
            json.loads(line)

    def _still_to_be_told(self) -> Iterator[str]:
        """Alerts that are over, and of whose end a channel did not take the news: the next command tells it."""
        for path in (self._site.state / "alerts").glob("*.json"):
            if json.loads(path.read_bytes())["ended"]:
                yield str(path.relative_to(self._site.state))


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _difference(found: set[str], expected: set[str]) -> str:
    return f"is left {sorted(found - expected)}, is missing {sorted(expected - found)}"


def misbehaviour(ran: Ran) -> Iterator[str]:
    """What a command did that none may do, whatever had befallen it."""
    if "Traceback" in ran.out + ran.err:
        yield f"a traceback: {ran.err.strip().splitlines()[-3:]}"
    elif ran.code == 1:
        yield "exit code 1"
