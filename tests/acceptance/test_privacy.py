"""Names and scores: locked at rest, purged by age, erased on request. Real nights on real servers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esgbatch.checkpoint.lease import lease
from tests.acceptance.desk import Desk, seated
from tests.acceptance.firm import TestFirm, firm, rows, stop

TODAY = datetime.now(UTC).astimezone(ZoneInfo("America/Chicago")).date()
OLDEST, OLD, RECENT, LAST = (TODAY - timedelta(days=days) for days in (150, 120, 40, 2))
ACCOUNTS = 40
# Both are without a rating on the last day, so that error file and log tell of them.
SUBJECT, OTHER = "A-000007", "A-000012"
REASON = "GDPR Art. 17, case 4711"


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    """Four delivered nights, of which nothing was purged."""
    with firm(tmp_path_factory.mktemp("privacy"), ACCOUNTS) as each:
        each.environment |= {
            f"ESGBATCH_RETENTION__{name}_DAYS": "9000" for name in ("FILES", "LOGS", "RATINGS")
        }
        each.environment["ESGBATCH_QUALITY__MAX_FAILED_PERCENT"] = "20"
        for day in (OLDEST, OLD, RECENT):
            each.run("run", day=day)
        each.server.switch(accounts={SUBJECT: "no_rating", OTHER: "no_rating"})
        each.run("run", day=LAST)
        each.server.switch(accounts={})
        yield each


@pytest.fixture
def desk(
    nights: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    return seated(nights, tmp_path, monkeypatch, capsys)


def kept(*folders: Path) -> dict[Path, bytes]:
    """Every file that the job keeps, with its bytes; the database's side files too."""
    return {
        path: path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def clear_text(files: dict[Path, bytes], *wanted: str) -> set[tuple[str, str]]:
    """Which file has which of these, also as JSON would write it."""
    return {
        (path.name, each)
        for path, content in files.items()
        for each in wanted
        if each.encode() in content or json.dumps(each)[1:-1].encode() in content
    }


def names_and_scores(firm: TestFirm) -> list[str]:
    """Names, and each account's scores as they stand beside each other; one alone may stand there by chance."""
    indices = range(firm.books.accounts)
    names = [name for name in map(firm.books.name, indices) if len(name) > 6]
    return names + [",".join(firm.books.cells(index)) for index in indices]


def days(desk: Desk, **limits: int) -> None:
    desk.set(**{f"RETENTION__{name.upper()}_DAYS": value for name, value in limits.items()})


# --- at rest ----------------------------------------------------------------------------------


def test_no_name_and_no_score_of_a_night_lies_on_disk(tmp_path: Path):
    """Neither amid the night, when it is killed, nor at its end."""
    with firm(tmp_path, 300, rate=100) as slow:
        folders, wanted = (slow.state, slow.folder / "logs"), names_and_scores(slow)
        assert len(wanted) > 500
        process = slow.process("run")
        slow.wait_until_done(100, process)
        stop(process, signal.SIGKILL)
        files = kept(*folders)
        searched = {path.name for path in files}
        assert {"checkpoint.sqlite", "checkpoint.sqlite-wal", "checkpoint.key", "audit.jsonl"} <= searched
        assert ("checkpoint.sqlite-wal", SUBJECT) in clear_text(files, SUBJECT), (
            "the rows are in what is searched"
        )
        assert clear_text(files, *wanted) == set()
        slow.run("resume")
        assert slow.plaintext() == slow.expected()
        assert slow.sealed.name in {path.name for path in kept(*folders)}
        assert clear_text(kept(*folders), *wanted) == set()
        assert (slow.state / "keyring" / "checkpoint.key").stat().st_mode & 0o777 == 0o600


def test_the_key_is_changed_and_the_wrong_one_is_told(desk: Desk):
    path = desk.state / "keyring" / "checkpoint.key"
    before = path.read_bytes()
    assert "names and scores of 4 run(s)" in desk.call("rotate-key")[0]
    after = path.read_bytes()
    assert after != before
    again = ("rerun", "--accounts", OTHER, "--date", RECENT)
    desk.call(*again)
    path.write_bytes(before)
    assert "The checkpoint's names and scores are locked with key" in desk.call(*again, code=10)[1]
    assert re.search(r"FAIL +checkpoint ", desk.call("doctor", code=20)[0])
    desk.call("status", "--date", RECENT)
    desk.call("report", "--date", RECENT)
    path.write_bytes(after)
    desk.monkeypatch.setenv("K", "7f" * 32)
    desk.set(CHECKPOINT__KEY='{ env = "K" }')
    desk.call("rotate-key")
    assert not path.exists()
    desk.call(*again)
    desk.call("audit", "verify")
    assert clear_text(kept(desk.state, desk.logs), "7f" * 32) == set()
    desk.monkeypatch.setenv("K", "a pass phrase is no key")
    assert "32 random bytes" in desk.call(*again, code=10)[1]


# --- purge ------------------------------------------------------------------------------------


def test_what_is_too_old_goes_and_nothing_else(desk: Desk):
    archive = desk.state / "archive"
    strangers = [
        archive / f"{OLDEST:%Y%m%d}" / "r1" / "notes.txt",
        archive / "20010101.txt",
        desk.logs / "audit-20010101.jsonl",
        desk.logs / "errors-2001.jsonl",
    ]
    for path in strangers:
        path.write_text("not the job's")
    (desk.logs / "errors-20010101.jsonl").symlink_to(strangers[0])
    before = set(kept(archive, desk.logs))
    days(desk, files=100, logs=130, ratings=30)
    out, _ = desk.call("purge", "--dry-run")
    assert set(kept(archive, desk.logs)) == before
    due = {
        "ratings": (OLDEST, OLD, RECENT),
        "files": (OLDEST, OLD),
        "history": (OLDEST, OLD),
        "logs": (OLDEST,),
    }
    listed = {tuple(line.split()[2:4]) for line in out.splitlines() if line.startswith("would go")}
    assert listed == {(str(day), what) for what, all_days in due.items() for day in all_days}
    size = sum(path.stat().st_size for path in (archive / f"{OLD:%Y%m%d}" / "r1").iterdir())
    assert f"would go  {OLD}  files    2 file(s), {size:,} bytes" in out

    desk.call("purge")
    gone = {path.relative_to(desk.folder) for path in before - set(kept(archive, desk.logs))}
    assert set(map(str, gone)) == {
        *(
            f"state/archive/{day:%Y%m%d}/r1/FirmESGRatings_{day:%Y%m%d}.{end}"
            for day in (OLDEST, OLD)
            for end in ("csv.pgp", "manifest.json")
        ),
        f"logs/esgbatch-{OLDEST:%Y%m%d}.jsonl",
        f"logs/errors-{OLDEST:%Y%m%d}.jsonl",
    }
    assert not (archive / f"{OLD:%Y%m%d}").exists()
    assert all(path.read_text() == "not the job's" for path in strangers)
    assert (desk.logs / "errors-20010101.jsonl").is_symlink()
    told = {(each["business_date"], each["details"]["what"]) for each in desk.records("purged")}
    assert told == listed
    desk.call("audit", "verify")
    assert desk.call("purge")[0].startswith("0 removed")


def test_a_purged_date_says_what_it_can_still_do(desk: Desk):
    days(desk, ratings=30)
    desk.call("purge")
    for command in (["rerun", "--failed"], ["rerun", "--accounts", OTHER]):
        assert "were purged on" in desk.call(*command, "--date", RECENT, code=19)[1]
    for command in ("run", "resume", "deliver"):
        desk.call(command, "--date", RECENT)
    report, _ = desk.call("report", "--date", RECENT)
    assert "Names and scores were purged" in report
    assert re.search(rf"Succeeded +{ACCOUNTS} ", report)
    assert "Nothing is kept" not in desk.call("audit", "show", "--account", SUBJECT)[0]
    desk.call("rerun", "--accounts", OTHER, "--date", LAST)


def test_the_figures_that_the_gates_compare_with_stay(desk: Desk):
    days(desk, files=1, ratings=1)
    desk.call("purge")
    for day in (OLDEST, OLD, RECENT):
        assert "There is no run" in desk.call("report", "--date", day, code=19)[1]
    desk.call("report", "--date", LAST)
    few = desk.folder / "few.csv"
    few.write_text("id,name\n" + "".join(f"A-{n:06d},Name {n}\n" for n in range(1, 11)))
    source = {"SOURCE": "csv", "PATH": few, "ID": "id", "NAME": "name", "STATUS": "status"}
    desk.set(**{f"ACCOUNTS__{key}": value for key, value in source.items()})
    assert f"10 accounts, after {ACCOUNTS}" in desk.call("run", code=14)[1]


def test_a_delivered_run_purges_and_leaves_alone_what_is_at_work(desk: Desk):
    days(desk, files=130, logs=130)
    folder, log = desk.state / "archive" / f"{OLDEST:%Y%m%d}", desk.logs / f"errors-{OLDEST:%Y%m%d}.jsonl"
    with lease(desk.state, OLDEST, "test"):
        desk.call("rerun", "--accounts", OTHER, "--date", LAST)
        assert folder.exists()
        assert log.exists()
    desk.call("rerun", "--accounts", OTHER, "--date", LAST)
    assert not folder.exists()
    assert not log.exists()


def test_a_purge_that_fails_changes_nothing_about_the_run(desk: Desk):
    days(desk, logs=130)
    command = [*desk.firm.command("rerun", "--accounts", OTHER), "--date", str(LAST)]
    setpriv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    # What cannot be read cannot be described to the audit trail, and stays.
    (desk.logs / f"errors-{OLDEST:%Y%m%d}.jsonl").chmod(0)
    done = subprocess.run([*setpriv, *command], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "`esgbatch purge` tries again" in done.stderr
    assert (desk.logs / f"errors-{OLDEST:%Y%m%d}.jsonl").exists()


def test_a_legal_hold_keeps_dates_and_accounts(desk: Desk):
    days(desk, files=100, logs=100, ratings=100)
    desk.set(RETENTION__HOLDS=f'["{OLDEST}"]')
    out, _ = desk.call("purge")
    assert out.count("the date is on hold") == 4
    assert (desk.state / "archive" / f"{OLDEST:%Y%m%d}").exists()
    assert not (desk.state / "archive" / f"{OLD:%Y%m%d}").exists()
    erase = ("erase", "--accounts", f"{OTHER},{SUBJECT}", "--reason", REASON)
    assert f"{OLDEST}, which is on legal hold" in desk.call(*erase, code=2)[1]
    desk.set(RETENTION__HOLDS=f'["account:{SUBJECT}"]')
    assert "an account on hold is in it" in desk.call("purge")[0]
    assert "Accounts on legal hold: 1." in desk.call(*erase, code=2)[1]
    desk.call("rerun", "--accounts", OTHER, "--date", OLDEST)
    desk.set(RETENTION__HOLDS='["24 November"]')
    assert "retention.holds" in desk.call("purge", code=10)[1]


def test_a_purge_that_was_killed_is_finished_by_the_next(desk: Desk):
    days(desk, files=130, logs=130, ratings=130)
    kills = 0
    for after in (2, 6, 10):
        kill = f"-e trace=fsync,fdatasync -e inject=fsync,fdatasync:signal=KILL:when={after}"
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", *kill.split(), *desk.firm.command("purge")]
        kills += subprocess.run(strace, check=False, capture_output=True).returncode == -signal.SIGKILL
        desk.call("report", "--date", LAST)
    assert kills
    desk.call("purge")
    assert not (desk.state / "archive" / f"{OLDEST:%Y%m%d}").exists()
    assert "There is no run" in desk.call("report", "--date", OLDEST, code=19)[1]
    assert desk.call("purge")[0].startswith("0 removed")
    desk.call("audit", "verify")


# --- erase ------------------------------------------------------------------------------------


def test_an_erased_account_is_in_no_byte_that_the_job_can_open(desk: Desk):
    books = desk.firm.books
    index = next(n for n in range(ACCOUNTS) if books.account_id(n) == SUBJECT)
    errors, log = (f"{kind}-{LAST:%Y%m%d}.jsonl" for kind in ("errors", "esgbatch"))
    before = kept(desk.state, desk.logs)
    assert {"checkpoint.sqlite", errors, log} <= {file for file, _ in clear_text(before, SUBJECT)}
    erase = ("erase", "--accounts", SUBJECT, "--reason", REASON)
    out, _ = desk.call(*erase, "--dry-run")
    assert out.count("is in ") == 4
    assert clear_text(kept(desk.state), SUBJECT)

    out, _ = desk.call(*erase)
    after = kept(desk.state, desk.logs)
    assert clear_text(after, SUBJECT, books.name(index), ",".join(books.cells(index))) == set()
    assert {file for file, _ in clear_text(after, OTHER)} >= {"checkpoint.sqlite", errors, log}
    assert all(len(after[desk.logs / name]) == len(before[desk.logs / name]) for name in (errors, log))
    lines = [json.loads(line) for line in after[desk.logs / errors].splitlines()]
    assert [line["account_id"] for line in lines] == ["*" * len(SUBJECT), OTHER]
    for line in after[desk.logs / log].splitlines():
        json.loads(line)

    path = Path(out.split("Certificate: ")[1].strip())
    certificate = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert certificate["reason"] == REASON
    assert certificate["erased"]["checkpoint_rows"] == {str(day): 1 for day in (OLDEST, OLD, RECENT, LAST)}
    assert {each["holds_subject"] for each in certificate["residual"]} == {"yes"}
    assert {each["removed_after"] for each in certificate["residual"]} == {
        str(day + timedelta(days=9001)) for day in (OLDEST, OLD, RECENT, LAST)
    }
    [erased] = [each["details"] for each in desk.records("erased")]
    assert [erased["subject"]] == certificate["subjects"]
    assert erased["certificate_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    desk.call("audit", "verify")

    _, err = desk.call(*erase)
    assert "Accounts in no run of the checkpoint: 1." in err
    assert len(list(path.parent.iterdir())) == 2


def test_the_file_after_an_erasure_says_that_somebody_is_left_out(desk: Desk):
    desk.call("erase", "--accounts", SUBJECT, "--reason", REASON)
    assert "was erased on" in desk.call("rerun", "--accounts", SUBJECT, "--date", LAST, code=2)[1]
    assert "erased since" in desk.call("deliver", "--date", LAST, code=19)[1]
    desk.call("rerun", "--accounts", OTHER, "--date", LAST)
    name = f"FirmESGRatings_{LAST:%Y%m%d}"
    ids = list(map(desk.firm.books.account_id, range(ACCOUNTS)))
    plain = desk.firm.plaintext(desk.firm.drop / f"{name}.csv.pgp")
    assert [row[0].removeprefix("'") for row in rows(plain)[1:]] == [each for each in ids if each != SUBJECT]
    manifest = json.loads((desk.firm.drop / f"{name}.manifest.json").read_text())
    assert manifest["excluded_by"]["erased"] == 1
    counts = manifest["counts"]
    assert counts["listed"] - counts["excluded"] == counts["rows"] == counts["succeeded"] == ACCOUNTS - 1
    desk.call("deliver", "--date", LAST)
    assert clear_text(kept(desk.state, desk.logs), SUBJECT) == set()
    desk.call("run")
    assert str(TODAY) in desk.call("audit", "show", "--account", SUBJECT)[0], "listed again, rated again"


def test_what_must_not_be_erased_or_said_is_refused(desk: Desk):
    _, err = desk.call("erase", "--accounts", SUBJECT, "--reason", f"asked by {SUBJECT}", code=2)
    assert "no account's ID" in err
    with lease(desk.state, LAST, "test"):
        desk.call("erase", "--accounts", SUBJECT, "--reason", REASON, code=11)
    assert clear_text(kept(desk.state), SUBJECT)
    _, err = desk.call("erase", "--accounts", "A-NOBODY", "--reason", REASON)
    assert "Accounts in no run of the checkpoint: 1." in err
