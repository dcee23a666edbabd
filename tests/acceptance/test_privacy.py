"""Names and scores: locked at rest, purged by age, erased on request. Real nights, real processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esgbatch.checkpoint.lease import lease
from tests.acceptance.firm import DAY, TestFirm, firm, rows, stop

TODAY = datetime.now(UTC).astimezone(ZoneInfo("America/Chicago")).date()
KEEP_ALL = {f"ESGBATCH_RETENTION__{name}_DAYS": "9000" for name in ("FILES", "LOGS", "RATINGS")}
SUBJECT, OTHER = "A-000007", "A-000012"
REASON = "GDPR Art. 17, case 4711"


@pytest.fixture
def small(tmp_path: Path):
    with firm(tmp_path, 40) as each:
        each.environment |= KEEP_ALL
        yield each


@pytest.fixture
def slow(tmp_path: Path):
    with firm(tmp_path, 600, rate=150) as each:
        each.environment |= KEEP_ALL
        yield each


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def kept(firm: TestFirm) -> dict[Path, bytes]:
    """Every file that the job keeps, with its bytes; the database's side files too."""
    return {
        path: path.read_bytes()
        for folder in (firm.state, firm.folder / "logs")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def clear_text(firm: TestFirm, *wanted: str) -> set[tuple[str, str]]:
    """Which file has which of these, also as JSON would write it."""
    return {
        (path.name, each)
        for path, content in kept(firm).items()
        for each in wanted
        if each.encode() in content or json.dumps(each)[1:-1].encode() in content
    }


def names_and_scores(firm: TestFirm) -> list[str]:
    """Names, and each account's scores as they stand beside each other; one alone may stand there by chance."""
    books = firm.books
    names = [books.name(index) for index in range(books.accounts)]
    return [each for each in names if len(each) > 6] + [
        ",".join(books.cells(index)) for index in range(books.accounts)
    ]


# --- at rest ----------------------------------------------------------------------------------


def test_no_name_and_no_score_of_a_night_lies_on_disk(slow: TestFirm):
    """Neither amid the night, when it is killed, nor at its end."""
    wanted = names_and_scores(slow)
    assert len(wanted) > 1000
    process = slow.process("run")
    slow.wait_until_done(200, process)
    stop(process, signal.SIGKILL)
    searched = {"checkpoint.sqlite", "checkpoint.sqlite-wal", "checkpoint.key", f"esgbatch-{DAY:%Y%m%d}.jsonl"}
    assert searched <= {path.name for path in kept(slow)}
    assert ("checkpoint.sqlite-wal", SUBJECT) in clear_text(slow, SUBJECT), "what is searched holds the rows"
    assert clear_text(slow, *wanted) == set()
    slow.run("resume")
    assert slow.plaintext() == slow.expected()
    assert f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp" in {path.name for path in kept(slow)}
    assert clear_text(slow, *wanted) == set()
    assert (slow.state / "keyring" / "checkpoint.key").stat().st_mode & 0o777 == 0o600


def test_the_key_is_changed_and_the_wrong_one_is_told(small: TestFirm):
    small.run("run")
    path = small.state / "keyring" / "checkpoint.key"
    before = path.read_bytes()
    ran = small.run("rotate-key", day=None)
    assert "names and scores of 1 run(s)" in ran.out
    after = path.read_bytes()
    assert after != before
    small.run("rerun", "--accounts", SUBJECT)
    assert small.plaintext() == small.expected()
    path.write_bytes(before)
    ran = small.run("rerun", "--accounts", SUBJECT, code=10)
    assert "The checkpoint's key is the wrong one" in ran.err
    assert "FAIL" in small.run("doctor", code=20, day=None).out
    small.run("status")
    small.run("report")
    path.write_bytes(after)
    small.environment |= {"ESGBATCH_CHECKPOINT__KEY": '{ env = "K" }', "K": "7f" * 32}
    small.run("rotate-key", day=None)
    assert not path.exists()
    small.run("rerun", "--accounts", SUBJECT)
    assert small.plaintext() == small.expected()
    small.run("audit", "verify", day=None)
    assert clear_text(small, "7f" * 32) == set()
    small.environment["K"] = "a pass phrase is no key"
    assert "32 random bytes" in small.run("rerun", "--accounts", SUBJECT, code=10).err


# --- purge ------------------------------------------------------------------------------------


def tree(firm: TestFirm) -> set[str]:
    """The job's files except those that every command writes to or makes."""
    return {
        str(path.relative_to(firm.folder))
        for path in kept(firm)
        if not re.search(r"checkpoint\.sqlite|audit|locks|\.key$", str(path))
    }


def test_what_is_too_old_goes_and_nothing_else(small: TestFirm):
    oldest, old, recent = ago(150), ago(120), ago(40)
    small.server.switch(accounts={SUBJECT: "no_rating"})
    for day in (oldest, old, recent):
        small.run("run", day=day)
    logs, archive = small.folder / "logs", small.state / "archive"
    strangers = [
        archive / f"{oldest:%Y%m%d}" / "r1" / "notes.txt",
        archive / "20010101.txt",
        logs / "audit-20010101.jsonl",
        logs / "errors-2001.jsonl",
    ]
    for path in strangers:
        path.write_text("not the job's")
    (logs / "errors-20010101.jsonl").symlink_to(strangers[0])
    before = tree(small)
    small.environment |= {
        "ESGBATCH_RETENTION__FILES_DAYS": "100",
        "ESGBATCH_RETENTION__LOGS_DAYS": "130",
        "ESGBATCH_RETENTION__RATINGS_DAYS": "30",
    }
    dry = small.run("purge", "--dry-run", day=None)
    assert tree(small) == before
    listed = {tuple(line.split()[2:4]) for line in dry.out.splitlines() if line.startswith("would go")}
    assert listed == {
        (str(day), what)
        for what, days in {
            "ratings": (oldest, old, recent),
            "files": (oldest, old),
            "history": (oldest, old),
            "logs": (oldest,),
        }.items()
        for day in days
    }
    size = sum(path.stat().st_size for path in (archive / f"{old:%Y%m%d}" / "r1").iterdir())
    assert f"would go  {old}  files    2 file(s), {size:,} bytes" in dry.out

    small.run("purge", day=None)
    assert before - tree(small) == {
        *(
            f"state/archive/{day:%Y%m%d}/r1/FirmESGRatings_{day:%Y%m%d}.{end}"
            for day in (oldest, old)
            for end in ("csv.pgp", "manifest.json")
        ),
        f"logs/esgbatch-{oldest:%Y%m%d}.jsonl",
        f"logs/errors-{oldest:%Y%m%d}.jsonl",
    }
    assert not (archive / f"{old:%Y%m%d}").exists()
    assert all(path.read_text() == "not the job's" for path in strangers)
    assert (logs / "errors-20010101.jsonl").is_symlink()

    for command in (["rerun", "--failed"], ["rerun", "--accounts", OTHER]):
        assert "were purged on" in small.run(*command, day=recent, code=19).err
    for command in ("run", "resume", "deliver"):
        small.run(command, day=recent)
    report = small.run("report", day=recent).out
    assert "Names and scores were purged" in report
    assert re.search(r"Succeeded +39 ", report)
    assert "There is no run" in small.run("report", day=old, code=19).err
    told = [json.loads(line) for line in (small.state / "audit.jsonl").read_text().splitlines()]
    purged = [(each["business_date"], each["details"]["what"]) for each in told if each["action"] == "purged"]
    assert sorted(purged) == sorted(listed)
    small.run("audit", "verify", day=None)
    assert "0 removed" in small.run("purge", day=None).out


def test_the_figures_that_the_gates_compare_with_stay(small: TestFirm):
    small.run("run", day=ago(150))
    small.run("run", day=ago(120))
    small.environment["ESGBATCH_RETENTION__FILES_DAYS"] = "100"
    small.run("purge", day=None)
    assert "There is no run" in small.run("report", day=ago(150), code=19).err
    small.run("report", day=ago(120))
    few = small.folder / "few.csv"
    few.write_text("id,name\n" + "".join(f"A-{n:06d},Name {n}\n" for n in range(1, 11)))
    for key, value in {
        "SOURCE": "csv",
        "PATH": str(few),
        "ID": "id",
        "NAME": "name",
        "STATUS": "status",
    }.items():
        small.environment[f"ESGBATCH_ACCOUNTS__{key}"] = value
    assert "10 accounts, after 40" in small.run("run", day=TODAY, code=14).err


def test_a_delivered_run_purges_and_a_failure_there_changes_nothing(small: TestFirm):
    small.run("run", day=ago(120))
    small.environment["ESGBATCH_RETENTION__FILES_DAYS"] = "100"
    small.environment["ESGBATCH_RETENTION__LOGS_DAYS"] = "100"
    folder = small.state / "archive" / f"{ago(120):%Y%m%d}"
    log = small.folder / "logs" / f"errors-{ago(120):%Y%m%d}.jsonl"
    assert folder.exists()
    with lease(small.state, ago(120), "test"):
        small.run("run", day=TODAY)
    assert folder.exists(), "what a run holds is left alone"
    assert log.exists()
    small.run("run", day=ago(1))
    assert not folder.exists()
    assert not log.exists()


def test_a_legal_hold_keeps_dates_and_accounts(small: TestFirm):
    held, free = ago(150), ago(140)
    for day in (held, free, ago(130)):
        small.run("run", day=day)
    small.environment |= {f"ESGBATCH_RETENTION__{name}_DAYS": "100" for name in ("FILES", "LOGS", "RATINGS")}
    small.environment["ESGBATCH_RETENTION__HOLDS"] = f'["{held}"]'
    ran = small.run("purge", day=None)
    assert ran.out.count("the date is on hold") == 4
    assert (small.state / "archive" / f"{held:%Y%m%d}").exists()
    assert not (small.state / "archive" / f"{free:%Y%m%d}").exists()
    small.run("rerun", "--accounts", OTHER, day=held)
    ran = small.run("erase", "--accounts", SUBJECT, "--reason", REASON, day=None, code=2)
    assert f"{held}, which is on legal hold" in ran.err
    small.environment["ESGBATCH_RETENTION__HOLDS"] = f'["account:{SUBJECT}"]'
    ran = small.run("purge", day=None)
    assert "an account on hold is in it" in ran.out
    small.run("rerun", "--accounts", OTHER, day=held)
    ran = small.run("erase", "--accounts", f"{OTHER},{SUBJECT}", "--reason", REASON, day=None, code=2)
    assert "1 of the accounts are on legal hold" in ran.err
    assert clear_text(small, OTHER)
    small.environment["ESGBATCH_RETENTION__HOLDS"] = '["24 November"]'
    assert "retention.holds" in small.run("purge", day=None, code=10).err


def test_a_purge_that_was_killed_is_finished_by_the_next(small: TestFirm):
    small.run("run", day=ago(150))
    small.run("run", day=ago(1))
    small.environment |= {f"ESGBATCH_RETENTION__{name}_DAYS": "100" for name in ("FILES", "LOGS", "RATINGS")}
    kills = 0
    for after in (2, 5, 8, 11, 14):
        kill = f"-e trace=fsync,fdatasync -e inject=fsync,fdatasync:signal=KILL:when={after}"
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", *kill.split(), *small.command("purge")]
        done = subprocess.run(strace, check=False, capture_output=True, env=os.environ | small.environment)
        kills += done.returncode == -signal.SIGKILL
        small.run("status", day=ago(1))
    assert kills
    small.run("purge", day=None)
    assert not (small.state / "archive" / f"{ago(150):%Y%m%d}").exists()
    assert "There is no run" in small.run("report", day=ago(150), code=19).err
    assert small.run("purge", day=None).out.startswith("0 removed")
    small.run("audit", "verify", day=None)


# --- erase ------------------------------------------------------------------------------------


def test_an_erased_account_is_in_no_byte_that_the_job_can_open(small: TestFirm):
    index = next(n for n in range(40) if small.books.account_id(n) == SUBJECT)
    name, scores = small.books.name(index), ",".join(small.books.cells(index))
    small.run("run", day=ago(2))
    small.server.switch(accounts={SUBJECT: "no_rating", OTHER: "no_rating"})
    small.run("run")
    assert {"checkpoint.sqlite", f"errors-{DAY:%Y%m%d}.jsonl", f"esgbatch-{DAY:%Y%m%d}.jsonl"} <= {
        file for file, _ in clear_text(small, SUBJECT)
    }
    lengths = {path: len(content) for path, content in kept(small).items() if "errors-" in path.name}
    dry = small.run("erase", "--accounts", SUBJECT, "--reason", REASON, "--dry-run", day=None)
    assert dry.out.count("is in ") == 2
    assert clear_text(small, SUBJECT)

    ran = small.run("erase", "--accounts", SUBJECT, "--reason", REASON, day=None)
    assert clear_text(small, SUBJECT, name, scores) == set()
    assert {file for file, _ in clear_text(small, OTHER)} >= {"checkpoint.sqlite", f"errors-{DAY:%Y%m%d}.jsonl"}
    assert {path: len(content) for path, content in kept(small).items() if path in lengths} == lengths
    assert [line["account_id"] for line in small.errors()] == ["*" * len(SUBJECT), OTHER]

    path = Path(ran.out.split("Certificate: ")[1].strip())
    certificate = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert certificate["reason"] == REASON
    assert certificate["erased"]["checkpoint_rows"] == {str(ago(2)): 1, str(DAY): 1}
    assert len(certificate["residual"]) == 2
    assert {each["holds_subject"] for each in certificate["residual"]} == {"yes"}
    assert {each["removed_after"] for each in certificate["residual"]} == {
        str(day + timedelta(days=9001)) for day in (ago(2), DAY)
    }
    told = [json.loads(line) for line in (small.state / "audit.jsonl").read_text().splitlines()]
    [erased] = [each["details"] for each in told if each["action"] == "erased"]
    assert [erased["subject"]] == certificate["subjects"]
    assert erased["certificate_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    small.run("audit", "verify", day=None)

    small.server.switch(accounts={})
    assert "was erased on" in small.run("rerun", "--accounts", SUBJECT, code=2).err
    assert "erased since" in small.run("deliver", code=19).err
    small.run("rerun", "--accounts", OTHER)
    assert [row[0] for row in rows(small.plaintext())[1:]] == [
        each for each in map(small.books.account_id, range(40)) if each != SUBJECT
    ]
    manifest = small.manifest()
    assert manifest["excluded_by"]["erased"] == 1
    assert manifest["counts"]["listed"] - manifest["counts"]["excluded"] == manifest["counts"]["rows"] == 39
    small.run("deliver")
    assert clear_text(small, SUBJECT, name, scores) == set()

    again = small.run("erase", "--accounts", SUBJECT, "--reason", REASON, day=None)
    assert "are in no run" in again.err
    assert "is in " in again.out, "the archived file that holds it is listed again"
    small.run("run", day=TODAY)
    shown = small.run("audit", "show", "--account", SUBJECT, day=None).out
    assert str(TODAY) in shown, "listed again, rated again"


def test_what_must_not_be_erased_or_said_is_refused(small: TestFirm):
    small.run("run")
    ran = small.run("erase", "--accounts", SUBJECT, "--reason", f"asked by {SUBJECT}", day=None, code=2)
    assert "no account's ID" in ran.err
    with lease(small.state, DAY, "test"):
        small.run("erase", "--accounts", SUBJECT, "--reason", REASON, day=None, code=11)
    assert clear_text(small, SUBJECT)
    ran = small.run("erase", "--accounts", "A-NOBODY", "--reason", REASON, day=None)
    assert "1 of the accounts are in no run" in ran.err
