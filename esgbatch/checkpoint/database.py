"""Opening the database, and turning its troubles into one kind of error."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from esgbatch.checkpoint import migration, postgresql, tables, views
from esgbatch.checkpoint.vault import MasterKeys, NoKeys, Vault
from esgbatch.errors import CheckpointError, ConfigError, NothingToDo

if TYPE_CHECKING:
    from sqlalchemy import CursorResult, Dialect, Insert, Select, Table, Update

BUSY_SECONDS = 60
ROWS_A_STATEMENT = 100
CREATING = 0x45534742  # PostgreSQL's number of the lock under which tables are made
T = TypeVar("T")
P = ParamSpec("P")


def steadfast(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function of one transaction wait for a lost database to come back, up to a minute."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        until = time.monotonic() + postgresql.RECONNECT_SECONDS
        while True:
            try:
                return function(*args, **kwargs)
            except postgresql.ConnectionLost:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.5)

    return call


class Database:
    """A SQLAlchemy engine with the two ways of using it: `reading` and `writing`.

    On SQLite a writer takes the lock at BEGIN (so that it never has to upgrade a read
    lock and fail), waits for another one up to a minute, and every commit is synced:
    in batches this costs no more than less. On PostgreSQL a write is committed once,
    whenever the connection breaks, and `fence`, where it is set, looks at each before.
    """

    fence: Callable[[Connection], None] | None = None

    def __init__(self, url: str | URL, *, create: bool = True, keys: MasterKeys | None = None) -> None:
        """Open, and with `create` make the tables. Names and scores need `keys`, figures do not.

        Raises:
            ConfigError: the URL is wrong or its driver is not installed.
            CheckpointError: the database cannot be opened, or is of a newer program.
            NothingToDo: without `create`, where nothing was ever run.
        """
        self.vault = Vault(keys or NoKeys())
        self._engine = _engine(url)
        self._writer = self._engine.execution_options(writing=True)
        if create:
            self._make_tables()
        else:
            with self.reading() as connection:
                if not inspect(connection).has_table(tables.schema.name):
                    raise NothingToDo("Nothing was ever run here: the checkpoint database has no tables.")
                _require_known_schema(connection)
        self._bring_up_to_date()

    @classmethod
    def sqlite(cls, path: Path, *, create: bool = True, keys: MasterKeys | None = None) -> Database:
        """The default: one file, readable by its owner only."""
        if create:
            try:
                path.touch(mode=0o600)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be made: {error.strerror}.") from None
        # Not as text: the path may hold what means something in a URL.
        return cls(URL.create("sqlite", database=str(path)), create=create, keys=keys)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction; never blocks the writer."""
        with translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction: all of it is durable when the block ends, or none."""
        with translated(), self._writer.connect() as connection:
            pg = connection.dialect.name == "postgresql"
            with postgresql.transaction(self._engine, connection) if pg else connection.begin():
                if self.fence is not None:
                    self.fence(connection)
                yield connection

    @steadfast
    def require_ours(self) -> None:
        """Look at the `fence` without writing, before what no transaction protects.

        Raises:
            RunHeld: somebody else has taken the run over.
        """
        if self.fence is not None:
            with self.writing():
                pass

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    def connect_alone(self) -> Connection:
        """A connection that is no other's, outside transactions; whoever wants it closes it."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()
        return connection

    def close(self) -> None:
        self.vault.forget()
        self._engine.dispose()

    def scrub(self) -> None:
        """Leave no byte of what was deleted or overwritten in the database's files.

        SQLite: rebuilds the file and empties the write-ahead log, for which nobody may be reading.
        PostgreSQL: rewrites the accounts; its own log and its backups keep what is in them.

        Raises:
            CheckpointError: somebody reads or writes all the time.
        """
        with translated():
            if self._engine.dialect.name == "sqlite":
                self._outside_transactions("VACUUM")
            else:
                with self._engine.connect() as connection:
                    connection.execution_options(isolation_level="AUTOCOMMIT", patient=True)
                    connection.exec_driver_sql("VACUUM FULL accounts")
        self.empty_log()

    def empty_log(self) -> None:
        """Bring SQLite's write-ahead log into the database's file, and leave it empty.

        Raises:
            CheckpointError: somebody reads or writes all the time.
        """
        if self._engine.dialect.name != "sqlite":
            return
        until = time.monotonic() + BUSY_SECONDS
        with translated():
            while self._outside_transactions("PRAGMA wal_checkpoint(TRUNCATE)")[0]:
                if time.monotonic() > until:
                    raise CheckpointError(
                        "The checkpoint's write-ahead log cannot be emptied: another process keeps reading it.",
                        advice="end that process, then give the same command again",
                    )
                time.sleep(0.05)

    def _outside_transactions(self, statement: str) -> tuple[int, ...]:
        """Run what SQLite refuses in a transaction; returns the first row."""
        pooled = self._engine.raw_connection()
        try:
            connection = cast("sqlite3.Connection", pooled.driver_connection)
            return connection.execute(statement).fetchone() or ()
        finally:
            pooled.close()

    def _make_tables(self) -> None:
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                # SQLite's writers are alone; here two that start at once would make the same tables.
                connection.execute(select(func.pg_advisory_xact_lock(CREATING)))
            tables.schema.create(connection, checkfirst=True)
            if connection.execute(select(tables.schema)).first() is None:
                connection.execute(tables.schema.insert().values(version=tables.SCHEMA))
                tables.metadata.create_all(connection)
                views.create(connection)
            _require_known_schema(connection)

    def _bring_up_to_date(self) -> None:
        """Make an older program's tables this one's; that program must not be at work meanwhile."""
        with self.reading() as connection:
            if migration.schema_version(connection) >= tables.SCHEMA:
                return
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(CREATING)))
            changed = migration.bring_up_to_date(connection, self.vault)
        if changed:
            self.scrub()


def _engine(url: str | URL) -> Engine:
    try:
        url = make_url(url)
        libpq = url.get_driver_name() in ("psycopg", "psycopg2")
        engine = create_engine(url, connect_args=postgresql.connect_arguments(url) if libpq else {})
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(f"checkpoint.url cannot be used, its driver is not installed: {error}.") from None
    except (ArgumentError, ValueError):
        # Their words may repeat a part of the URL, and with it the password.
        raise ConfigError(
            "checkpoint.url is no SQLAlchemy URL; it is written like postgresql+psycopg://user@host/database, "
            "with %40 for an @ in a password."
        ) from None
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    if libpq:
        postgresql.prepare(engine)
    return engine


def _require_known_schema(connection: Connection) -> None:
    version = migration.schema_version(connection)
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
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        _use_write_ahead_log(connection)
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            "secure_delete = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Two that open a new file at once refuse each other here, whatever busy_timeout says."""
    until = time.monotonic() + 5.0
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def translated() -> Iterator[None]:
    """Make every trouble of the database one kind of error, in words without a row."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        # Only the driver's words: SQLAlchemy's would repeat the row, with names and scores.
        cause = getattr(error, "orig", None) or error
        words = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        # sqlite3 quotes a text that is no UTF-8.
        words = words.partition(" with text ")[0]
        told = f"The checkpoint database failed: {words}."
        if isinstance(error, DBAPIError) and not isinstance(cause, sqlite3.Error) and postgresql.is_lost(error):
            raise postgresql.ConnectionLost(told) from None
        raise CheckpointError(told) from None


def execute_many(
    connection: Connection, statement: Insert | Update, names: tuple[str, ...], rows: list[tuple[object, ...]]
) -> CursorResult[Any]:
    """Execute a statement once a row; `names` are those of the row's values.

    Core takes every value of every row through Python on its way to the driver, which costs more
    than SQLite needs for the row. There the compiled statement goes to the driver as it is, so
    values must be what sqlite3 takes by itself: exactly int, float, str, bytes or None.
    """
    if connection.dialect.name != "sqlite":
        return connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])
    words, order = _compiled(statement, connection.dialect, names)
    if order != names:
        in_order = itemgetter(*(names.index(name) for name in order))
        rows = [in_order(row) for row in rows]
    return connection.exec_driver_sql(words, rows)


def insert_new(
    connection: Connection,
    table: Table,
    same: Mapping[str, str | int],
    names: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> int:
    """Insert rows unless a key of theirs is taken, and return how many were; `same` is alike in all of them.

    A hundred rows a statement take SQLite half the time of one a statement.
    """
    if connection.dialect.name != "sqlite":
        from sqlalchemy.dialects import postgresql as dialect

        statement = dialect.insert(table).on_conflict_do_nothing()
        values = [{**same, **dict(zip(names, row, strict=True))} for row in rows]
        return connection.execute(statement, values).rowcount
    whole = len(rows) - len(rows) % ROWS_A_STATEMENT
    inserted = 0
    for part, size in ((rows[:whole], ROWS_A_STATEMENT), (rows[whole:], len(rows) - whole)):
        if part:
            words = _insert_words(table, tuple(same.items()), names, size)
            flat = [tuple(chain.from_iterable(part[at : at + size])) for at in range(0, len(part), size)]
            inserted += connection.exec_driver_sql(words, flat).rowcount
    return inserted


@lru_cache(maxsize=8)
def _insert_words(
    table: Table, same: tuple[tuple[str, str | int], ...], names: tuple[str, ...], rows: int
) -> str:
    columns = ", ".join((*(name for name, _ in same), *names))
    literals = (f"'{value}'" if isinstance(value, str) else str(value) for _, value in same)
    row = f"({', '.join((*literals, *('?' for _ in names)))})"
    values = ", ".join([row] * rows)
    return f"insert into {table.name} ({columns}) values {values} on conflict do nothing"  # noqa: S608 - all ours


def fetch_all(
    connection: Connection, statement: Select[Any], parameters: Mapping[str, object]
) -> Sequence[Sequence[Any]]:
    """Every row of a query; of SQLite as sqlite3 gives it, for the same reason."""
    result = connection.execute(statement, parameters)
    if connection.dialect.name != "sqlite":
        return result.all()
    rows: Sequence[Sequence[Any]] = result.cursor.fetchall()
    result.close()
    return rows


@lru_cache(maxsize=16)
def _compiled(
    statement: Insert | Update, dialect: Dialect, names: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """A statement in SQL, and the order in which it takes its values."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    return str(compiled), tuple(compiled.positiontup or ())


def describe(url: str) -> str:
    """The URL without its password, for people."""
    return make_url(url).render_as_string(hide_password=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
