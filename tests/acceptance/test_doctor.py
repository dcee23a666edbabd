"""doctor as a whole: in ten seconds, in order, beside a run, and nothing is left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esgbatch.cli.actions import doctor as checking
from esgbatch.operations.doctor import examination, report
from esgbatch.operations.doctor.examination import examine
from esgbatch.operations.doctor.findings import Check, Finding, Setup, Status, ok
from tests.acceptance.clinic import ROOT, Clinic, admitted, doctor
from tests.acceptance.firm import DAY, TestFirm, firm
from tests.acceptance.sshd import make_key
from tests.sockets.faultserver import (
    FaultServer,
    Peer,
    stall,
)

pytestmark = pytest.mark.alone

HEALTHY = [
    "config", "secrets", "account_system", "token", "esg_api", "clock", "state_folder", "log_folder",
    "temporary_folder", "disk_space", "checkpoint", "audit_trail", "gpg", "recipient_key", "encryption",
    "sftp_login", "drop_folder", "email", "pagerduty",
]  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("firm"), 300) as each:
        yield each


@pytest.fixture
def clinic(servers: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    with admitted(servers, tmp_path, monkeypatch) as each:
        yield each


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's temporary folder, to see what is left in it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


# --- everything is well -----------------------------------------------------------------------------


def test_a_healthy_firm_in_ten_seconds_and_nothing_is_left(clinic: Clinic, scratch: Path):
    before = (clinic.firm.server.stats(), clinic.drop_listing())
    began = time.monotonic()
    out, err = doctor(clinic)
    assert time.monotonic() - began < 10
    lines = [line.split("  ")[0::1] for line in out.splitlines()]
    assert [(line[0], line[2].strip().replace(" ", "_")) for line in lines] == [
        ("ok", name) for name in HEALTHY
    ]
    assert err == f"esgbatch: {len(HEALTHY)} checks, 0 warning(s), no failure.\n"
    assert not clinic.state.exists()
    assert not (clinic.folder / "logs").exists()
    assert list(scratch.iterdir()) == []
    assert not list(Path("/dev/shm").glob("esgbatch-sign-*"))
    after = clinic.firm.server.stats()
    assert clinic.drop_listing() == before[1]
    assert after["esg"]["requests"] - before[0]["esg"]["requests"] == 1
    assert after["accounts"]["by_status"]["200"] - before[0]["accounts"]["by_status"].get("200", 0) == 1
    assert (after["mail"]["messages"], after["pager"]["events"]) == (0, 0)


def test_after_a_run_the_state_folder_is_as_before(clinic: Clinic, scratch: Path):
    ran = subprocess.run(
        clinic.firm.command("run", "--date", str(DAY)), cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    before = [everything_in(folder) for folder in (clinic.state, clinic.folder / "logs", clinic.firm.sshd.drop)]
    found = clinic.look()
    assert {one.status for each in found.values() for one in each} == {Status.OK}, found
    assert found["checkpoint"][0].message == "it can be read and written"
    assert found["disk_space"][0].message == "there is enough for 315 accounts"
    assert found["audit_trail"][0].message == "the last of its 4 records is genuine"
    assert [
        everything_in(folder) for folder in (clinic.state, clinic.folder / "logs", clinic.firm.sshd.drop)
    ] == before
    assert list(scratch.iterdir()) == []


def test_machines_get_json_and_nobody_a_secret_or_an_account(clinic: Clinic):
    clinic.firm.server.switch(forbidden_all=True, mail_failures=-1)
    out, err = doctor(clinic, "--json", code=20)
    told = json.loads(out)
    assert (told["schema"], told["status"]) == (1, "fail")
    assert [each["check"] for each in told["checks"]] == HEALTHY
    by_name = {each["check"]: each for each in told["checks"]}
    assert by_name["esg_api"] == {
        "check": "esg_api",
        "status": "fail",
        "message": "The ESG API refuses our credentials: HTTP 403.",
        "advice": "correct the credentials under [ratings.auth], then `esgbatch doctor`",
    }
    assert by_name["email"]["status"] == "fail"
    assert {each["status"] for each in told["checks"]} == {"ok", "fail"}
    assert "2 of 19 checks failed" in err
    places = clinic.firm.server.places
    for secret in (places.login.client_secret, places.mail.password, places.pager.routing_key, "A-000001"):
        assert secret not in out + err


def test_a_failure_is_one_line_with_what_to_do(clinic: Clinic):
    clinic.set(DELIVERY__DIRECTORY="/nowhere")
    out, err = doctor(clinic, code=20)
    (line,) = [line for line in out.splitlines() if not line.startswith("ok  ")]
    assert line.startswith(
        "FAIL  drop folder       In the drop folder /nowhere on 127.0.0.1 a file cannot be written"
    )
    assert "Next: have the folder made" in line
    assert err.endswith("Next: do what the lines with FAIL say, then `esgbatch doctor`\n")


def test_the_documentation_tells_every_check():
    made = set(re.findall(r'Check\("(\w+)"', Path(examination.__file__).read_text())) | {"config"}
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert made <= told
    assert set(HEALTHY) < made


# --- configuration ----------------------------------------------------------------------------------


def test_a_bad_configuration_is_a_failed_check(clinic: Clinic):
    clinic.set(RATINGS__RATE_LIMIT="-1", DELIVERY__COLOUR="red")
    out, _ = doctor(clinic, code=20)
    (line,) = out.splitlines()
    assert line.startswith("FAIL  config            The configuration ")
    assert "ratings.rate_limit" in line
    assert "delivery.colour: unknown key" in line
    assert "Next: correct the configuration, then `esgbatch doctor`" in line


def test_no_configuration_is_a_failed_check(tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-m", "esgbatch", "doctor", "--config", str(tmp_path / "none.toml")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 20
    assert ran.stdout.startswith("FAIL  config")


def test_what_init_writes_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for arguments, code in ((["init"], 0), (["doctor"], 20)):
        ran = subprocess.run([sys.executable, "-m", "esgbatch", *arguments], capture_output=True, text=True)
        assert ran.returncode == code, ran
    assert ran.stdout.startswith("ok    config            esgbatch.toml is valid\n")
    assert "FAIL  account system" in ran.stdout
    assert "Traceback" not in ran.stderr


# --- the examination itself -------------------------------------------------------------------------


def examine_with(clinic: Clinic, *checks: Check) -> list[tuple[str, Finding]]:
    clinic.monkeypatch.setattr(examination, "_checks", lambda _: checks)
    return clinic.findings()


def fine(_: Setup) -> Iterator[Finding]:
    yield ok("fine")


def test_checks_that_hang_are_told_and_left_behind(clinic: Clinic):
    clinic.monkeypatch.setattr(examination, "LIMIT", 0.5)
    free = threading.Event()

    def hangs(_: Setup) -> Iterator[Finding]:
        yield ok("the first half")
        free.wait(20)
        yield ok("too late")

    began = time.monotonic()
    hanging = ("one", "two", "three", "four")
    checks = (*(Check(name, hangs) for name in hanging), Check("five", fine), Check("six", fine, ("one",)))
    found = examine_with(clinic, *checks)
    free.set()
    assert time.monotonic() - began < 1.5
    told = [(name, each.status.value, each.message) for name, each in found[1:]]
    for name in hanging:
        assert told[:2] == [(name, "ok", "the first half"), (name, "fail", "no answer within 0.5 s")]
        told = told[2:]
    assert told == [("five", "ok", "fine"), ("six", "warn", "not checked, since one failed")]


def test_checks_run_beside_each_other_and_are_told_in_order(clinic: Clinic):
    meeting = threading.Barrier(3)

    def meets(_: Setup) -> Iterator[Finding]:
        meeting.wait(10)
        yield ok("met")

    found = examine_with(clinic, *(Check(name, meets) for name in ("c", "a", "b")))
    assert [(name, each.message) for name, each in found[1:]] == [("c", "met"), ("a", "met"), ("b", "met")]


def test_a_bug_in_a_check_is_raised_after_the_others_were_told(clinic: Clinic):
    def buggy(_: Setup) -> Iterator[Finding]:
        yield ok("before")
        raise ZeroDivisionError

    clinic.monkeypatch.setattr(examination, "_checks", lambda _: (Check("one", buggy), Check("two", fine)))
    told: list[str] = []
    findings = examine(lambda: checking._setup(clinic.firm.config))
    with pytest.raises(ZeroDivisionError):
        told.extend(finding.message for _, finding in findings)
    assert told[1:] == ["before", "this check has a bug; see the end", "fine"]


def test_what_a_server_says_cannot_draw_on_the_terminal():
    line = report.line("email", ok("a\x1b[2J\nb\u202ec"))
    assert line == "ok    email             a\\x1b[2J b\\u202ec"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_doctor_leaves_nothing(clinic: Clinic, scratch: Path, signum: signal.Signals):
    reached = threading.Event()

    def answer(peer: Peer) -> None:
        reached.set()
        stall(peer)

    with FaultServer(answer) as server:
        clinic.set(ACCOUNTS__URL=server.url)
        process = subprocess.Popen(
            clinic.firm.command("doctor"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert reached.wait(20)
        until = time.monotonic() + 20
        while not list(scratch.iterdir()) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signum)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + signum
    assert "Traceback" not in err
    assert "resume" not in err
    assert list(scratch.iterdir()) == []


# --- --trust-host -----------------------------------------------------------------------------------


def on_a_terminal(clinic: Clinic, answer: str) -> tuple[int, str]:
    """`doctor --trust-host`, with a person who types `answer`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        clinic.firm.command("doctor", "--trust-host"), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown, answered = b"", False
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if b"(yes or no)" in shown and not answered:
            os.write(ours, f"{answer}\n".encode())
            answered = True
    os.close(ours)
    return process.wait(10), shown.decode().replace("\r\n", "\n")


def fingerprint(clinic: Clinic) -> str:
    key = clinic.firm.sshd.host_keys[0].with_suffix(".pub")
    told = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout
    return told.split()[1]


def test_a_host_key_is_trusted_when_a_person_says_so(clinic: Clinic):
    known = clinic.folder / "known_hosts"
    clinic.set(DELIVERY__KNOWN_HOSTS=known)
    code, shown = on_a_terminal(clinic, "no")
    assert code == 20, shown
    assert f"ssh-ed25519 {fingerprint(clinic)}" in shown
    assert not known.exists()
    known.write_text("other.example ssh-ed25519 AAAA")
    code, shown = on_a_terminal(clinic, "yes")
    assert code == 0, shown
    assert known.read_text().splitlines()[0] == "other.example ssh-ed25519 AAAA"
    clinic.ok("sftp_login")
    (told,) = [json.loads(line) for line in (clinic.state / "audit.jsonl").read_text().splitlines()]
    assert told["action"] == "host_key_trusted"
    assert told["details"]["fingerprint"] == f"ssh-ed25519 {fingerprint(clinic)}"
    code, shown = on_a_terminal(clinic, "")
    assert code == 0, shown
    assert "shows the host key that" in shown


def test_a_new_known_hosts_can_be_read_by_the_job(clinic: Clinic):
    known = clinic.folder / "known_hosts"
    clinic.set(DELIVERY__KNOWN_HOSTS=known)
    assert on_a_terminal(clinic, "yes")[0] == 0
    assert known.stat().st_mode & 0o777 == 0o644
    clinic.ok("sftp_login")


def test_another_host_key_is_never_trusted_in_passing(clinic: Clinic):
    known = clinic.firm.sshd.write_known_hosts(clinic.folder / "known_hosts", make_key(clinic.folder / "other"))
    before = known.read_bytes()
    clinic.set(DELIVERY__KNOWN_HOSTS=known)
    code, shown = on_a_terminal(clinic, "yes")
    assert code == 16, shown
    assert "(yes or no)" not in shown
    assert known.read_bytes() == before


def test_trust_needs_a_terminal_and_has_no_json(clinic: Clinic):
    _, err = doctor(clinic, "--trust-host", code=2)
    assert "there is no terminal" in err
    _, err = doctor(clinic, "--trust-host", "--json", code=2)
    assert "no --json" in err


# --- beside a run -----------------------------------------------------------------------------------


def test_a_run_is_not_disturbed(clinic: Clinic):
    clinic.set(RATINGS__RATE_LIMIT="10")  # half a minute: longer than doctor takes, however busy the machine is
    command = clinic.firm.command("run", "--date", str(DAY))
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        lock = clinic.state / "locks" / f"{DAY:%Y%m%d}.lock"
        until = time.monotonic() + 20
        while not (lock.exists() and lock.read_bytes()) and time.monotonic() < until:
            time.sleep(0.01)
        out, _ = doctor(clinic)
        assert run.poll() is None, "the run ended before doctor did: it was not beside it"
        run.terminate()
        run.communicate(timeout=30)
        assert run.returncode == 143
    finally:
        run.kill()
    assert "warn  esg api           not asked: `esgbatch run`, process " in out
    clinic.set(RATINGS__RATE_LIMIT="10000")
    resumed = subprocess.run(
        clinic.firm.command("resume", "--date", str(DAY)), cwd=ROOT, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    sealed = clinic.firm.sshd.drop / f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp"
    assert clinic.firm.plaintext(sealed) == clinic.firm.expected()
