"""The tables. `docs/architecture.md` explains them to whoever wants to query them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA = 3

metadata = MetaData()

schema = Table("esgbatch_schema", metadata, Column("version", Integer, primary_key=True))

# One row a business date.
runs = Table(
    "runs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("run_id", Text, nullable=False, unique=True),
    Column("business_date", Text, nullable=False, unique=True),
    Column("revision", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("columns", Text, nullable=False),  # the score columns, a JSON list
    Column("account_limit", Integer),
    Column("listed", Integer, nullable=False),
    Column("inactive", Integer, nullable=False),
    Column("duplicate", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("list_sha256", Text),
    Column("created", Float, nullable=False),
    Column("approved", Text),  # {"by", "reason", "at", "revision"} in JSON
    Column("erased", Integer, nullable=False, server_default="0"),  # left out of the file in the making
    Column("purged", Text),  # {"at", "tally"} in JSON, once names and scores are gone
)

# The key of each run's names and scores, wrapped by the master key that `master` names.
run_keys = Table(
    "run_keys",
    metadata,
    Column("run", Integer, ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    Column("master", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
)

# One row an account of a run. `position` is its place in the file. `name` and `scores` are encrypted
# (vault.py says how); an account that was erased has no name, and a keyed hash for its ID.
accounts = Table(
    "accounts",
    metadata,
    Column("run", Integer, ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Text, nullable=False),
    Column("name", LargeBinary),
    Column("state", Text, nullable=False),
    Column("scores", LargeBinary),  # "71.24,64.10,…": two decimals, in the order of runs.columns
    Column("reason", Text),
    Column("http_status", Integer),
    Column("attempts", Integer, nullable=False),
    Column("first_attempt", Float),
    Column("last_attempt", Float),
    UniqueConstraint("run", "account_id"),
    sqlite_with_rowid=False,
)

# One row a sealed file.
revisions = Table(
    "revisions",
    metadata,
    Column("run", Integer, ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("sealed", Float, nullable=False),
    Column("path", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("plaintext_sha256", Text, nullable=False),
    Column("plaintext_bytes", BigInteger, nullable=False),
    Column("encrypted_sha256", Text, nullable=False),
    Column("encrypted_bytes", BigInteger, nullable=False),
    Column("recipients", Text, nullable=False),  # a JSON list of fingerprints
    Column("means", Text, nullable=False),  # the score columns' means, a JSON list
    Column("manifest", LargeBinary, nullable=False),
    Column("partial", Integer, nullable=False),
    Column("delivered", Float),
    Column("location", Text),
    Column("histograms", Text),  # [low, high, [counts]] by score column, a JSON list
)

# The delivery ledger: one row a step.
delivery_steps = Table(
    "delivery_steps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run", Integer, ForeignKey("runs.number"), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("step", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", Float, nullable=False),
)

# One row a process that worked on a run; `ended` is empty for one that died.
executions = Table(
    "executions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run", Integer, ForeignKey("runs.number"), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("command", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("os_user", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("exit_code", Integer),
    Column("error", Text),
    Column("attempts", Integer, nullable=False),
    Column("latency_p50", Float),
    Column("latency_p95", Float),
    Column("stages", Text, nullable=False),  # seconds by stage, a JSON object
)

# Who was erased, by keyed hash, so that a later question about them has an answer.
erasures = Table(
    "erasures",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("at", Float, nullable=False),
)

# The running job's last snapshot, for `status` in another shell.
snapshots = Table(
    "snapshots",
    metadata,
    Column("run", Integer, ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    Column("snapshot", Text, nullable=False),
)

# How the night went, in a few hundred rows a run: counters and latencies, nothing of an account.
samples = Table(
    "samples",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run", Integer, ForeignKey("runs.number"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    # Counted from the start of the process that wrote them.
    Column("attempts", Integer, nullable=False),
    Column("errors", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("latency_p50", Float),
    Column("latency_p95", Float),
    Column("cpu", Float, nullable=False),
    Column("held", Text, nullable=False),
    Column("forecast", Float),
    Column("deadline", Float),
)
