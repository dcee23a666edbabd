"""A thread pool and requests, with a commit a row: ACCOUNTS_URL RATINGS_URL CA_BUNDLE FOLDER."""

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from scores import FAILED, cells, write_csv
from urllib3.util import Retry

THREADS = 32
WINDOW = 2 * THREADS


def listed(session, url):
    cursor = None
    while True:
        params = {"status": "active", "limit": 1000} | ({"cursor": cursor} if cursor else {})
        answer = session.get(url, params=params, timeout=(5, 30))
        answer.raise_for_status()
        page = answer.json()
        yield from ((each["accountId"], each["accountName"]) for each in page["accounts"])
        cursor = page["nextCursor"]
        if not cursor:
            return


def main(accounts_url, ratings_url, ca_bundle, folder):
    session = requests.Session()
    session.verify = ca_bundle
    retry = Retry(5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    session.mount("https://", HTTPAdapter(pool_connections=1, pool_maxsize=THREADS, max_retries=retry))
    session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=THREADS, max_retries=retry))

    def rate(position, account_id):
        try:
            url = ratings_url.replace("{account_id}", quote(account_id, safe=""))
            answer = session.get(url, timeout=(5, 30))
        except requests.RequestException:
            return position, FAILED
        return position, cells(answer.content) if answer.status_code == 200 else FAILED

    db = sqlite3.connect(Path(folder, "checkpoint.sqlite"))
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = normal")
    db.execute(
        "create table if not exists accounts (position integer primary key, id text, name text,"
        " environmental text, social text, governance text, overall text, status text)"
    )
    with db:
        db.executemany("insert into accounts (id, name) values (?, ?)", listed(session, accounts_url))
    todo = iter(
        db.execute("select position, id from accounts where status is null order by position").fetchall()
    )
    with ThreadPoolExecutor(THREADS) as executor:
        window = [executor.submit(rate, *each) for each in islice(todo, WINDOW)]
        while window:
            position, outcome = window.pop(0).result()
            window += [executor.submit(rate, *each) for each in islice(todo, 1)]
            with db:
                db.execute(
                    "update accounts set environmental = ?, social = ?, governance = ?, overall = ?, status = ?"
                    " where position = ?",
                    (*outcome, position),
                )
    rows = db.execute(
        "select id, name, environmental, social, governance, overall, status from accounts order by position"
    )
    write_csv(Path(folder, "ratings.csv"), rows)


main(*sys.argv[1:])
