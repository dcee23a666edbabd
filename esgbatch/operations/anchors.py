"""Every anchor of the audit trail that the job itself has kept: in manifests and in logs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from esgbatch.compliance.audit import Anchor
from esgbatch.config.model import Config
from esgbatch.config.salvage import Essentials
from esgbatch.records import Records

EVENT = b'"event":"audit_anchored"'


def archived(state_dir: Path) -> Iterator[Anchor]:
    """From the archive's manifests."""
    for path in sorted((state_dir / "archive").glob("*/*/*.manifest.json")):
        try:
            yield from _anchor(path.read_bytes(), str(path))
        except OSError:
            continue


def shared(config: Config | Essentials) -> bool:
    """Whether several hosts may use the checkpoint: each has a trail of its own."""
    url = config.checkpoint.reveal_url()
    return bool(url) and not url.startswith("sqlite")


def recorded(records: Records, config: Config | Essentials) -> Iterator[Anchor]:
    """From the checkpoint's manifests; where several hosts share it, of those that this one has made.

    Each host has a trail of its own.

    Raises:
        CheckpointError: it cannot be read.
    """
    several = shared(config)
    for day in records.history.dates(date.min, date.max):
        run = records.runs.find(day)
        if run is None:
            continue
        makers: dict[int, set[str]] = {}
        if several:
            for execution in records.history.executions(run):
                makers.setdefault(execution.revision, set()).add(execution.host)
        for revision in records.ledger.revisions(run):
            if not several or makers.get(revision.number) == {socket.gethostname()}:
                name = f"the checkpoint's manifest of {run.business_date}, revision {revision.number}"
                yield from _anchor(revision.manifest, name)


def logged(folder: Path, trail: str) -> Iterator[Anchor]:
    """From the logs, which other trails may write to as well: `trail` is the identity of ours."""
    for path in sorted(folder.glob("esgbatch-*.jsonl")):
        try:
            lines = [line for line in path.read_bytes().split(b"\n") if EVENT in line]
        except OSError:
            continue
        for line in lines:
            yield from _anchor(line, str(path), "anchor", trail)


def _anchor(
    content: bytes, source: str, key: str = "audit_anchor", trail: str | None = None
) -> Iterator[Anchor]:
    try:
        told = json.loads(content)
        if isinstance(told, dict) and told.get("trail") == trail:
            yield Anchor.parse(str(told[key]), source)
    except (ValueError, KeyError, RecursionError):
        return
