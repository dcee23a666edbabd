"""stdout and stderr that do not take what is written: a clear word, the right exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "esgbatch")
FULL = Path("/dev/full")


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"], autouse=True)
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_a_full_disk_behind_stdout_is_told(arguments: list[str]) -> None:
    with FULL.open("wb") as full:
        ended = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("esgbatch: The output cannot be written: No space left on device.\nNext: ")


def test_a_reader_that_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([*COMMAND, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["status", "--config", "/nowhere"], 10), (["nonsense"], 2), (["--version"], 0)]
)
def test_nobody_hears_and_the_exit_code_is_the_same(arguments: list[str], code: int) -> None:
    with FULL.open("wb") as full:
        assert subprocess.run([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=full).returncode == code
    command = ["sh", "-c", '"$@" >&- 2>&-', "sh", *COMMAND, *arguments]
    assert subprocess.run(command).returncode == code
