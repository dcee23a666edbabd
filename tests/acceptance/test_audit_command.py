"""`esgbatch audit show` and `verify`, and what the trail tells of a night and of what was refused."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.desk import Desk, seated
from tests.acceptance.firm import DAY, TestFirm, firm

WHOLE_NIGHT = ["config_changed", "accounts_enrolled", "sealed", "delivered"]


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("audit"), 30) as each:
        each.run("run")
        yield each


@pytest.fixture
def desk(
    delivered: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    return seated(delivered, tmp_path, monkeypatch, capsys)


def head(desk: Desk) -> str:
    last = desk.records()[-1]
    return f"{last['n']}:{last['mac']}"


# --- what a night leaves ---


def test_a_night_is_told_from_the_configuration_to_the_delivery(desk: Desk) -> None:
    out, _ = desk.call("audit", "show", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [record["action"] for record in told] == WHOLE_NIGHT
    configured, _, sealed, delivered = (record["details"] for record in told)
    manifest = desk.firm.manifest()
    assert configured["config_sha256"] == manifest["config_sha256"]
    assert configured["recipients"] == sealed["recipients"] == [desk.firm.desk.fingerprint]
    assert sealed["encrypted_sha256"] == delivered["encrypted_sha256"] == manifest["encrypted"]["sha256"]
    assert sealed["plaintext_sha256"] == manifest["plaintext"]["sha256"]
    assert all(record["actor"]["user"] and record["actor"]["host"] for record in told)


def test_the_anchor_is_in_the_log_and_in_the_manifest(desk: Desk) -> None:
    lines = [json.loads(line) for line in (desk.logs / f"esgbatch-{DAY:%Y%m%d}.jsonl").read_text().splitlines()]
    (anchored,) = (line for line in lines if line["event"] == "audit_anchored")
    assert anchored["anchor"] == head(desk)
    out, err = desk.call("audit", "verify", "--anchor", anchored["anchor"])
    assert f"The last one's anchor is {head(desk)}" in out
    assert "4 records" in out
    assert "4 anchors" in out, "given, archived, in the checkpoint, logged"
    assert err == ""
    desk.call("audit", "verify", "--anchor", desk.firm.manifest()["audit_anchor"])
    out, _ = desk.call("audit", "verify", "--json")
    whole = {"schema": 1, "records": 4, "head": head(desk), "anchors": 3, "torn_bytes": 0}
    assert json.loads(out) == whole | {"files": None}
    out, _ = desk.call("audit", "verify", "--json", "--files")
    assert json.loads(out) == whole | {"files": 1}


@pytest.mark.parametrize(
    ("arguments", "actions"),
    [
        (["--date", "2026-11-23"], WHOLE_NIGHT[1:]),
        (["--date", "2026-11-24"], []),
        (["--action", "sealed"], ["sealed"]),
        (["--since", "2020-01-01"], WHOLE_NIGHT),
        (["--since", "2999-01-01T00:00:00Z"], []),
        (["--until", "2999-01-01"], WHOLE_NIGHT),
        (["--until", "2020-01-01T05:00:00+01:00"], []),
    ],
)
def test_show_filters(desk: Desk, arguments: list[str], actions: list[str]) -> None:
    out, _ = desk.call("audit", "show", *arguments)
    assert [line.split()[3] for line in out.splitlines()] == actions


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "--since", "yesterday"],
        ["show", "--account", "A-000001", "--action", "sealed"],
        ["verify", "--anchor", "4711"],
        ["verify", "--anchor", "1:xyz"],
        ["ingest", "/nowhere.log"],
        ["ingest", "/dev/null", "--zone", "Mars/Olympus"],
    ],
)
def test_wrong_calls(desk: Desk, arguments: list[str]) -> None:
    _, err = desk.call("audit", *arguments, code=2)
    assert err


def test_what_others_wrote_cannot_act_on_a_terminal(desk: Desk) -> None:
    import esgbatch.compliance.audit as trail

    key = (desk.state / trail.KEY_FILE).read_bytes()
    trail.AuditTrail(desk.trail, key).append("approved", by="\x1b]0;owned\x07\x1b[2J", reason="a\nb\u202ec")
    out, _ = desk.call("audit", "show", "--action", "approved")
    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()


# --- what is not as it was ---


def replace(desk: Desk, old: bytes, new: bytes) -> None:
    content = desk.trail.read_bytes()
    assert old in content
    desk.trail.write_bytes(content.replace(old, new, 1))


def cut(desk: Desk, records: int) -> None:
    desk.trail.write_bytes(b"".join(desk.trail.read_bytes().splitlines(keepends=True)[:records]))


def swap(desk: Desk) -> None:
    one, two, three, four = desk.trail.read_bytes().splitlines(keepends=True)
    desk.trail.write_bytes(one + three + two + four)


def lose_all_anchors_but(desk: Desk, kept: str) -> None:
    if kept != "archive":
        shutil.rmtree(desk.state / "archive")
    if kept != "checkpoint":
        (desk.state / "checkpoint.sqlite").unlink()
    if kept != "logs":
        shutil.rmtree(desk.logs)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda desk: replace(desk, b'"rows":30', b'"rows":31'), "Record 2 .* its mac is wrong"),
        (lambda desk: cut(desk, 3), "Record 4 .* cut, as .*jsonl proves: the trail ends after record 3"),
        (lambda desk: cut(desk, 0), "Record 3 .* cut, as .*manifest.json proves: the whole trail is gone"),
        (swap, "Record 2 .* record 3 stands in its place"),
        (lambda desk: desk.trail.unlink(), "is gone: .* proves that it had 4 records"),
        (lambda desk: (desk.state / "keyring" / "audit.key").unlink(), "key .* is missing"),
        (lambda desk: (desk.state / "keyring" / "audit.key").write_bytes(b"x" * 32), "Record 1 .* another key"),
    ],
)
def test_a_broken_trail_is_22_and_says_where(desk: Desk, damage: Callable[[Desk], None], told: str) -> None:
    damage(desk)
    out, err = desk.call("audit", "verify", code=22)
    assert re.search(told, err), err
    assert "Next: " in err
    assert out == ""


@pytest.mark.parametrize("kept", ["archive", "checkpoint", "logs"])
def test_any_anchor_that_is_left_shows_a_cut(desk: Desk, kept: str) -> None:
    lose_all_anchors_but(desk, kept)
    desk.call("audit", "verify")
    cut(desk, 2)
    _, err = desk.call("audit", "verify", code=22)
    assert "its tail was cut" in err


def test_an_anchor_from_outside_shows_what_no_other_can(desk: Desk) -> None:
    anchor = head(desk)
    lose_all_anchors_but(desk, "")
    cut(desk, 3)
    desk.call("audit", "verify")
    _, err = desk.call("audit", "verify", "--anchor", anchor, code=22)
    assert "the one given" in err
    desk.call("audit", "verify", "--anchor", f"2:{'0' * 64}", code=22)


def test_a_line_that_a_crash_has_torn_is_no_tampering(desk: Desk) -> None:
    with desk.trail.open("ab") as file:
        file.write(b'{"action":"deli')
    _, err = desk.call("audit", "verify")
    assert "the last line is torn: 15 bytes" in err
    with desk.trail.open("ab") as file:
        file.write(b"\n")
    _, err = desk.call("audit", "verify", code=22)
    assert "Record 5 " in err


def test_where_nothing_ever_was_there_is_nothing_to_verify(desk: Desk, tmp_path: Path) -> None:
    desk.set(JOB__STATE_DIR=tmp_path / "new", LOGGING__DIRECTORY=tmp_path / "newlogs")
    for command in ("show", "verify"):
        _, err = desk.call("audit", command, code=19)
        assert "no audit trail" in err
    assert not (tmp_path / "new").exists(), "looking makes nothing"


def test_a_trail_that_is_gone_is_missed_by_a_run_that_came_to_nothing(desk: Desk) -> None:
    lose_all_anchors_but(desk, "checkpoint")
    with closing(sqlite3.connect(desk.state / "checkpoint.sqlite")) as connection:
        connection.execute("delete from revisions")
        connection.commit()
    desk.trail.unlink()
    _, err = desk.call("audit", "verify", code=22)
    assert f"there was a run of {DAY}" in err


def test_a_trail_whose_key_is_gone_with_it_is_missed(desk: Desk) -> None:
    lose_all_anchors_but(desk, "checkpoint")
    desk.trail.unlink()
    shutil.rmtree(desk.state / "keyring")
    desk.call("audit", "verify", code=22)


def test_the_anchors_of_another_trail_in_the_same_logs_are_not_ours(desk: Desk, tmp_path: Path) -> None:
    desk.set(JOB__STATE_DIR=tmp_path / "another")
    desk.call("resume", "--date", str(DAY), code=19)
    out, _ = desk.call("audit", "verify")
    assert "2 records" in out
    assert "1 anchors" in out


def test_a_state_folder_that_cannot_be_looked_into_is_told(desk: Desk) -> None:
    desk.set(JOB__STATE_DIR=f"/tmp/{'x' * 300}")
    for command in ("show", "verify"):
        _, err = desk.call("audit", command, code=10)
        assert "cannot be looked into: File name too long" in err


def test_a_checkpoint_that_cannot_be_read_is_told_and_the_rest_compared(desk: Desk) -> None:
    (desk.state / "checkpoint.sqlite").write_bytes(b"no database" * 100)
    _, err = desk.call("audit", "verify")
    assert "the checkpoint's manifests were not compared" in err


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"), "is not the file that was sealed"),
        (Path.unlink, "is gone, and no record says that it was purged"),
    ],
)
def test_an_archived_file_that_is_not_as_it_was_sealed_is_found(
    desk: Desk, damage: Callable[[Path], None], told: str
) -> None:
    (sealed,) = desk.state.glob("archive/*/r1/*.pgp")
    damage(sealed)
    desk.call("audit", "verify")
    _, err = desk.call("audit", "verify", "--files", code=22)
    assert told in err
    assert str(sealed) in err


def test_a_file_that_was_purged_is_not_missed(desk: Desk) -> None:
    import esgbatch.compliance.audit as trail

    (sealed,) = desk.state.glob("archive/*/r1/*.pgp")
    sealed.unlink()
    key = (desk.state / trail.KEY_FILE).read_bytes()
    trail.AuditTrail(desk.trail, key).append("purged", business_date=DAY, what="files")
    out, _ = desk.call("audit", "verify", "--files")
    assert "0 archived files" in out


# --- changes and refusals ---


def test_another_configuration_is_told_once_and_says_what_changed(desk: Desk) -> None:
    before = desk.records("config_changed")[0]["details"]
    desk.set(QUALITY__MAX_FAILED_PERCENT="7")
    desk.call("deliver", "--date", str(DAY))
    desk.call("deliver", "--date", str(DAY))
    first, second = (record["details"] for record in desk.records("config_changed"))
    assert first == before
    assert second["previous"] == first["config_sha256"] != second["config_sha256"]
    assert {"quality"} <= set(second["changed"]) <= {"quality", "job", "logging"}
    assert [record["action"] for record in desk.records()][-2:] == ["delivery_repeated"] * 2


def test_an_exchanged_key_file_or_host_key_is_told_though_the_configuration_is_the_same(
    desk: Desk, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_bytes(desk.firm.sshd.known_hosts.read_bytes())
    desk.set(DELIVERY__KNOWN_HOSTS=known)
    desk.call("deliver", "--date", str(DAY))
    with known.open("a") as file:
        file.write("# another line\n")
    desk.call("deliver", "--date", str(DAY))
    assert desk.records("config_changed")[-1]["details"]["changed"] == ["delivery.known_hosts"]


def test_what_is_refused_is_told(desk: Desk, tmp_path: Path) -> None:
    desk.call("approve", "--date", str(DAY), "--by", "M", "--reason", "none", code=19)
    desk.call("resume", "--date", "2026-11-20", code=19)
    desk.call("rerun", "--date", str(DAY), "--accounts", "A-000001,Mrs Smith", code=2)
    desk.firm.sshd.write_known_hosts(tmp_path / "other", desk.firm.sshd.client_key)
    desk.set(DELIVERY__KNOWN_HOSTS=tmp_path / "other")
    desk.call("deliver", "--date", str(DAY), code=16)
    desk.set(ENCRYPTION__FINGERPRINTS='["' + "A" * 40 + '"]')
    desk.call("resume", "--date", "2026-11-19", code=10)
    told = [
        (record["business_date"], record["actor"]["user"] != "", record["details"])
        for record in desk.records("refused")
    ]
    assert [(day, details["error"], details["code"]) for day, _, details in told] == [
        (str(DAY), "NothingToDo", 19),
        ("2026-11-20", "NothingToDo", 19),
        (str(DAY), "WrongUsage", 2),
        (str(DAY), "HostKeyMismatch", 16),
        ("2026-11-19", "ConfigError", 10),
    ]
    mismatch, wrong_key = told[3][2]["reason"], told[4][2]["reason"]
    assert mismatch.count("SHA256:") == 2, "what was shown, and what was expected"
    assert desk.firm.desk.fingerprint in wrong_key
    assert "Smith" not in desk.trail.read_text()
    desk.call("audit", "verify")


def test_what_fails_is_told(desk: Desk) -> None:
    desk.set(DELIVERY__PORT="1", DELIVERY__ATTEMPTS="1")
    desk.call("deliver", "--date", str(DAY), code=16)
    (failed,) = desk.records("failed")
    assert (failed["details"]["error"], failed["details"]["code"]) == ("DeliveryError", 16)


# --- a request of access ---


def test_an_access_request_is_answered_from_everything_that_is_kept(desk: Desk) -> None:
    books = desk.firm.books
    account = books.account_id(3)
    out, _ = desk.call("audit", "show", "--account", account, "--json")
    content = json.loads(out)
    (run,) = content["runs"]
    assert run["name"] == books.name(3)
    assert list(run["scores"].values()) == list(books.cells(3))
    (file,) = run["files"]
    assert file["recipients"] == [desk.firm.desk.fingerprint]
    assert file["encrypted_sha256"] == desk.firm.manifest()["encrypted"]["sha256"]
    assert [record["action"] for record in content["records"]] == ["sealed", "delivered"]
    shown, _ = desk.call("audit", "show", "--account", account)
    assert books.name(3) in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_log_lines_about_it_are_kept_data_too(desk: Desk) -> None:
    account = desk.firm.books.account_id(25)
    lines = [{"account_id": account, "reason": "no_rating"}, {"account_id": account + "0", "reason": "gone"}]
    errors = desk.logs / f"errors-{DAY:%Y%m%d}.jsonl"
    errors.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{torn")
    out, _ = desk.call("audit", "show", "--account", account, "--json")
    assert json.loads(out)["log_lines"] == [{"file": errors.name, "line": lines[0]}]
    out, _ = desk.call("audit", "show", "--account", account)
    assert f"{errors.name}  no_rating" in out


def test_the_answer_is_told_without_the_name(desk: Desk) -> None:
    account = desk.firm.books.account_id(3)
    desk.call("audit", "show", "--account", account)
    (told,) = desk.records("access_answered")
    assert re.fullmatch("[0-9a-f]{32}", told["details"]["subject"])
    assert account not in desk.trail.read_text()
    desk.call("audit", "show", "--account", "NOBODY", code=19)
    out, _ = desk.call("audit", "show", "--account", account, "--json")
    assert "access_answered" in out
