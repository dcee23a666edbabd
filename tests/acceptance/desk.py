"""One delivered night, and commands that look at it, each with a state folder of the test's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esgbatch.cli import app
from tests.acceptance.firm import TestFirm


@dataclass
class Desk:
    """The firm after its night. `state` and `logs` are copies, so that a test may do its worst."""

    firm: TestFirm
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def trail(self) -> Path:
        return self.state / "audit.jsonl"

    def records(self, action: str | None = None) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in self.trail.read_text().splitlines()]
        return [record for record in told if action in (None, record["action"])]

    def set(self, **changes: object) -> None:
        for key, value in changes.items():
            self.monkeypatch.setenv(f"ESGBATCH_{key}", str(value))

    def call(self, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
        """A command in this process; what it wrote to stdout and stderr."""
        got = app.run([*map(str, arguments), "--config", str(self.firm.config)])
        out, err = self.capsys.readouterr()
        assert got == code, f"{arguments} ended with {got}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out, err


def seated(
    firm: TestFirm, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    """A desk with copies of what the night has left."""
    shutil.copytree(firm.state, folder / "state")
    shutil.copytree(firm.folder / "logs", folder / "logs")
    for key, value in firm.environment.items():
        monkeypatch.setenv(key, value)
    each = Desk(firm, folder, monkeypatch, capsys)
    each.set(JOB__STATE_DIR=each.state, LOGGING__DIRECTORY=each.logs)
    return each
