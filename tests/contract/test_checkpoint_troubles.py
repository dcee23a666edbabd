"""What the checkpoint does when its database is shared, killed, full, broken, or not there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from esgbatch.checkpoint import database as database_module
from esgbatch.checkpoint import postgresql, tables
from esgbatch.checkpoint.database import Database, describe
from esgbatch.checkpoint.runs import SqlRuns
from esgbatch.errors import CheckpointError, ConfigError, NothingToDo
from esgbatch.model import Run, Stage, State, Tally
from tests.acceptance.postgres import Postgres
from tests.checkpoints import DAY, Books, account, listings, success
from tests.simulated import RecordingListener, SimulatedClock

ROOT = Path(__file__).parents[2]
NAME = "Smith Family Trust"


@pytest.fixture
def books(checkpoint_url: str) -> Iterator[Books]:
    with Books(checkpoint_url) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite checkpoint with a run in it, closed."""
    path = tmp_path / "checkpoint.sqlite"
    with Books(f"sqlite:///{path}") as books:
        run = books.enrolled([account(f"A-{number}", f"{NAME} {number}") for number in range(500)])
        books.outcomes.record(run, [success(position) for position in range(500)])
    return path


def assert_clear(error: BaseException) -> None:
    """One line that says what happened, without anything of an account's or a password."""
    text = str(error)
    assert text.strip()
    assert "\n" not in text
    assert len(text) < 250
    for private in (
        "Smith",
        "Trust",
        "A-1",
        "71.24",
        "S3cret",
        "sqlalche.me",
        "[SQL",
        "(sqlite3.",
        "(psycopg.",
    ):
        assert private not in text


def read_everything(books: Books) -> None:
    run = books.runs.find(DAY)
    assert run is not None
    books.outcomes.tally(run)
    books.outcomes.pending(run, State.PENDING, -1, 1000)
    books.outcomes.page(run, 0)
    list(books.outcomes.failures(run))
    books.ledger.revisions(run)
    books.history.executions(run)
    books.history.snapshot(run)


# --- several at once --------------------------------------------------------------------------


def test_a_reader_sees_the_last_commit_while_a_writer_is_at_work(books: Books) -> None:
    run = books.enrolled(3)
    with Books(books.url) as others:
        with books.database.writing() as connection:
            connection.execute(update(tables.runs).values(stage=Stage.SEALING))
            connection.execute(update(tables.accounts).values(state=State.DEFERRED))
            assert others.again(run) == run
            assert others.outcomes.tally(run) == Tally(pending=3)
        assert others.again(run).stage is Stage.SEALING


def test_a_second_writer_waits_for_the_first(books: Books) -> None:
    run = books.enrolled(3)
    with Books(books.url) as others, ThreadPoolExecutor(1) as pool:
        with books.database.writing() as connection:
            connection.execute(update(tables.runs).values(stage=Stage.SEALING))
            second = pool.submit(others.runs.advance, run, Stage.WITHHELD)
            with pytest.raises(TimeoutError):
                second.result(0.2)
            assert books.again(run).stage is Stage.RATING
        second.result(10)
        assert books.again(run).stage is Stage.WITHHELD


def test_a_transaction_that_fails_leaves_nothing(books: Books) -> None:
    run = books.enrolled(3)
    before = books.everything()
    row = {
        "run": run.number,
        "position": 0,
        "account_id": "A-1",
        "name": NAME.encode(),
        "state": "",
        "attempts": 0,
    }

    def break_off() -> None:
        with books.database.writing() as connection:
            connection.execute(update(tables.runs).values(stage=Stage.SEALING))
            connection.execute(tables.accounts.insert(), [row])

    with pytest.raises(CheckpointError) as raised:
        break_off()
    assert_clear(raised.value)
    assert raised.value.__suppress_context__
    assert books.everything() == before


KILLED = """
import os, signal, sys
from tests.checkpoints import DAY, Books, listings

def rows():
    yield from listings(4500)
    os.kill(os.getpid(), signal.SIGKILL)

with Books(sys.argv[1]) as books:
    books.runs.enrol(books.runs.find(DAY), rows())
"""


def test_a_killed_enrolment_leaves_nothing(books: Books) -> None:
    run = books.create()
    done = subprocess.run([sys.executable, "-c", KILLED, books.url], cwd=ROOT, check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert books.again(run) == run
    assert books.outcomes.tally(run) == Tally()
    assert books.runs.enrol(run, listings(10)).census.rows == 10


@pytest.mark.parametrize("turn", range(3))
def test_many_may_open_a_new_database_at_once(checkpoint_url: str, turn: int) -> None:
    gate = threading.Barrier(4)

    def open_it() -> None:
        gate.wait(10)
        Database(checkpoint_url).close()

    with ThreadPoolExecutor(4) as pool:
        for opened in [pool.submit(open_it) for _ in range(4)]:
            opened.result(30)
    with Books(checkpoint_url) as books:
        assert len(books.everything()["esgbatch_schema"]) == 1


# --- versions and addresses -------------------------------------------------------------------


def test_the_database_of_a_newer_program_is_refused_and_left_alone(books: Books) -> None:
    with books.database.writing() as connection:
        connection.execute(update(tables.schema).values(version=tables.SCHEMA + 1))
        tables.snapshots.drop(connection)
    for create in (True, False):
        with pytest.raises(CheckpointError, match="newer") as raised:
            Database(books.url, create=create)
        assert raised.value.advice == "run the newer esgbatch"
    with pytest.raises(CheckpointError, match="snapshots"), books.database.reading() as connection:
        connection.execute(tables.snapshots.select())


def test_the_database_is_opened_again_as_it_was_left(books: Books) -> None:
    run = books.rated()
    before = books.everything()
    with Books(books.url) as others:
        assert others.again(run) == run
        assert others.everything() == before
    Database(books.url, create=False).close()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense S3cret",
        "/var/lib/S3cret",
        "oracle7://esg:S3cret@db.example/esg",
        "postgresql+nodriver://esg:S3cret@db.example/esg",
        "postgresql+psycopg://esg:x@S3cret@db.example:port/esg",
        "postgresql+psycopg://esg:pass@db.example:S3cret/esg",
        "mssql+pyodbc://esg:S3cret@db.example/esg",
        "postgresql+asyncpg://esg:S3cret@db.example/esg",
    ],
)
def test_a_wrong_url_or_a_missing_driver_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.url") as raised:
        Database(url)
    assert_clear(raised.value)


def test_a_database_that_is_not_there(postgres: Postgres) -> None:
    for url in (
        postgres.url.replace(f":{postgres.port}/", ":1/"),
        postgres.url + "_missing",
        postgres.url.replace(postgres.password, "S3cret-but-wrong"),
        "sqlite:////nowhere/at/all/checkpoint.sqlite",
    ):
        with pytest.raises(CheckpointError) as raised:
            Database(url)
        assert_clear(raised.value)


def test_a_password_is_never_shown(postgres: Postgres) -> None:
    assert postgres.password in postgres.url
    assert postgres.password not in describe(postgres.url)
    assert f"127.0.0.1:{postgres.port}" in describe(postgres.url)


# --- PostgreSQL -------------------------------------------------------------------------------


def test_a_server_that_fails_in_the_night_has_kept_what_was_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "RECONNECT_SECONDS", 0.0)
    with Postgres() as server, Books(server.url) as books:
        run = books.enrolled(3)
        books.outcomes.record(run, [success(0)])
        server.stop()
        with pytest.raises(CheckpointError) as raised:
            books.outcomes.record(run, [success(1)])
        assert_clear(raised.value)
        with pytest.raises(CheckpointError) as raised:
            books.outcomes.tally(run)
        assert_clear(raised.value)
        server.start()
        assert books.outcomes.tally(run) == Tally(pending=2, succeeded=1)
        books.outcomes.record(run, [success(1)])


def test_a_server_that_only_reads(postgresql_url: str) -> None:
    with Books(postgresql_url) as books:
        run = books.enrolled(3)
    read_only = f"{postgresql_url}?options=-c%20default_transaction_read_only%3Don"
    database = Database(read_only, create=False)
    runs = SqlRuns(database, SimulatedClock(), RecordingListener())
    assert runs.find(DAY) == run
    with pytest.raises(CheckpointError, match="read-only") as raised:
        runs.advance(run, Stage.SEALING)
    assert_clear(raised.value)
    database.close()


# --- SQLite -----------------------------------------------------------------------------------


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.sqlite"
    before = os.umask(0)
    try:
        database = Database.sqlite(path)
        with database.writing() as connection:
            connection.execute(update(tables.schema).values(version=tables.SCHEMA))
            for each in tmp_path.iterdir():
                assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
        database.close()
    finally:
        os.umask(before)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.sqlite"]


@pytest.mark.parametrize("name", ["a b", "50%20", "what?x=1", "#1", "ö口", "..x", "a:b@c"])
def test_the_file_may_lie_anywhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "checkpoint.sqlite"
    path.parent.mkdir()
    Database.sqlite(path).close()
    Database.sqlite(path, create=False).close()
    assert path.read_bytes().startswith(b"SQLite format 3")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_every_commit_is_synced_and_deleted_data_is_overwritten(file: Path) -> None:
    database = Database.sqlite(file)
    with database.reading() as connection:
        wanted = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
        for pragma, value in wanted.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value
    database.close()


def test_a_lock_that_is_never_given_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(CheckpointError, match="locked") as raised:
        Database.sqlite(file)
    assert_clear(raised.value)
    Database.sqlite(file, create=False).close()
    holder.close()


def test_a_file_that_is_no_database(file: Path) -> None:
    for content in (b"Smith Family Trust\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, os.urandom(100_000)):
        file.write_bytes(content)
        for create in (True, False):
            with pytest.raises(CheckpointError) as raised:
                Database.sqlite(file, create=create)
            assert_clear(raised.value)
        assert file.read_bytes() == content


def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.sqlite").mkdir()
    with pytest.raises(CheckpointError) as raised:
        Database.sqlite(tmp_path / "checkpoint.sqlite")
    assert_clear(raised.value)
    with pytest.raises(CheckpointError, match="cannot be made") as raised:
        Database.sqlite(tmp_path / "missing" / "checkpoint.sqlite")
    assert_clear(raised.value)


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table accounts (name)")
    connection.close()
    with pytest.raises(NothingToDo, match="no tables"):
        Database.sqlite(path, create=False)


def test_a_broken_file_is_told_in_one_line(file: Path) -> None:
    """Pages of it are overwritten; what SQLite notices is told, and nothing else is ever raised."""
    told = 0
    whole = file.read_bytes()
    for seed in range(30):
        dice = random.Random(seed)
        broken = bytearray(whole)
        page = dice.randrange(1, len(whole) // 4096) * 4096
        broken[page : page + dice.choice([8, 100, 4096])] = dice.randbytes(dice.choice([8, 100, 4096]))
        file.write_bytes(broken[: len(whole)] if dice.random() < 0.8 else broken[: page + 17])
        try:
            with Books(f"sqlite:///{file}") as books:
                read_everything(books)
        except CheckpointError as error:
            told += 1
            assert_clear(error)
    assert told >= 10


def test_a_broken_name_is_not_repeated_in_the_error(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("update accounts set name = cast(x'536d69746820547275737420ff' as text)")
    connection.close()
    with Books(f"sqlite:///{file}") as books, pytest.raises(CheckpointError, match="UTF-8") as raised:
        read_everything(books)
    assert_clear(raised.value)


FULL = """
import resource, sys
from pathlib import Path
from tests.checkpoints import DAY, Books, success
from esgbatch.errors import CheckpointError

with Books(sys.argv[1]) as books:
    run = books.runs.find(DAY)
    size = max(path.stat().st_size for path in Path(sys.argv[2]).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
    for call in range(100):
        try:
            books.outcomes.record(run, [success(position) for position in range(500)])
        except CheckpointError as error:
            print(call, error)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    books.outcomes.record(run, [success(position) for position in range(500)])
    print(books.outcomes.tally(run).succeeded)
"""


def test_a_full_disk_is_told_and_passes(file: Path) -> None:
    command = [sys.executable, "-c", FULL, f"sqlite:///{file}", str(file.parent)]
    done = subprocess.run(command, cwd=ROOT, check=True, timeout=30, capture_output=True, text=True)
    error, after = done.stdout.splitlines()
    assert "The checkpoint database failed: " in error
    assert_clear(ValueError(error))
    assert after == "500"


READ_ONLY = """
import sys
from tests.checkpoints import DAY
from tests.simulated import RecordingListener, SimulatedClock
from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.runs import SqlRuns
from esgbatch.errors import CheckpointError
from esgbatch.model import Stage

runs = SqlRuns(Database(sys.argv[1], create=False), SimulatedClock(), RecordingListener())
run = runs.find(DAY)
try:
    runs.advance(run, Stage.SEALING)
except CheckpointError as error:
    print(error)
"""


def test_a_file_that_may_only_be_read(file: Path) -> None:
    file.chmod(0o400)
    command = [sys.executable, "-c", READ_ONLY, f"sqlite:///{file}"]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        assert setpriv, "setpriv is missing: `apt-get install util-linux`"
        command = [setpriv, "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, cwd=ROOT, check=True, timeout=30, capture_output=True, text=True)
    assert "readonly" in done.stdout
    assert_clear(ValueError(done.stdout.strip()))


def test_an_unsynced_log_is_read_after_a_crash(file: Path, tmp_path: Path) -> None:
    """kill -9 leaves SQLite's write-ahead log behind; what was committed is in it."""
    copy = tmp_path / "copy"
    with Books(f"sqlite:///{file}") as books:
        run: Run = books.again(books.runs.advance(books.runs.find(DAY) or books.create(), Stage.SEALING))
        shutil.copytree(file.parent, copy, ignore=shutil.ignore_patterns("copy"))
    assert {each.name for each in copy.iterdir()} > {"checkpoint.sqlite"}
    with Books(f"sqlite:///{copy}/checkpoint.sqlite") as after:
        assert after.again(run) == run
