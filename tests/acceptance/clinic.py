"""A firm under examination: what `doctor` finds there, with a state and a log folder of each test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from esgbatch.cli.actions import doctor as checking
from esgbatch.operations.doctor.examination import examine
from esgbatch.operations.doctor.findings import Finding, Status
from tests.acceptance.firm import TestFirm
from tests.acceptance.sshd import Sshd

ROOT = Path(__file__).parents[2]


@dataclass
class Clinic:
    """The firm, with a state and a log folder of the test's own; `set` overrides the configuration."""

    firm: TestFirm
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def set(self, **changes: object) -> None:
        for key, value in changes.items():
            self.monkeypatch.setenv(f"ESGBATCH_{key}", str(value))

    def deliver_to(self, sshd: Sshd, **changes: object) -> None:
        self.set(
            DELIVERY__PORT=sshd.port,
            DELIVERY__USERNAME=sshd.username,
            DELIVERY__PRIVATE_KEY=sshd.client_key,
            DELIVERY__KNOWN_HOSTS=sshd.known_hosts,
            DELIVERY__DIRECTORY=sshd.drop,
        )
        self.set(**changes)

    def findings(self) -> list[tuple[str, Finding]]:
        return list(examine(lambda: checking._setup(self.firm.config)))

    def look(self) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for name, finding in self.findings():
            found.setdefault(name, []).append(finding)
        return found

    def fails(self, *names: str) -> Finding:
        """Exactly these checks fail, and what hangs on them is not checked; the first one's failure."""
        found = self.look()
        failing = [name for name, each in found.items() if any(one.status is Status.FAIL for one in each)]
        assert failing == list(names), {name: found[name] for name in failing}
        for name, each in found.items():
            for one in each:
                if one.status is Status.WARN:
                    assert one.message.startswith("not checked, since "), (name, one)
        return next(one for one in found[names[0]] if one.status is Status.FAIL)

    def warns(self, name: str) -> Finding:
        """Exactly this check warns, and none fails."""
        found = self.look()
        odd = [(each, one) for each, ones in found.items() for one in ones if one.status is not Status.OK]
        assert [(each, one.status) for each, one in odd] == [(name, Status.WARN)], odd
        return odd[0][1]

    def ok(self, name: str) -> str:
        """Everything is well; what this check says."""
        found = self.look()
        assert {one.status for each in found.values() for one in each} == {Status.OK}, found
        return found[name][0].message

    def drop_listing(self) -> list[str]:
        return sorted(path.name for path in self.firm.sshd.drop.iterdir())


@contextmanager
def admitted(firm: TestFirm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    """The firm for one test; whatever faults the test switches on are switched off again."""
    for key, value in firm.environment.items():
        monkeypatch.setenv(key, value)
    each = Clinic(firm, folder, monkeypatch)
    each.set(JOB__STATE_DIR=each.state, LOGGING__DIRECTORY=folder / "logs")
    before = firm.server.switch()
    yield each
    firm.server.switch(**before)


def doctor(clinic: Clinic, *arguments: str, code: int = 0) -> tuple[str, str]:
    ran = subprocess.run(
        clinic.firm.command("doctor", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, env=os.environ,
    )  # fmt: skip
    assert ran.returncode == code, (ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.stdout, ran.stderr
