"""The audit trail: any change shows, a crash loses nothing, and several processes may write."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from esgbatch.compliance import audit
from esgbatch.compliance.audit import KEY_FILE, Anchor, AuditTrail, load_or_create_key
from esgbatch.errors import AuditBroken, CheckpointError, ConfigError

KEY = bytes(range(32))
RECORDS = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def trail(path: Path) -> AuditTrail:
    return AuditTrail(path, KEY)


def fill(trail: AuditTrail, records: int = RECORDS) -> list[Anchor]:
    return [
        trail.append(
            "sealed",
            business_date=date(2026, 11, 24),
            run_id=f"run-{number}",
            encrypted_sha256=hashlib.sha256(bytes([number])).hexdigest(),
            rows=number,
        )
        for number in range(records)
    ]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


# --- what a record is ---


def test_a_record_holds_who_what_when_and_the_chain(trail: AuditTrail, path: Path) -> None:
    first = trail.append(
        "sealed", business_date=date(2026, 11, 24), run_id="r1", encrypted_sha256="ab", keys=["F" * 40]
    )
    second = trail.append("delivered")
    one, two = (json.loads(line) for line in lines(path))
    assert set(one) == {
        "n", "time", "actor", "action", "business_date", "run_id", "details", "prev", "mac",
    }  # fmt: skip
    assert set(one["actor"]) == {"user", "uid", "host", "pid", "process"}
    assert (one["actor"]["uid"], one["actor"]["pid"]) == (os.getuid(), os.getpid())
    assert one["details"] == {"encrypted_sha256": "ab", "keys": ["F" * 40]}
    assert (one["n"], one["prev"], one["business_date"], one["run_id"]) == (1, "0" * 64, "2026-11-24", "r1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["time"])
    assert (two["n"], two["prev"], two["business_date"]) == (2, one["mac"], None)
    assert (first, second) == (Anchor(1, one["mac"]), Anchor(2, two["mac"]))
    assert str(second) == f"2:{two['mac']}"
    assert trail.head() == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_had_logged_in_before_sudo_is_told(
    trail: AuditTrail, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uid in (65534, os.getuid(), None):
        monkeypatch.setattr(audit, "_login", lambda uid=uid: uid)
        trail.append("approved")
    assert [json.loads(line)["actor"].get("login") for line in lines(path)] == ["nobody", None, None]


def test_options_of_the_command_line_never_get_in(
    trail: AuditTrail, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/usr/bin/esgbatch", "rerun", "--accounts", "A-1", "--reason", "Mrs Smith"]
    )
    trail.append("rerun")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/esgbatch", "--accounts=A-1"])
    trail.append("rerun")
    assert [json.loads(line)["actor"]["process"] for line in lines(path)] == ["esgbatch rerun", "esgbatch"]
    assert b"Smith" not in path.read_bytes()


def test_the_documented_shell_line_checks_a_mac(trail: AuditTrail, path: Path) -> None:
    fill(trail, 2)
    assert shutil.which("openssl"), "install openssl"
    assert audit.__doc__ is not None
    command = next(line.strip() for line in audit.__doc__.splitlines() if line.strip().startswith("sed"))
    line = lines(path)[1].rstrip(b"\n")
    # `$(…)` drops the newline that sed adds; the mac is over the line without one.
    script = f'printf %s "$({command.split("|")[0]})" | {command.split("|")[1].replace("KEY", KEY.hex())}'
    answer = subprocess.run(["sh", "-c", script], input=line, capture_output=True, check=True).stdout
    assert json.loads(line)["mac"].encode() in answer


def test_an_empty_trail_has_no_head(trail: AuditTrail, path: Path) -> None:
    assert trail.head() is None
    assert trail.verify() == 0
    assert not path.exists()


def test_appending_reads_only_the_end(trail: AuditTrail, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(trail, 200)
    read: list[int] = []
    pread = os.pread

    def counted(file: int, size: int, position: int) -> bytes:
        read.append(size)
        return pread(file, size, position)

    monkeypatch.setattr(os, "pread", counted)
    trail.append("delivered")
    assert path.stat().st_size > 10 * audit.BLOCK
    assert sum(read) == audit.BLOCK


def test_a_record_longer_than_a_block(trail: AuditTrail) -> None:
    trail.append("sealed", recipients=[{"key": "F" * 40}] * 1000)
    head = trail.append("delivered")
    assert trail.verify(head) == 2


def test_a_block_may_begin_anywhere_in_a_record(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BLOCK", 64)
    for length in range(64):
        head = trail.append("sealed", padding="x" * length)
    assert trail.verify(head) == 64


# --- tampering ---


def test_a_whole_trail_verifies_against_each_of_its_anchors(trail: AuditTrail) -> None:
    anchors = fill(trail)
    assert trail.verify() == RECORDS
    assert [trail.verify(anchor) for anchor in anchors] == [RECORDS] * RECORDS


@pytest.mark.parametrize("victim", range(RECORDS))
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda line: line.replace(b'"rows":', b'"Rows":'), id="a key"),
        pytest.param(lambda line: re.sub(rb'"uid":\d+', b'"uid":7777', line), id="a value"),
        pytest.param(
            lambda line: line[:-4] + (b"0" if line[-4:-3] != b"0" else b"1") + line[-3:], id="the mac"
        ),
        pytest.param(lambda line: line.replace(b'","mac":"', b'","mac":"x'), id="the mac's form"),
        pytest.param(lambda line: b"\n", id="blanked"),
        pytest.param(lambda line: line.replace(b"{", b"[", 1), id="no JSON"),
        pytest.param(lambda line: line.replace(b'"n":', b'"n": '), id="a space"),
    ],
)
def test_a_changed_record_is_named(
    trail: AuditTrail, path: Path, victim: int, change: Callable[[bytes], bytes]
) -> None:
    fill(trail)
    all_lines = lines(path)
    changed = change(all_lines[victim])
    assert changed != all_lines[victim]
    all_lines[victim] = changed
    path.write_bytes(b"".join(all_lines))
    with pytest.raises(AuditBroken, match=f"Record {victim + 1} "):
        trail.verify()


def test_every_single_byte_counts(trail: AuditTrail, path: Path) -> None:
    fill(trail, 2)
    whole = path.read_bytes()
    for position in range(len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(AuditBroken):
            trail.verify()


@pytest.mark.parametrize("victim", range(RECORDS - 1))
def test_a_removed_record_is_missed(trail: AuditTrail, path: Path, victim: int) -> None:
    fill(trail)
    all_lines = lines(path)
    del all_lines[victim]
    path.write_bytes(b"".join(all_lines))
    with pytest.raises(AuditBroken, match=f"Record {victim + 1} .* record {victim + 2} stands in its place"):
        trail.verify()


def test_records_out_of_order(trail: AuditTrail, path: Path) -> None:
    fill(trail)
    all_lines = lines(path)
    all_lines[2], all_lines[3] = all_lines[3], all_lines[2]
    path.write_bytes(b"".join(all_lines))
    with pytest.raises(AuditBroken, match=r"Record 3 .* record 4 stands in its place"):
        trail.verify()


def test_a_record_repeated(trail: AuditTrail, path: Path) -> None:
    fill(trail)
    all_lines = lines(path)
    path.write_bytes(b"".join([*all_lines, all_lines[-1]]))
    with pytest.raises(AuditBroken, match=f"Record {RECORDS + 1} .* record {RECORDS} stands in its place"):
        trail.verify()


def test_a_genuine_record_of_another_trail_is_spliced_in(trail: AuditTrail, path: Path, tmp_path: Path) -> None:
    fill(trail)
    other = AuditTrail(tmp_path / "other.jsonl", KEY)
    fill(other)
    all_lines = lines(path)
    all_lines[3] = lines(tmp_path / "other.jsonl")[3]
    path.write_bytes(b"".join(all_lines))
    with pytest.raises(AuditBroken, match=r"Record 4 .* does not follow from the record before it"):
        trail.verify()


def test_a_record_under_another_key(trail: AuditTrail, path: Path) -> None:
    fill(trail)
    stranger = AuditTrail(path, bytes(32))
    with pytest.raises(AuditBroken, match=r"The last record .* written with another key"):
        stranger.append("delivered")
    with pytest.raises(AuditBroken, match=r"Record 1 .* written with another key"):
        stranger.verify()
    assert trail.verify() == RECORDS


def test_a_cut_tail_shows_against_an_anchor(trail: AuditTrail, path: Path) -> None:
    anchors = fill(trail)
    path.write_bytes(b"".join(lines(path)[:4]))
    assert trail.verify() == 4
    assert trail.verify(anchors[3]) == 4
    with pytest.raises(AuditBroken, match=r"Record 6 .* its tail was cut: the trail ends after record 4"):
        trail.verify(anchors[5])


def test_a_tail_cut_and_grown_again_shows_too(trail: AuditTrail, path: Path) -> None:
    anchors = fill(trail)
    path.write_bytes(b"".join(lines(path)[:4]))
    fill(trail)
    assert trail.verify() == 10
    with pytest.raises(AuditBroken, match=r"Record 6 .* the trail was rewritten"):
        trail.verify(anchors[5])


def test_a_trail_that_is_gone_shows_against_an_anchor(trail: AuditTrail, path: Path) -> None:
    (anchor,) = fill(trail, 1)
    path.unlink()
    with pytest.raises(AuditBroken, match=r"Record 1 .* its tail was cut"):
        trail.verify(anchor)
    with pytest.raises(AuditBroken):
        trail.verify(Anchor(0, "f" * 64))


def test_nothing_is_built_on_a_changed_last_record(trail: AuditTrail, path: Path) -> None:
    fill(trail)
    forged = path.read_bytes().replace(b'"rows":5', b'"rows":9')
    path.write_bytes(forged)
    for attempt in (lambda: trail.append("delivered"), trail.head):
        with pytest.raises(AuditBroken, match=r"The last record "):
            attempt()
    path.write_bytes(forged[:-4] + b"\n")
    with pytest.raises(AuditBroken, match=f"Record {RECORDS} .* cannot be read"):
        trail.append("delivered")


# --- crashes ---


@pytest.mark.parametrize("kept", [1, 40, 300, -66, -3, -2])
def test_a_torn_tail_is_vouched_for_and_appending_goes_on(trail: AuditTrail, path: Path, kept: int) -> None:
    anchors = fill(trail, 3)
    before = b"".join(lines(path)[:2])
    torn = lines(path)[2][:kept]
    path.write_bytes(before + torn)
    assert trail.verify() == 2
    assert trail.head() == anchors[1]
    assert trail.append("delivered").n == 3
    assert path.read_bytes().startswith(before + torn + b"\n"), "nothing is removed"
    assert json.loads(lines(path)[-1])["torn_tail"] == hashlib.sha256(torn).hexdigest()
    fill(trail, 2)
    assert trail.verify() == 5
    with pytest.raises(AuditBroken, match=r"Record 3 .* rewritten"):
        trail.verify(anchors[2])


def test_a_torn_tail_cannot_be_changed_or_removed_later(trail: AuditTrail, path: Path) -> None:
    fill(trail, 2)
    path.write_bytes(path.read_bytes()[:-30])
    trail.append("delivered")
    first, torn, last = lines(path)
    for forged in (first + last, first + torn[:-2] + b"\n" + last, first + torn + b"x\n" + last):
        path.write_bytes(forged)
        with pytest.raises(AuditBroken, match=r"Record 2 .* no record vouches for it"):
            trail.verify()


def test_a_record_that_lacks_only_its_newline_is_whole(trail: AuditTrail, path: Path) -> None:
    anchors = fill(trail, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert trail.head() == anchors[1]
    assert trail.verify(anchors[1]) == 2
    trail.append("delivered")
    assert trail.verify() == 3
    assert "torn_tail" not in json.loads(lines(path)[2])


def test_torn_twice_and_torn_at_the_very_start(trail: AuditTrail, path: Path) -> None:
    path.write_bytes(b'{"action":"run_sta')
    trail.append("run_started")
    assert trail.verify() == 1
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"action":"se\n{"action":"sea' + bytes(10_000))
    trail.append("sealed")
    assert trail.verify() == 2


@pytest.mark.parametrize("crash_at", ["write", "fsync"])
def test_killed_in_the_middle(trail: AuditTrail, path: Path, tmp_path: Path, crash_at: str) -> None:
    assert shutil.which("strace"), "install strace"
    fill(trail, 3)
    code = (
        "import sys; from pathlib import Path; from esgbatch.compliance.audit import AuditTrail;"
        "trail = AuditTrail(Path(sys.argv[1]), bytes(range(32)));"
        "trail.append('sealed'); trail.append('delivered')"
    )
    killed = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", f"trace={crash_at}",
         "-e", f"inject={crash_at}:signal=KILL:when=2", sys.executable, "-c", code, str(path)],
    )  # fmt: skip
    assert killed.returncode in (-9, 137), "the fault struck"
    assert trail.verify() in (4, 5)
    trail.append("delivered")
    assert trail.verify() in (5, 6)


def test_two_processes_append_two_hundred_records_each(trail: AuditTrail, path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from esgbatch.compliance.audit import AuditTrail;"
        "trail = AuditTrail(Path(sys.argv[1]), bytes(range(32))); sys.stdin.readline();"
        "[trail.append('delivered', run_id=sys.argv[2]) for _ in range(200)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stdin=subprocess.PIPE)
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert trail.verify() == 400
    records = [json.loads(line) for line in lines(path)]
    assert sorted(record["run_id"] for record in records) == ["a"] * 200 + ["b"] * 200


def test_a_disk_that_is_full_leaves_the_trail_as_it_was(trail: AuditTrail, path: Path) -> None:
    fill(trail, 2)
    before = path.read_bytes()
    code = (
        "import resource, sys; from pathlib import Path; from esgbatch.compliance.audit import AuditTrail;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2);"
        "AuditTrail(Path(sys.argv[1]), bytes(range(32))).append('sealed')"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    for limit in (len(before), len(before) + 100):
        result = subprocess.run([sys.executable, "-c", code, str(path), str(limit)], capture_output=True)
        assert b"CheckpointError: The audit trail" in result.stderr
        assert path.read_bytes() == before


def test_a_trail_that_stays_locked_is_given_up(
    trail: AuditTrail, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(trail, 1)
    monkeypatch.setattr(audit, "LOCK_SECONDS", 0.01)
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process has kept it locked"):
            trail.append("delivered")
    assert trail.append("delivered").n == 2


def test_a_link_in_its_place_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (tmp_path / "link", tmp_path / "missing" / "audit.jsonl"):
        with pytest.raises(CheckpointError, match=r"audit trail .* cannot be read or written"):
            AuditTrail(path, KEY).append("sealed")
    assert (tmp_path / "target").read_bytes() == b""


# --- what two places must tell ---


def test_what_the_trail_tells_already_is_not_told_again(trail: AuditTrail, path: Path) -> None:
    first = trail.append("delivered", once=True, run_id="a", revision=1)
    trail.append("delivered", once=True, run_id="b", revision=1)
    before = path.read_bytes()
    assert trail.append("delivered", once=True, run_id="a", revision=1) == first
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("action", "run_id", "revision"),
    [("sealed", "a", 1), ("delivered", "ab", 1), ("delivered", "a", 2), ("delivered", None, 1)],
)
def test_anything_else_is_told(trail: AuditTrail, action: str, run_id: str | None, revision: int) -> None:
    trail.append("delivered", run_id="a", revision=1)
    assert trail.append(action, once=True, run_id=run_id, revision=revision).n == 2
    assert trail.verify() == 2


def test_twice_is_told_twice_unless_once_is_asked_for(trail: AuditTrail) -> None:
    assert [trail.append("delivery_repeated", run_id="a").n for _ in range(2)] == [1, 2]


def test_a_torn_record_does_not_tell(trail: AuditTrail, path: Path) -> None:
    trail.append("sealed", run_id="a")
    trail.append("delivered", run_id="a")
    os.truncate(path, path.stat().st_size - 20)
    assert trail.append("delivered", once=True, run_id="a").n == 2
    assert trail.verify() == 2


def test_a_forged_record_does_not_tell(trail: AuditTrail, path: Path) -> None:
    trail.append("delivered", run_id="a")
    path.write_bytes(path.read_bytes().replace(b'"run_id":"a"', b'"run_id":"b"'))
    AuditTrail(path.with_name("ours"), KEY).append("sealed", run_id="c")
    path.write_bytes(path.read_bytes() + path.with_name("ours").read_bytes())
    with pytest.raises(AuditBroken):
        trail.append("delivered", once=True, run_id="b")


# --- the key ---


@pytest.mark.parametrize("crash_at", ["write", "fsync", "rename"])
def test_killed_while_the_key_is_made(tmp_path: Path, crash_at: str) -> None:
    assert shutil.which("strace"), "install strace"
    part = tmp_path / KEY_FILE.with_name("audit.key.part")
    code = (
        "import sys; from pathlib import Path; from esgbatch.compliance.audit import load_or_create_key;"
        "load_or_create_key(Path(sys.argv[1]))"
    )
    killed = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(part), "-e", f"trace={crash_at}",
         "-e", f"inject={crash_at}:signal=KILL", sys.executable, "-c", code, str(tmp_path)],
    )  # fmt: skip
    assert killed.returncode in (-9, 137), "the fault struck"
    assert part.exists()
    assert len(load_or_create_key(tmp_path)) == 32
    assert [entry.name for entry in (tmp_path / "keyring").iterdir()] == ["audit.key"]


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = load_or_create_key(state)
    assert len(key) == 32
    assert load_or_create_key(state) == key
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (state, state / "keyring", state / KEY_FILE)]
    assert modes == [0o700, 0o700, 0o600]
    assert [entry.name for entry in (state / "keyring").iterdir()] == ["audit.key"], "no draft stays behind"
    assert load_or_create_key(tmp_path / "another") != key


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        load_or_create_key(tmp_path)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    load_or_create_key(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes, not 32"):
        load_or_create_key(tmp_path)


def test_a_lost_key_is_never_replaced(tmp_path: Path) -> None:
    AuditTrail(tmp_path / "audit.jsonl", load_or_create_key(tmp_path)).append("run_started")
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(AuditBroken, match="is missing"):
        load_or_create_key(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()


def test_processes_that_make_the_key_at_once_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from esgbatch.compliance.audit import load_or_create_key;"
        "sys.stdin.readline(); print(load_or_create_key(Path(sys.argv[1])).hex())"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdin
        maker.stdin.write("go\n")
        maker.stdin.flush()
    keys = {maker.communicate(timeout=60)[0].strip() for maker in makers}
    assert keys == {load_or_create_key(tmp_path).hex()}


def test_a_key_that_another_process_has_just_made_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def other_process_first(folder: Path) -> Iterator[None]:
        (folder / KEY_FILE.name).write_bytes(b"k" * 32)
        (folder / KEY_FILE.name).chmod(0o600)
        yield

    monkeypatch.setattr(audit, "alone", other_process_first)
    assert load_or_create_key(tmp_path) == b"k" * 32
