"""init on a terminal, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from esgbatch.operations.demo import recipient
from esgbatch.operations.newconfig import Answers, drop, fill, rating_url, template, web_url
from tests.acceptance.pseudoterminal import on_terminal

ROOT = Path(__file__).parents[2]


def test_five_answers_make_a_configuration_that_doctor_can_check(tmp_path: Path) -> None:
    with recipient(tmp_path) as desk:
        code, shown = on_terminal(
            tmp_path,
            "init",
            answers=[
                "accounts.firm.example",  # no URL: it is asked again
                "https://accounts.firm.example/v2/list",
                "https://esg.firm.example/rating",  # without a place for the ID
                "https://esg.firm.example/rating/{account_id}",
                "https://login.firm.example/token",
                str(ROOT / "README.md"),  # no key
                str(desk.public_key),
                "batch@sftp.firm.example:2222/drop/esg",
            ],
        )
        assert code == 0, shown
        for told in ("an http(s) URL is needed", "it must hold {account_id}", "holds no"):
            assert told in shown
        blocks = " ".join(desk.fingerprint[at : at + 4] for at in range(0, 40, 4))
        assert blocks in shown
        written = tomllib.loads((tmp_path / "esgbatch.toml").read_text())
        assert written["accounts"]["url"] == "https://accounts.firm.example/v2/list"
        assert written["ratings"]["url"] == "https://esg.firm.example/rating/{account_id}"
        assert written["ratings"]["auth"]["token_url"] == "https://login.firm.example/token"
        assert written["encryption"]["recipients"] == [str(desk.public_key)]
        assert written["encryption"]["fingerprints"] == [desk.fingerprint]
        delivery = written["delivery"]
        told = (delivery["username"], delivery["host"], delivery["port"], delivery["directory"])
        assert told == ("batch", "sftp.firm.example", 2222, "/drop/esg")
    code, shown = on_terminal(tmp_path, "init")
    assert code == 2
    assert "is already there" in shown


def test_a_key_that_has_not_come_yet_does_not_hold_anybody_up(tmp_path: Path) -> None:
    code, shown = on_terminal(tmp_path, "init", answers=["", "", "", str(tmp_path / "later.asc"), ""])
    assert code == 0, shown
    assert "later.asc is not there yet: enter its fingerprint when you have it" in " ".join(shown.split())
    encryption = tomllib.loads((tmp_path / "esgbatch.toml").read_text())["encryption"]
    assert encryption["recipients"] == [str(tmp_path / "later.asc")]


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "esgbatch", "init", str(tmp_path)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran
    assert (tmp_path / "esgbatch.toml").read_text() == template()


def test_no_answer_leaves_the_template_as_it_is() -> None:
    assert fill(Answers()) == template()
    assert tomllib.loads(fill(Answers(token_url="")))["ratings"]["auth"] == {"kind": "none"}


@pytest.mark.parametrize("text", ["sftp.example/drop", "a@b", "a@b:0/x", "a@b:99999/x", "a b@c/x", "@c/x", ""])
def test_what_is_no_drop_folder(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        drop(text)


def test_addresses_are_what_the_configuration_takes() -> None:
    assert rating_url("https://esg.example/{account_id}?a=b") == "https://esg.example/{account_id}?a=b"
    with pytest.raises(ValueError, match="plain http"):
        web_url("http://accounts.example/")


@pytest.mark.parametrize(
    ("shell", "words", "wanted"),
    [
        ("bash", "esgbatch re", {"report", "rerun", "resume"}),
        ("zsh", "esgbatch re", {"report", "rerun", "resume"}),
        ("fish", "esgbatch re", {"report", "rerun", "resume"}),
        ("bash", "esgbatch report --f", {"--format"}),
        ("bash", "esgbatch report --format h", {"html"}),
    ],
)
def test_a_shell_completes_commands_options_and_values(shell: str, words: str, wanted: set[str]) -> None:
    environment = os.environ | {
        "_ESGBATCH_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "esgbatch")], env=environment, capture_output=True, text=True
    )
    for each in wanted:
        assert each in ran.stdout, ran
