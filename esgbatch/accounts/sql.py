"""The account list from a database, by a query of the operator's own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress

from sqlalchemy import Connection, CursorResult, create_engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from esgbatch.accounts.columns import RowMapper
from esgbatch.config.model import Accounts
from esgbatch.config.secrets import redact, remember
from esgbatch.errors import AccountSystemError
from esgbatch.model import Listing

BATCH = 1000

_Batches = Generator[list[Listing], None, None]

# Where the package is not called as its module.
_PACKAGES = {"psycopg": "'esgbatch[postgresql]'", "MySQLdb": "mysqlclient"}
_ADVICE_URL = "correct the URL that accounts.database refers to, then `esgbatch doctor`"
_ADVICE_QUERY = "correct accounts.query, then `esgbatch resume --date {date}`"


class SqlAccounts:
    """An `AccountSource` in any database that SQLAlchemy reaches, streamed by a cursor on the server."""

    def __init__(self, config: Accounts) -> None:
        assert config.database is not None
        self._config = config
        self._database = config.database

    def accounts(self) -> Iterator[Listing]:
        """Every row in the query's order, streamed.

        Raises:
            AccountSystemError: no connection, no driver, a query that fails, a missing column,
                or no rows for `timeout` seconds.
            ConfigError: the database's URL cannot be read.
        """
        with closing(_in_thread(self._batches, self._config.timeout)) as batches:
            for batch in batches:
                yield from batch

    def _batches(self) -> _Batches:
        with self._connect() as connection:
            result = self._execute(connection)
            to_listing = RowMapper(self._config, list(result.keys()), source="The accounts query's result")
            try:
                for rows in result.partitions(BATCH):
                    yield [to_listing(row) for row in rows]
            except SQLAlchemyError as error:
                # The driver's text may quote a row.
                raise AccountSystemError(
                    f"The accounts' database failed while it gave rows: {_kind(error)}."
                ) from None

    def _connect(self) -> Connection:
        text = self._database.reveal()
        try:
            url = make_url(text)
            remember(url.password or "")
            return create_engine(url, poolclass=NullPool).connect()
        except NoSuchModuleError:
            raise AccountSystemError(
                f"The accounts' database URL names {url.drivername!r}, a dialect that is not installed.",
                advice=_ADVICE_URL,
            ) from None
        except ModuleNotFoundError as error:
            raise AccountSystemError(
                f"The accounts' database URL needs the Python module {error.name!r}, which is not installed.",
                advice=f"`pip install {_PACKAGES.get(error.name or '', error.name)}`, then `esgbatch doctor`",
            ) from None
        except (ArgumentError, ValueError):
            raise AccountSystemError(
                "The accounts' database URL is no SQLAlchemy URL, like postgresql+psycopg://user@host/name.",
                advice=_ADVICE_URL,
            ) from None
        except SQLAlchemyError as error:
            raise AccountSystemError(f"The accounts' database cannot be reached: {_told(error)}.") from None

    def _execute(self, connection: Connection) -> CursorResult[tuple[object, ...]]:
        # As it stands: `text` would take `:name` for a parameter, and drivers `%` for one.
        try:
            result = connection.exec_driver_sql(
                self._config.query, execution_options={"no_parameters": True, "yield_per": BATCH}
            )
        except SQLAlchemyError as error:
            raise AccountSystemError(
                f"The accounts query failed: {_told(error)}.", advice=_ADVICE_QUERY
            ) from None
        if not result.returns_rows:
            raise AccountSystemError("The accounts query is none that gives rows.", advice=_ADVICE_QUERY)
        return result


def _kind(error: SQLAlchemyError) -> str:
    return type(error.orig if isinstance(error, DBAPIError) else error).__name__


def _told(error: SQLAlchemyError) -> str:
    """The driver's words where they are about the connection or the query, and no secret is in them."""
    if isinstance(error, (OperationalError, ProgrammingError, InterfaceError)):
        return " ".join(redact(f"{_kind(error)}: {error.orig}").split()).rstrip(".")
    return _kind(error)


def _in_thread(source: Callable[[], _Batches], seconds: float) -> _Batches:
    """Iterate in a thread of its own: no driver limits all of its waits, so each batch is waited for here."""
    batches: queue.Queue[list[Listing] | Exception | None] = queue.Queue(maxsize=1)
    left = threading.Event()

    def work() -> None:
        try:
            with closing(source()) as iterator:
                for batch in iterator:
                    batches.put(batch)
                    if left.is_set():
                        return
            batches.put(None)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            batches.put(error)

    threading.Thread(target=work, name="accounts-sql", daemon=True).start()
    try:
        while (batch := batches.get(timeout=seconds)) is not None:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except queue.Empty:
        raise AccountSystemError(f"The accounts' database gave nothing for {seconds:g} s.") from None
    finally:
        left.set()
        with suppress(queue.Empty):
            batches.get_nowait()
