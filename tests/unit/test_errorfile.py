"""The day's failed accounts as a log file: the fields of interface.md, section 3, and nothing else."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from esgbatch.errors import CheckpointError, ConfigError, StopRequested
from esgbatch.model import Failure, Reason
from esgbatch.reporting import errorfile
from tests.summaries import RUN

FAILURE = Failure("A-000001", Reason.NO_RATING, 404, 1, 1_795_000_000.0, 1_795_000_012.5)


def written(folder: Path, *failures: Failure) -> list[dict[str, Any]]:
    assert errorfile.write(folder, RUN, failures) == len(failures)
    return [json.loads(line) for line in (folder / "errors-20261124.jsonl").read_bytes().splitlines()]


def test_a_line_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    [line] = written(tmp_path, FAILURE)
    assert line == {
        "account_id": "A-000001",
        "reason": "no_rating",
        "http_status": 404,
        "attempts": 1,
        "first_attempt": "2026-11-18T11:06:40.000Z",
        "last_attempt": "2026-11-18T11:06:52.500Z",
        "run_id": RUN.run_id,
        "business_date": "2026-11-24",
    }
    assert list(line)[:4] == ["account_id", "reason", "http_status", "attempts"]


def test_an_account_that_was_never_asked_for(tmp_path: Path) -> None:
    [line] = written(tmp_path, Failure("A", Reason.NOT_ATTEMPTED, None, 0, None, None))
    assert (line["http_status"], line["first_attempt"], line["last_attempt"]) == (None, None, None)
    assert line["reason"] == "not_attempted"


def test_every_failure_is_a_line_in_their_order(tmp_path: Path) -> None:
    ids = ["b", "a", "line\nfeed", "\u2028", "\x1b[31m", '"', "口座", "\x85"]
    lines = written(tmp_path, *(replace(FAILURE, account_id=each) for each in ids))
    assert [line["account_id"] for line in lines] == ids
    content = (tmp_path / "errors-20261124.jsonl").read_bytes()
    assert content.count(b"\n") == len(ids)
    assert content.endswith(b"}\n")
    assert len(content.decode().splitlines()) == len(ids), "for readers that know more line ends"
    assert not any(byte < 32 for byte in content.replace(b"\n", b""))


def test_it_always_agrees_with_the_file_in_the_making(tmp_path: Path) -> None:
    written(tmp_path, FAILURE, replace(FAILURE, account_id="A-2"))
    assert [line["account_id"] for line in written(tmp_path, replace(FAILURE, account_id="A-2"))] == ["A-2"]
    assert written(tmp_path) == []
    assert [each.name for each in tmp_path.iterdir()] == ["errors-20261124.jsonl"]


def test_its_name_is_that_of_the_business_date(tmp_path: Path) -> None:
    run = replace(RUN, business_date=date(2026, 1, 2))
    assert errorfile.path(tmp_path, run) == tmp_path / "errors-20260102.jsonl"
    errorfile.write(tmp_path, run, [])
    assert (tmp_path / "errors-20260102.jsonl").exists()


def test_log_collectors_in_our_group_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        written(tmp_path, FAILURE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "errors-20261124.jsonl").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [CheckpointError("gone"), KeyboardInterrupt(), StopRequested.by_signal(15)])
def test_what_breaks_off_leaves_the_last_one(tmp_path: Path, error: BaseException) -> None:
    def failures() -> Iterator[Failure]:
        yield FAILURE
        raise error

    written(tmp_path, FAILURE, FAILURE)
    with pytest.raises(type(error)) as raised:
        errorfile.write(tmp_path, RUN, failures())
    assert raised.value is error
    assert len((tmp_path / "errors-20261124.jsonl").read_text().splitlines()) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["errors-20261124.jsonl"]


@pytest.mark.parametrize("trouble", ["no folder", "a file for a folder", "a folder for a file"])
def test_a_place_that_cannot_be_written_is_a_mistake_in_the_configuration(tmp_path: Path, trouble: str) -> None:
    folder = tmp_path / "logs"
    if trouble == "a file for a folder":
        folder.touch()
    if trouble == "a folder for a file":
        (folder / "errors-20261124.jsonl").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be written") as raised:
        errorfile.write(folder, RUN, [FAILURE])
    assert "logging.directory" in raised.value.advice
    assert "A-000001" not in str(raised.value)


def test_many_failures_are_streamed(tmp_path: Path) -> None:
    assert errorfile.write(tmp_path, RUN, (FAILURE for _ in range(20_000))) == 20_000
