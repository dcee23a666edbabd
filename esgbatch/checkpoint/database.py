"""Opening the database, and turning its troubles into one kind of error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from esgbatch.checkpoint import tables
from esgbatch.errors import CheckpointError, ConfigError

BUSY_SECONDS = 60
T = TypeVar("T")


class Database:
    """A SQLAlchemy engine with the two ways of using it: `reading` and `writing`.

    On SQLite a writer takes the lock at BEGIN (so that it never has to upgrade a read
    lock and fail), waits for another one up to a minute, and every commit is synced:
    in batches this costs no more than less.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Open, and with `create` make the tables.

        Raises:
            ConfigError: the URL is wrong or its driver is not installed.
            CheckpointError: the database cannot be opened, or is of a newer program.
        """
        try:
            self._engine: Engine = create_engine(url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(f"checkpoint.url cannot be used: {type(error).__name__}: {error}.") from None
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        self._writer = self._engine.execution_options(writing=True)
        if create:
            with self.writing() as connection:
                tables.metadata.create_all(connection)
                if connection.execute(select(tables.schema)).first() is None:
                    connection.execute(tables.schema.insert().values(version=tables.SCHEMA))
        self._check_version()

    @classmethod
    def sqlite(cls, path: Path, *, create: bool = True) -> Database:
        """The default: one file, readable by its owner only."""
        if create:
            try:
                path.touch(mode=0o600)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be made: {error.strerror}.") from None
        return cls(f"sqlite:///{path}", create=create)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction; never blocks the writer."""
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction: all of it is durable when the block ends, or none."""
        with _translated(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def _check_version(self) -> None:
        with self.reading() as connection:
            version = connection.execute(select(tables.schema.c.version)).scalar_one()
        if version > tables.SCHEMA:
            raise CheckpointError(
                f"The checkpoint database is of a newer esgbatch (schema {version}, this one knows "
                f"{tables.SCHEMA}).",
                advice="run the newer esgbatch",
            )


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # Transactions begin where we say so (`on_begin`), not where the driver guesses.
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"busy_timeout = {BUSY_SECONDS * 1000}",
            "foreign_keys = ON",
            "secure_delete = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        # Only the driver's words: SQLAlchemy's would repeat the row, with names and scores.
        cause = getattr(error, "orig", None) or error
        words = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise CheckpointError(f"The checkpoint database failed: {words}.") from None


def describe(url: str) -> str:
    """The URL without its password, for people."""
    return make_url(url).render_as_string(hide_password=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
