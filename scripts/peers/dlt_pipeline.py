"""A dlt pipeline into CSV files, which are then joined: ACCOUNTS_URL RATINGS_URL CA_BUNDLE FOLDER."""

import csv
import os
import sys
from pathlib import Path
from urllib.parse import quote

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "EXTRACT__WORKERS": "32",
    "EXTRACT__MAX_PARALLEL_ITEMS": "64",
    "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
}

import dlt
from dlt.sources.helpers import requests
from scores import FAILED, HEADER, cells, write_csv

COLUMNS = ("account_id", "account_name", "environmental", "social", "governance", "overall", "status")


def main(accounts_url, ratings_url, ca_bundle, folder):
    client = requests.Client(request_timeout=(5, 30), request_max_attempts=5)
    os.environ["REQUESTS_CA_BUNDLE"] = ca_bundle  # each of dlt's threads has a session of its own

    @dlt.resource
    def accounts():
        cursor = None
        while True:
            params = {"status": "active", "limit": 1000} | ({"cursor": cursor} if cursor else {})
            page = client.get(accounts_url, params=params).json()
            yield from page["accounts"]
            cursor = page["nextCursor"]
            if not cursor:
                return

    @dlt.transformer(data_from=accounts, write_disposition="replace")
    def ratings(account):
        @dlt.defer
        def rate():
            url = ratings_url.replace("{account_id}", quote(account["accountId"], safe=""))
            try:
                outcome = cells(client.get(url).content)
            except requests.HTTPError:
                outcome = FAILED
            return dict(zip(COLUMNS, (account["accountId"], account["accountName"], *outcome), strict=True))

        yield rate()

    pipeline = dlt.pipeline(
        "ratings",
        pipelines_dir=str(Path(folder, "pipelines")),
        destination=dlt.destinations.filesystem(Path(folder, "loaded").as_uri()),
        dataset_name="esg",
    )
    columns = {name: {"data_type": "text"} for name in COLUMNS}
    ratings.apply_hints(columns=columns)
    pipeline.run(ratings, loader_file_format="csv").raise_on_failed_jobs()
    write_csv(Path(folder, "ratings.csv"), loaded(Path(folder, "loaded", "esg", "ratings")))


def loaded(folder):
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield [row[name] for name in COLUMNS]


assert len(COLUMNS) == len(HEADER)
main(*sys.argv[1:])
