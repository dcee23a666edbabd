"""The account list into SQLite by one executemany: FILE ACCOUNTS SEED. Prints the seconds it took."""

import sqlite3
import sys
import time

from esgbatch.sandbox.data import Firm

# The table of a checkpoint: esgbatch/checkpoint/tables.py.
TABLE = """create table accounts (
    run integer not null, position integer not null, account_id text not null, name text not null,
    state text not null, scores text, reason text, http_status integer, attempts integer not null,
    first_attempt float, last_attempt float, primary key (run, position), unique (run, account_id)
) without rowid"""


def main(path, accounts, seed):
    books = Firm(accounts, seed)
    rows = [(1, index, books.account_id(index), books.name(index), "pending", 0) for index in range(accounts)]
    db = sqlite3.connect(path)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute(TABLE)
    began = time.monotonic()
    with db:
        db.executemany(
            "insert into accounts (run, position, account_id, name, state, attempts) values (?, ?, ?, ?, ?, ?)",
            rows,
        )
    print(time.monotonic() - began)


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
