"""IDs go from log and error files in place, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esgbatch.compliance.masking import mask, mentions


def log_line(account_id: str) -> str:
    text = f"account {account_id} failed: no_rating, attempts: 1"
    fields = {"message": text, "account_id": account_id, "attempts": 1}
    return json.dumps(fields, separators=(",", ":"))


@pytest.mark.parametrize(
    "account_id", ["A-1", "1", "no_rating", 'a "b" \\ c', "顧客-7", "..", "x\ny", "account"]
)
def test_every_mention_goes_and_the_line_stays_whole(tmp_path: Path, account_id: str):
    path = tmp_path / "log.jsonl"
    others = [f"{account_id}0", f"0{account_id}", "attempts"]
    lines = [log_line(each) for each in (others[0], account_id, *others[1:], account_id)]
    path.write_text("\n".join([*lines, json.dumps({"account_id": account_id}), "torn " + lines[1][:9]]))
    before, inode = path.read_bytes(), path.stat().st_ino
    assert mentions(path, [account_id])
    assert mask(path, ["B-9", account_id]) == 3
    assert not mentions(path, [account_id])
    after = path.read_bytes()
    assert (len(after), path.stat().st_ino) == (len(before), inode)
    written = len(json.dumps(account_id)) - 2
    for at, line in enumerate(after.decode().split("\n")[:6]):
        if at in (1, 4):
            text = f"account {'*' * written} failed: no_rating, attempts: 1"
            assert json.loads(line) == {"message": text, "account_id": "*" * written, "attempts": 1}
        elif at == 5:
            assert json.loads(line) == {"account_id": "*" * written}
        else:
            assert line == lines[at]
    assert mask(path, [account_id]) == 0
    assert path.read_bytes() == after


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "target").write_text(log_line("A-1"))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        mask(tmp_path / "link", ["A-1"])
