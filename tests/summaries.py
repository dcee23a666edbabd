"""A run with everything there is to tell of it, for tests of what tells it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from esgbatch.model import (
    Approval,
    Census,
    Digest,
    Execution,
    Reason,
    Revision,
    Run,
    SealedFile,
    Stage,
    Summary,
    Tally,
)

NASTY = "Jürgen O'Neill \x1b[31mred\x1b[0m\r\n\x07\u202e\x9b口"

CENSUS = Census(listed=100_210, inactive=180, duplicate=25, refused=5)
TALLY = Tally(succeeded=99_720, failed_by={Reason.UNAVAILABLE: 80, Reason.NO_RATING: 200})
APPROVAL = Approval("J. Doe", "known: split of a fund", datetime(2026, 11, 24, 13, 5, tzinfo=UTC))
RUN = Run(
    number=7,
    run_id="0123456789abcdef0123456789abcdef",
    business_date=date(2026, 11, 24),
    revision=2,
    stage=Stage.DELIVERED,
    census=CENSUS,
    columns=("Environmental Score", "Social Score"),
    created=datetime(2026, 11, 24, 11, 0, tzinfo=UTC),
)
SEALED = SealedFile(
    path=Path("/var/lib/esgbatch/archive/20261124/r2/FirmESGRatings_20261124.csv.pgp"),
    plaintext=Digest("a" * 64, 8_123_456),
    encrypted=Digest("b" * 64, 2_345_678),
    recipients=("A" * 40,),
    rows=100_000,
)
FIRST = Revision(
    1,
    datetime(2026, 11, 24, 12, 1, tzinfo=UTC),
    replace(SEALED, encrypted=Digest("c" * 64, 2_345_600)),
    b"{}",
    (50.1, 60.2),
    False,
    delivered=datetime(2026, 11, 24, 12, 2, tzinfo=UTC),
    location="sftp.example:/drop/esg/FirmESGRatings_20261124.csv.pgp",
)
SECOND = replace(FIRST, number=2, sealed=SEALED, created=datetime(2026, 11, 24, 12, 31, 7, 900_000, tzinfo=UTC))
EXECUTION = Execution(
    command="run",
    revision=1,
    host="batch1",
    pid=4711,
    user="esgbatch",
    started=datetime(2026, 11, 24, 11, 0, 1, tzinfo=UTC),
    ended=datetime(2026, 11, 24, 12, 2, 6, tzinfo=UTC),
    exit_code=0,
    error=None,
    attempts=101_234,
    latency_p50=0.053,
    latency_p95=1.25,
    stages={"listing": 3.2, "rating": 3600.0},
)
SUMMARY = Summary(RUN, TALLY, (FIRST, SECOND), (EXECUTION,))
