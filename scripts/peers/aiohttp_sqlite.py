"""asyncio and aiohttp, with outcomes in SQLite by batches: ACCOUNTS_URL RATINGS_URL CA_BUNDLE FOLDER."""

import asyncio
import random
import sqlite3
import ssl
import sys
from pathlib import Path
from urllib.parse import quote

import aiohttp
from scores import FAILED, cells, write_csv

WORKERS = 32
BATCH = 500
ATTEMPTS = 5


class Store:
    """The checkpoint: what has no status yet is asked again after a restart."""

    def __init__(self, path):
        self._db = sqlite3.connect(path)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.execute(
            "create table if not exists accounts (position integer primary key, id text, name text,"
            " environmental text, social text, governance text, overall text, status text)"
        )
        self._batch = []

    def enrol(self, accounts):
        with self._db:
            self._db.executemany("insert into accounts (position, id, name) values (?, ?, ?)", accounts)

    def pending(self):
        return self._db.execute(
            "select position, id from accounts where status is null order by position"
        ).fetchall()

    def record(self, position, outcome):
        self._batch.append((*outcome, position))
        if len(self._batch) >= BATCH:
            self.commit()

    def commit(self):
        with self._db:
            self._db.executemany(
                "update accounts set environmental = ?, social = ?, governance = ?, overall = ?, status = ?"
                " where position = ?",
                self._batch,
            )
        self._batch.clear()

    def rows(self):
        columns = "id, name, environmental, social, governance, overall, status"
        return self._db.execute(f"select {columns} from accounts order by position")


async def listed(session, url):
    found, cursor = [], None
    while True:
        params = {"status": "active", "limit": "1000"} | ({"cursor": cursor} if cursor else {})
        async with session.get(url, params=params) as answer:
            answer.raise_for_status()
            page = await answer.json()
        found += [
            (len(found) + number, each["accountId"], each["accountName"])
            for number, each in enumerate(page["accounts"])
        ]
        cursor = page["nextCursor"]
        if not cursor:
            return found


async def rate(session, url):
    for attempt in range(ATTEMPTS):
        try:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return cells(await answer.read())
                if answer.status < 500 and answer.status != 429:
                    return FAILED
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(random.uniform(0, 0.5 * 2**attempt))
    return FAILED


async def work(session, template, todo, store):
    for position, account_id in todo:
        store.record(
            position, await rate(session, template.replace("{account_id}", quote(account_id, safe="")))
        )


async def main(accounts_url, ratings_url, ca_bundle, folder):
    store = Store(Path(folder, "checkpoint.sqlite"))
    connector = aiohttp.TCPConnector(limit=WORKERS, ssl=ssl.create_default_context(cafile=ca_bundle))
    timeout = aiohttp.ClientTimeout(total=35, connect=5)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        store.enrol(await listed(session, accounts_url))
        todo = iter(store.pending())
        await asyncio.gather(*(work(session, ratings_url, todo, store) for _ in range(WORKERS)))
    store.commit()
    write_csv(Path(folder, "ratings.csv"), store.rows())


asyncio.run(main(*sys.argv[1:]))
