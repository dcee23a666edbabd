"""PostgreSQL over a network: servers that are restarted, that freeze, and hosts that die."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from esgbatch.errors import CheckpointError

# No statement of the job takes so long: a server that does not answer by then has frozen.
ANSWER_SECONDS = 300.0
CONNECT_SECONDS = 10
# After a restart or a fail-over of the server the job goes on, if it does not take longer than this.
RECONNECT_SECONDS = 60.0
# A host that has vanished is noticed, on either side, within a minute.
KEEPALIVE = {"idle": 30, "interval": 10, "count": 3}


class ConnectionLost(CheckpointError):
    """The connection broke or could not be made; nothing of the transaction was kept."""


def is_lost(error: DBAPIError) -> bool:
    """Whether it is the connection that failed and not the statement (PostgreSQL, appendix A: 08, 57P)."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", "")
    return state is None or state.startswith("08") or state in ("57P01", "57P02", "57P03")


def connect_arguments(url: URL) -> dict[str, Any]:
    """libpq's parameters for a connection that notices a dead server; those in the URL win."""
    arguments: dict[str, Any] = {f"keepalives_{key}": value for key, value in KEEPALIVE.items()}
    arguments["connect_timeout"] = CONNECT_SECONDS
    return {key: value for key, value in arguments.items() if key not in url.query}


def prepare(engine: Engine) -> None:
    """Bound every wait for an answer, and let the server notice when this host is gone.

    What may take its time, such as rewriting a table, has the execution option `patient`.
    """

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for key, value in KEEPALIVE.items():
                cursor.execute(f"SET tcp_keepalives_{key} = {value}")
        connection.commit()

    @event.listens_for(engine, "before_cursor_execute")
    def before(connection: Connection, _c: Any, _s: Any, _p: Any, context: Any, _m: Any) -> None:
        patient = connection.get_execution_options().get("patient")
        context.limit = None if patient else _Limit(connection)

    @event.listens_for(engine, "after_cursor_execute")
    def after(_connection: Connection, _c: Any, _s: Any, _p: Any, context: Any, _m: Any) -> None:
        if context.limit is not None:
            context.limit.cancel()

    @event.listens_for(engine, "handle_error")
    def failed(context: Any) -> None:
        with suppress(AttributeError):  # it was no statement that failed
            context.execution_context.limit.cancel()


class _Limit:
    """Cuts a connection whose server does not answer; the thread that waits then gets an error."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        self._descriptor: int = driver.fileno()
        self._timer = threading.Timer(ANSWER_SECONDS, self._cut)
        self._timer.daemon = True
        self._timer.start()
        self.cancel = self._timer.cancel

    def _cut(self) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(self._descriptor)) as borrowed:
            borrowed.shutdown(socket.SHUT_RDWR)


@contextmanager
def transaction(engine: Engine, connection: Connection) -> Iterator[None]:
    """A transaction that is committed once, also where the connection breaks at the commit.

    Raises:
        ConnectionLost: nothing was committed.
        CheckpointError: whether it was committed cannot be found out.
    """
    with connection.begin() as begun:
        yield
        number = connection.scalar(text("select pg_current_xact_id_if_assigned()::text"))
        limit = _Limit(connection)
        try:
            begun.commit()
        except DBAPIError as error:
            if not is_lost(error) or number is None or not _was_committed(engine, number):
                raise
        finally:
            limit.cancel()


def _was_committed(engine: Engine, number: str) -> bool:
    """Ask the server what became of a transaction whose answer was lost."""
    until = time.monotonic() + RECONNECT_SECONDS
    while time.monotonic() < until:
        with suppress(DBAPIError), engine.connect() as connection:
            status = connection.scalar(text("select pg_xact_status(cast(:number as xid8))"), {"number": number})
            if status != "in progress":
                return bool(status == "committed")
        time.sleep(0.2)
    raise CheckpointError(
        "The checkpoint database was lost at a commit and does not come back: what of it was kept, "
        "the next call sees."
    )
