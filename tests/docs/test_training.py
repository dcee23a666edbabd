"""docs/training.md, lab by lab, literally, on a sandbox: what it says one sees is what one sees."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
BIN = Path(sys.executable).parent
LABS = re.findall(r"^## (Lab \d+|The end).*?$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The sandbox as the course starts it, and a second terminal with what it says to paste."""
    folder = tmp_path_factory.mktemp("classroom")
    start = re.search(r"^\$ (esgbatch sandbox .*)$", PAGE, re.MULTILINE)
    assert start
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        start.group(1).split(), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        told = ""
        for line in process.stdout:
            told += line
            if "docs/training.md" in line:
                break
        exported = dict(re.findall(r"^ +export (\w+)=(.*)$", told, re.MULTILINE))
        assert "ESGBATCH_CONFIG" in exported, told
        yield folder, environment | exported
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_there_are_seven_labs_and_an_end() -> None:
    assert [name for name, _ in LABS] == [*(f"Lab {number}" for number in range(1, 8)), "The end"]


@pytest.mark.parametrize(("name", "text"), LABS, ids=[name for name, _ in LABS])
def test_a_lab(classroom: tuple[Path, dict[str, str]], name: str, text: str) -> None:
    folder, environment = classroom
    blocks = re.findall(r"^```(bash|text)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    script = "".join(content for kind, content in blocks if kind == "bash")
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    told = "".join(content for kind, content in blocks if kind == "text").splitlines()
    assert told
    for line in told:
        assert line in ran.stdout, f"{name} does not show {line!r}:\n{ran.stdout}"
    assert "Traceback" not in ran.stdout
