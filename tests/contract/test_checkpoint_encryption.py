"""No name and no score is in the database's bytes, and only its own key opens them: SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, update

from esgbatch.checkpoint import migration, tables
from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.masterkey import FILE_NAME, NEXT_NAME, ConfiguredKeys, FileKeys
from esgbatch.config.secrets import Secret
from esgbatch.errors import CheckpointError, ConfigError
from esgbatch.model import Row, Stage, State, Tally
from esgbatch.operations.rotation import rotate
from tests.acceptance.postgres import _find
from tests.checkpoints import DAY, Books, TestKeys, account, success, to_first_version

NAME = "Zebediah Quux Family Trust"
SCORES = ("63.17", "58.49")


@pytest.fixture
def books(checkpoint_url: str) -> Iterator[Books]:
    with Books(checkpoint_url) as opened:
        yield opened


def one_rated(books: Books) -> Row:
    run = books.enrolled([account("A-1", NAME)])
    books.outcomes.record(run, [success(0, *SCORES)])
    return Row("A-1", NAME, SCORES)


def everything_on_disk(url: str, folder: Path) -> bytes:
    """SQLite: the bytes of the folder. PostgreSQL: a dump of everything."""
    if url.startswith("sqlite"):
        return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    dump = [_find("pg_dump"), url.replace("+psycopg", "")]
    return subprocess.run(dump, check=True, capture_output=True, timeout=60).stdout


def found(content: bytes, *plain: str) -> list[str]:
    """What is there in the clear; PostgreSQL dumps bytes as hex."""
    return [
        each for each in plain if each.encode() in content or each.encode().hex().encode() in content.lower()
    ]


def test_no_name_and_no_score_is_on_disk(books: Books, tmp_path: Path) -> None:
    one_rated(books)
    content = everything_on_disk(books.url, tmp_path)
    assert found(content, "A-1") == ["A-1"], "what is searched holds the row"
    assert found(content, NAME, NAME[:8], *SCORES) == []


def test_another_process_with_the_key_reads_them(books: Books) -> None:
    row = one_rated(books)
    with Books(books.url) as others:
        assert others.rows(others.again(books.runs.find(DAY) or books.create())) == [row]


def test_the_same_value_is_never_stored_alike(books: Books) -> None:
    run = books.enrolled([account("A-1", NAME), account("A-2", NAME)])
    with books.database.reading() as connection:
        sealed = connection.scalars(select(tables.accounts.c.name)).all()
    assert len(set(sealed)) == 2
    assert [row.name for row in books.rows(run)] == [NAME, NAME]


@pytest.mark.parametrize("moved", ["names", "scores", "name as scores", "ids", "run", "bit"])
def test_what_was_moved_or_changed_is_refused(books: Books, moved: str) -> None:
    run = books.enrolled([account("A-1", NAME), account("A-2")])
    books.outcomes.record(run, [success(0, *SCORES), success(1)])
    other = books.enrolled([account("A-1", NAME)], DAY.replace(day=25))
    table, where = tables.accounts, tables.accounts.c.run == run.number
    with books.database.writing() as connection:
        rows = connection.execute(select(table).where(where).order_by(table.c.position)).all()
        key = connection.scalars(
            select(tables.run_keys.c.wrapped).where(tables.run_keys.c.run == other.number)
        ).one()
        first = update(table).where(where, table.c.position == 0)
        match moved:
            case "names":
                connection.execute(first.values(name=rows[1].name))
            case "scores":
                connection.execute(first.values(scores=rows[1].scores))
            case "name as scores":
                connection.execute(first.values(scores=rows[0].name))
            case "ids":
                connection.execute(first.values(account_id="A-9"))
            case "run":
                connection.execute(
                    update(tables.run_keys).where(tables.run_keys.c.run == run.number).values(wrapped=key)
                )
            case "bit":
                changed = bytearray(rows[0].scores)
                changed[-1] ^= 1
                connection.execute(first.values(scores=bytes(changed)))
    with Books(books.url) as others, pytest.raises(CheckpointError, match="changed or moved") as raised:
        others.outcomes.page(run, 0)
    assert NAME not in str(raised.value)


def test_the_wrong_key_is_told_before_anything_is_made(books: Books) -> None:
    one_rated(books)
    with Books(books.url, keys=TestKeys(b"w")) as others:
        run = others.runs.find(DAY)
        assert run is not None
        for attempt in (
            lambda: others.outcomes.page(run, 0),
            lambda: others.outcomes.pending(run, State.PENDING, -1, 1),
            lambda: others.outcomes.record(run, [success(0)]),
            lambda: others.runs.reopen(run, ["A-1"]),
            lambda: others.create(DAY.replace(day=25)),
        ):
            with pytest.raises(ConfigError, match="are locked with key") as raised:
                attempt()
            assert books.keys.known().keys() <= set(str(raised.value).replace(",", "").split())
        assert others.runs.find(DAY.replace(day=25)) is None
        assert others.outcomes.tally(run) == Tally(succeeded=1), "figures need no key"


# --- rotation ---------------------------------------------------------------------------------


class NoAudit:
    def append(self, action: str, **_: object) -> object:
        return action

    def head(self) -> object | None:
        return None

    def last(self, _action: str) -> None:
        return None

    def pseudonym(self, person: str) -> str:
        return person


def reread(url: str, keys: FileKeys | ConfiguredKeys | TestKeys) -> list[Row]:
    with Books(url, keys=keys) as books:
        run = books.runs.find(DAY)
        assert run is not None
        return books.rows(run)


def turn(url: str, keys: FileKeys | ConfiguredKeys) -> int:
    with closing(Database(url, keys=keys)) as database:
        return rotate(database, keys, NoAudit())


def test_a_key_file_is_rotated(checkpoint_url: str, tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "keyring")
    with Books(checkpoint_url, keys=keys) as books:
        row = one_rated(books)
    path = tmp_path / "keyring" / FILE_NAME
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    held = path.open("rb")
    assert turn(checkpoint_url, keys) == 1
    assert reread(checkpoint_url, keys) == [row]
    assert path.read_bytes() != before
    assert held.read() == bytes(32), "the old key was overwritten, not only unlinked"
    assert [each.name for each in path.parent.iterdir()] == [FILE_NAME]
    held.close()
    path.write_bytes(before)
    with pytest.raises(ConfigError, match="are locked with key"):
        reread(checkpoint_url, keys)


@pytest.mark.parametrize("rewrapped", [False, True])
def test_a_rotation_that_was_killed_is_finished_by_the_next(
    checkpoint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewrapped: bool
) -> None:
    keys = FileKeys(tmp_path)
    with Books(checkpoint_url, keys=keys) as books:
        row = one_rated(books)
        new = keys.successor()
        if rewrapped:
            monkeypatch.setattr(keys, "retire", _die)
            with pytest.raises(KeyboardInterrupt):
                rotate(books.database, keys, NoAudit())
            monkeypatch.undo()
    assert reread(checkpoint_url, keys) == [row], "a run may come in between"
    turn(checkpoint_url, keys)
    assert not (tmp_path / NEXT_NAME).exists()
    assert list(keys.known()) == [new.id]
    assert reread(checkpoint_url, keys) == [row]


def _die() -> None:
    raise KeyboardInterrupt


def test_from_the_key_file_to_a_configured_key_and_to_the_next(
    checkpoint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST", "11" * 32)
    monkeypatch.setenv("SECOND", "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=")
    first, second = Secret(env="FIRST"), Secret(env="SECOND")
    with Books(checkpoint_url, keys=FileKeys(tmp_path)) as books:
        row = one_rated(books)
    keys = ConfiguredKeys(first, None, tmp_path)
    assert reread(checkpoint_url, keys) == [row], "the key file serves until it is rotated"
    assert turn(checkpoint_url, keys) == 1
    assert list(tmp_path.glob("checkpoint.key*")) == []
    assert reread(checkpoint_url, keys) == [row]
    with pytest.raises(ConfigError, match="are locked with key"):
        reread(checkpoint_url, ConfiguredKeys(second, None, tmp_path))
    later = ConfiguredKeys(second, first, tmp_path)
    assert reread(checkpoint_url, later) == [row]
    assert turn(checkpoint_url, later) == 1
    assert reread(checkpoint_url, ConfiguredKeys(second, None, tmp_path)) == [row]


@pytest.mark.parametrize("value", ["correct horse battery staple", "11" * 31, "11" * 33, "QUJD"])
def test_what_is_no_key_is_refused_without_telling_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("KEY", value)
    with pytest.raises(ConfigError, match="32 random bytes") as raised:
        ConfiguredKeys(Secret(env="KEY"), None, tmp_path).known()
    assert value not in str(raised.value)


def test_a_lost_key_file_is_never_replaced_by_a_new_one(checkpoint_url: str, tmp_path: Path) -> None:
    keys = FileKeys(tmp_path)
    with Books(checkpoint_url, keys=keys) as books:
        one_rated(books)
        (tmp_path / FILE_NAME).unlink()
        with pytest.raises(ConfigError, match="no key is here"):
            books.create(DAY.replace(day=25))
    assert not (tmp_path / FILE_NAME).exists()


# --- from the first version -------------------------------------------------------------------


def make_first_version(url: str) -> None:
    """With a run in the making and one that was not listed yet."""
    with Books(url) as books:
        run = books.enrolled([account("A-1", NAME), account("A-2", "Ж\N{SNOWMAN}"), account("A-3", "")])
        books.outcomes.record(run, [success(0, *SCORES)])
        books.create(DAY.replace(day=25))
        to_first_version(books)


@pytest.mark.parametrize("create", [True, False])
def test_the_first_versions_database_is_encrypted_when_it_is_opened(
    checkpoint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool
) -> None:
    monkeypatch.setattr(migration, "PAGE", 2)
    make_first_version(checkpoint_url)
    assert found(everything_on_disk(checkpoint_url, tmp_path), NAME, *SCORES) == [NAME, *SCORES]
    Database(checkpoint_url, create=create, keys=TestKeys()).close()
    content = everything_on_disk(checkpoint_url, tmp_path)
    assert found(content, "A-1") == ["A-1"]
    assert found(content, NAME, *SCORES) == []
    with Books(checkpoint_url) as books:
        run = books.runs.find(DAY)
        assert run is not None
        wanted = [("A-1", NAME, SCORES), ("A-2", "Ж\N{SNOWMAN}", None), ("A-3", "", None)]
        assert books.rows(run) == [Row(*each) for each in wanted]
        books.outcomes.record(run, [success(1), success(2)])
        later = books.runs.find(DAY.replace(day=25))
        assert later is not None
        assert books.runs.enrol(later, [account("B-1")]).stage is Stage.RATING


def test_without_the_key_the_first_versions_database_stays_as_it_was(checkpoint_url: str) -> None:
    make_first_version(checkpoint_url)
    with pytest.raises(ConfigError, match="without its key"):
        Database(checkpoint_url, create=False)
    Database(checkpoint_url, keys=TestKeys()).close()
    with Books(checkpoint_url) as books:
        run = books.runs.find(DAY)
        assert run is not None
        assert len(books.rows(run)) == 3
