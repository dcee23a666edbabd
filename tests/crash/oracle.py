"""Is this night as if nothing had happened? All that is outside the process is compared, by other code."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
from collections import Counter
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

    def __init__(self, site: Site) -> None:
        """Live through the undisturbed night."""
        self._site = site
        site.begin("run")
        ran = site.ran("run")
        assert ran.code == 0, ran
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
        return {key: value for key, value in self._manifest_content().items() if key not in VOLATILE}

    def _read_errors(self) -> list[dict[str, Any]]:
        lines = read_lines(self._site.logs / ERRORS)
        return [{key: value for key, value in line.items() if key not in ERROR_VOLATILE} for line in lines]

    # --- what the checkpoint says ---

    def _checkpoint(self) -> Iterator[str]:
        path = self._site.state / "checkpoint.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            if (state := connection.execute("pragma integrity_check").fetchall()) != [("ok",)]:
                yield f"the database is damaged: {state}"
            runs = connection.execute("select revision, stage from runs").fetchall()
            if runs != [(1, "delivered")]:
                yield f"the runs are {runs}"
            revisions = connection.execute(
                "select encrypted_sha256, delivered is not null from revisions"
            ).fetchall()
            if revisions != [(self._sha256, 1)]:
                yield f"the revisions are {revisions}"
            steps = [step for (step,) in connection.execute("select step from delivery_steps order by id")]
            if Counter(steps)["recorded"] != 1 or steps[0] != "intended" or steps[-1] != "recorded":
                yield f"the delivery's steps are {steps}"
            states = dict(connection.execute("select state, count(*) from accounts group by state").fetchall())
            if states != {"succeeded": self._site.firm.books.accounts - 1, "failed": 1}:
                yield f"the accounts are {states}"
            last = connection.execute(
                "select ended is not null, exit_code from executions order by id"
            ).fetchall()[-1]
            if last[0] and last[1] != 0:
                yield f"the last execution ended with {last[1]}"

    # --- what the trail says ---

    def _audit(self) -> Iterator[str]:
        path = self._site.state / "audit.jsonl"
        trail = AuditTrail(path, (self._site.state / "keyring" / "audit.key").read_bytes())
        n, _, mac = self._manifest_content()["audit_anchor"].partition(":")
        trail.verify(Anchor(int(n), mac))
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        told = [(record["action"], record["details"]) for record in map(json.loads, lines)]
        actions = [action for action, _ in told]
        if not actions or actions[0] != "accounts_enrolled":
            yield f"the trail does not begin with the list: {actions}"
        ours = [action for action, details in told if details.get("encrypted_sha256") == self._sha256]
        if ours != ["sealed", "delivered"] or actions.count("delivered") != 1:
            yield f"the trail tells {ours} of the delivered file, {actions} of all"

    # --- what lies about ---

    def _left_over(self) -> Iterator[str]:
        if (files := _files(self._site.state)) != self._files:
            yield f"in the state folder {_difference(files, self._files)}"
        if (files := _files(self._site.logs)) != self._logs:
            yield f"in the log folder {_difference(files, self._logs)}"
        for line in (self._site.logs / LOG).read_text().splitlines():
            json.loads(line)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _difference(found: set[str], expected: set[str]) -> str:
    more, less = sorted(found - expected), sorted(expected - found)
    return " and ".join(filter(None, (more and f"is left {more}", less and f"is missing {less}")))


def misbehaviour(ran: Ran) -> Iterator[str]:
    """What a command did that none may do, whatever had befallen it."""
    if "Traceback" in ran.out + ran.err:
        yield f"a traceback: {ran.err.strip().splitlines()[-3:]}"
    elif ran.code == 1:
        yield "exit code 1"
