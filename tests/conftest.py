"""What holds for every test."""

from __future__ import annotations

import pytest

from esgbatch.config import secrets


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is one night, and hides what it has read until its end; here it is many tests."""
    monkeypatch.setattr(secrets, "_revealed", set())


@pytest.fixture(autouse=True)
def _no_size_but_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have said how wide his own terminal is."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
