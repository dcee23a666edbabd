"""The checkpoint database and the audit trail, and what doctor asks them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from esgbatch.checkpoint import tables
from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.lease import Owner, holder
from esgbatch.compliance.audit import FILE_NAME, KEY_FILE, AuditTrail, load_or_create_key
from esgbatch.config.model import Config
from esgbatch.errors import BatchError, CheckpointError, NothingToDo
from esgbatch.operations.doctor.findings import Finding, Setup, ok, warn


class _TakenBack(Exception):
    """Ends a transaction that was only tried."""


def checkpoint(setup: Setup) -> Iterator[Finding]:
    """Open it, and write to it in a transaction that is taken back."""
    if (missing := _missing_file(setup.config)) is not None:
        yield ok(f"{missing} is made by the first run")
        return
    try:
        database = setup.open_checkpoint(setup.config)
    except NothingToDo:
        _try_making_tables(setup.config.checkpoint.reveal_url())
        yield ok("it can be reached, and has no tables yet: the first run makes them")
        return
    if isinstance(setup.config.checkpoint.url, str) and "password" in _parts(setup.config.checkpoint.url):
        yield warn(
            "checkpoint.url has a password in plain",
            'write it as { env = "NAME" } or { file = "/path" }',
        )
    with closing(database):
        with database.reading() as connection:
            database.vault.check(connection)
        owner = at_work(setup.config.job.state_dir)
        if owner is None:
            _try_writing(database)
            yield ok("it can be read and written")
        else:
            yield ok(f"it can be read; {owner} writes to it")


def audit_trail(setup: Setup) -> Iterator[Finding]:
    """Its last record must be genuine, or no run could add one; `audit verify` looks at all of them."""
    folder = setup.config.job.state_dir
    if not (folder / FILE_NAME).exists() and not (folder / KEY_FILE).exists():
        yield ok("it is begun by the first run")
        return
    head = AuditTrail(folder / FILE_NAME, load_or_create_key(folder)).head()
    yield ok("it is empty" if head is None else f"the last of its {head.n:,} records is genuine")


def at_work(state_dir: Path) -> Owner | None:
    """A process of this machine that is at work on a run, whatever its date."""
    for path in sorted((state_dir / "locks").glob("*.lock")):
        with suppress(ValueError):
            owner = holder(state_dir, date.fromisoformat(path.stem))
            if owner is not None:
                return owner
    return None


def largest_run(setup: Setup) -> int:
    """How many accounts were listed; 0 where no run has, or the checkpoint cannot tell."""
    if _missing_file(setup.config) is not None:
        return 0
    try:
        with closing(setup.open_checkpoint(setup.config)) as database, database.reading() as connection:
            return connection.execute(select(func.max(tables.runs.c.listed))).scalar_one() or 0
    except BatchError:
        return 0


def _missing_file(config: Config) -> Path | None:
    """The SQLite file that is not there yet: opening it would make it."""
    file = config.job.state_dir / "checkpoint.sqlite"
    if config.checkpoint.url:
        try:
            url = make_url(config.checkpoint.reveal_url())
        except (SQLAlchemyError, ValueError):  # opening it says so
            return None
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        file = Path(url.database)
    try:
        return None if file.stat().st_size else file
    except FileNotFoundError:
        return file
    except OSError:  # likewise
        return None


def _parts(url: str) -> set[str]:
    try:
        return {key for key, value in make_url(url).translate_connect_args().items() if value}
    except (SQLAlchemyError, ValueError):
        return set()


def _try_writing(database: Database) -> None:
    with suppress(_TakenBack), database.writing() as connection:
        connection.execute(tables.schema.update().values(version=tables.schema.c.version))
        raise _TakenBack


def _try_making_tables(url: str) -> None:
    """In PostgreSQL, which alone takes a table back with its transaction.

    Raises:
        CheckpointError: this user may not make them.
    """
    if not url.startswith("postgresql"):
        return
    try:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            tables.metadata.create_all(connection)
            connection.rollback()
    except DBAPIError as error:
        words = str(error.orig).partition("\n")[0]
        raise CheckpointError(
            f"The checkpoint database has no tables yet, and refuses them: {words}."
        ) from None
