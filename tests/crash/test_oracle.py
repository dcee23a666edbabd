"""The oracle notices everything that could be wrong with a night; the driver knows a hit from a miss."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from esgbatch.compliance.audit import AuditTrail
from tests.crash.driver import Worker
from tests.crash.oracle import ERRORS, LOG, MANIFEST, SEALED, Oracle, misbehaviour
from tests.crash.points import Fault, Group, Point, groups, sample
from tests.crash.site import BAD_ACCOUNT, FOLDERS, Ran, Site, advised, sites
from tests.sealing import until

LAST = "position = (select max(position) from accounts)"
AGAIN = "select 99, run, revision, step, detail, at from delivery_steps where step = 'recorded'"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with sites(tmp_path_factory.mktemp("crash"), 1) as (site,):
        found = Worker(site)
        found.oracle("nothing")
        for name in FOLDERS:
            shutil.copytree(site.folder / name, site.folder / "kept" / name)
        yield found


@pytest.fixture
def night(worker: Worker) -> Site:
    """A completed night, to be damaged."""
    for name in FOLDERS:
        shutil.rmtree(worker.site.folder / name)
        shutil.copytree(worker.site.folder / "kept" / name, worker.site.folder / name)
    return worker.site


@pytest.fixture
def oracle(worker: Worker, night: Site) -> Oracle:
    return worker.oracle("nothing")


def sql(statement: str) -> Callable[[Site], None]:
    def damage(site: Site) -> None:
        with closing(sqlite3.connect(site.state / "checkpoint.sqlite")) as connection, connection:
            connection.execute(statement)

    return damage


def another_file(site: Site) -> None:
    """With one account too few, and else perfect: it is the recipient's, the hashes agree."""
    text = site.firm.expected({BAD_ACCOUNT}).rpartition(b"A-000009")[0]
    (site.drop / SEALED).unlink()
    command = ["gpg", "--homedir", str(site.firm.desk.home), "--batch", "--trust-model", "always"]
    options = [
        "--recipient-file",
        str(site.firm.desk.public_key),
        "--output",
        str(site.drop / SEALED),
        "--encrypt",
    ]
    subprocess.run([*command, *options], input=text, check=True, capture_output=True)


def another_manifest(site: Site) -> None:
    content = json.loads((site.drop / MANIFEST).read_text())
    content["counts"]["succeeded"] -= 1
    (site.drop / MANIFEST).write_text(json.dumps(content))


def told_twice(site: Site) -> None:
    path = site.state / "audit.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    trail = AuditTrail(path, (site.state / "keyring" / "audit.key").read_bytes())
    trail.append(last["action"], run_id=last["run_id"], **last["details"])


def cut_trail(site: Site) -> None:
    path = site.state / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def changed_trail(site: Site) -> None:
    path = site.state / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"rows":10', b'"rows":11', 1))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda site: (site.drop / ".x.part").touch(), "remote folder holds"),
        (lambda site: (site.drop / MANIFEST).unlink(), "remote folder holds"),
        (lambda site: (site.drop / SEALED).chmod(0o600), "another mode"),
        (another_file, "not what the firm's books say"),
        (another_file, "tells of another encrypted file"),
        (another_manifest, "the manifest is"),
        (lambda site: (site.logs / ERRORS).write_text(""), "the error file is"),
        (lambda site: (site.logs / ERRORS).unlink(), "cannot be examined"),
        (lambda site: (site.logs / LOG).write_text("{"), "cannot be examined"),
        (lambda site: (site.logs / f"{ERRORS}.part").touch(), "in the log folder is left"),
        (lambda site: (site.state / "keyring" / "x.part").touch(), "in the state folder is left"),
        (lambda site: shutil.rmtree(site.state / "archive"), "is missing"),
        (sql(f"update accounts set state = 'pending' where {LAST}"), "the accounts are"),
        (sql("update runs set stage = 'delivering'"), "the runs are"),
        (sql("update revisions set delivered = null"), "the revisions are"),
        (sql(f"insert into delivery_steps {AGAIN}"), "the delivery's steps are"),
        (sql("update executions set exit_code = 17"), "the last execution"),
        (told_twice, "the trail tells"),
        (cut_trail, "the trail tells"),
        (changed_trail, "audit trail"),
    ],
)  # fmt: skip
def test_damage_is_noticed(oracle: Oracle, night: Site, damage: Callable[[Site], None], told: str) -> None:
    damage(night)
    assert any(told in difference for difference in oracle.differences()), list(oracle.differences())


def test_an_undisturbed_night_has_no_difference(oracle: Oracle) -> None:
    assert not list(oracle.differences())


def test_processes_that_still_work_there_are_seen(night: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.crash.site.LINGER", 0.0)
    sleeper = subprocess.Popen(["sh", "-c", "read wait", str(night.state)], stdin=subprocess.PIPE)
    try:
        until(lambda: any(str(night.state) in each for each in night.processes()))
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_a_point_behind_the_end_is_a_miss(worker: Worker) -> None:
    verdict = worker.attempt(Point(Group("main", "rename", Fault.KILL), 99))
    assert (verdict.call, verdict.problems) == ("", ())


def test_a_hit_is_known_by_its_call(worker: Worker) -> None:
    verdict = worker.attempt(Point(Group("main", "rename", Fault.KILL), 1))
    assert verdict.call.startswith("rename(")
    assert verdict.survived, verdict.problems
    assert verdict.story[0].startswith("run -> -9")


def test_a_bug_is_no_way_to_end() -> None:
    assert list(misbehaviour(Ran(1, "", "esgbatch: This is a bug")))
    assert list(misbehaviour(Ran(17, "", "Traceback (most recent call last):")))
    assert not list(misbehaviour(Ran(17, "", "esgbatch: The checkpoint database failed: disk I/O error.")))


@pytest.mark.parametrize(
    ("code", "err", "next_command"),
    [
        (-9, "", ("resume",)),
        (19, "Next: look at the date: `esgbatch report --days 7` lists the last runs", ("run",)),
        (16, "esgbatch: …\nNext: `esgbatch deliver --date 2026-11-23`", ("deliver", "--date", "2026-11-23")),
        (10, "Next: correct the configuration, then `esgbatch run`", ("run",)),
        (10, "Next: `chmod 600 key`, then `esgbatch doctor`", ("resume",)),
    ],
)
def test_the_advice_is_followed(code: int, err: str, next_command: tuple[str, ...]) -> None:
    assert advised(Ran(code, "", err)) == next_command


def test_a_sample_is_spread_and_the_same_each_time() -> None:
    census = {("main", call): range(1, 100) for call in ("write", "fsync", "rename")}
    points = sample(groups(census), census, 60)
    assert points == sample(groups(census), census, 60)
    assert {point.group for point in points} == set(groups(census))
    assert min(point.n for point in points) < 10
    assert max(point.n for point in points) > 90
