"""What the program is made of: hashes in the lock, the lock in the bill of materials, and bandit's word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def locked() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_every_locked_package_has_a_hash() -> None:
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    packages = [block for block in blocks if re.match(r"[a-z0-9-]+==", block)]
    assert len(packages) == len(locked())
    assert [block.split("==")[0] for block in packages if "--hash=sha256:" not in block] == []


def test_the_bill_of_materials_names_what_is_locked_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    for output in (first, second):
        subprocess.run([ROOT / "scripts" / "sbom", output], check=True, cwd=tmp_path, capture_output=True)
    bill = json.loads(first.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "esgbatch"
    assert {each["name"]: each["version"] for each in bill["components"]} == locked()
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
    assert first.read_bytes() == second.read_bytes()


def test_bandit_is_heard(tmp_path: Path) -> None:
    """A finding without a reason fails; one with ruff's reason in its line, or a stated one, does not."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "security", tmp_path / "scripts" / "security")
    package = tmp_path / "esgbatch"
    package.mkdir()

    def told(text: str) -> tuple[int, str]:
        (package / "x.py").write_text(text)
        command = [sys.executable, "scripts/security"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert told("import yaml\nyaml.load(open('x'))\n")[0] == 1
    assert "B602" in told("import subprocess\nsubprocess.run('ls ' + input(), shell=True)\n")[1]
    assert told("import hashlib\nhashlib.md5(b'')  # noqa: S324 - a reason\nassert True\n") == (0, "")
