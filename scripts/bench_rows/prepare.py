"""A checkpoint in the middle of a night, by the program's own code, in a process of its own.

CONFIG DATE ACCOUNTS DONE: enrols so many accounts and rates the first DONE of them. Prints
the seconds that the enrolment took, with the list in memory already.
"""

from __future__ import annotations

import gc
import sys
import time
from datetime import date
from decimal import Decimal
from pathlib import Path

from esgbatch.clock import SystemClock
from esgbatch.config.load import load
from esgbatch.model import Listing, Outcome, State
from esgbatch.observability.progress import Broadcast
from esgbatch.sandbox.data import Firm
from esgbatch.stopping import StopSignal
from esgbatch.wiring import build_job

BATCH = 500


def main(config_path: str, day: str, accounts: int, done: int, seed: int) -> None:
    config = load(Path(config_path))
    records = build_job(config, Broadcast([]), SystemClock(), StopSignal()).records
    books = Firm(accounts, seed)
    listed = [Listing(books.account_id(index), books.name(index), True) for index in range(accounts)]
    columns = [score.column for score in config.ratings.scores]
    gc.freeze()  # the job holds a page, not the whole list
    created = records.runs.create(date.fromisoformat(day), columns, None)
    began = time.monotonic()
    run = records.runs.enrol(created, listed)
    print(time.monotonic() - began)
    del listed
    now = time.time()
    for start in range(0, done, BATCH):
        records.outcomes.record(
            run,
            [
                Outcome(
                    index,
                    State.SUCCEEDED,
                    tuple(map(Decimal, books.cells(index))),
                    http_status=200,
                    attempts=1,
                    first_attempt=now,
                    last_attempt=now,
                )
                for index in range(start, min(start + BATCH, done))
            ],
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
