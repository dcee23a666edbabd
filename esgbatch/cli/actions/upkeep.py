"""purge, erase and rotate-key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from esgbatch.cli.context import CLOCK, caretaking_job, read_config, tell, the_date
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import erasure, retention, rotation
from esgbatch.operations.erasure import Findings
from esgbatch.operations.retention import Item, What
from esgbatch.wiring import master_keys, open_audit, open_checkpoint, open_records, open_state


def purge(config_path: Path | None, *, dry_run: bool) -> None:
    config = read_config(config_path)
    day = the_date(config, None)
    if dry_run:
        with closing(open_checkpoint(config, create=False)) as database:
            items = list(retention.due(config, open_records(database, CLOCK, Broadcast([])), day))
        _show("would go", [item for item in items if not item.hold])
        _show("stays", [item for item in items if item.hold])
        print("Dry run: nothing was removed.")
        return
    with caretaking_job(config) as job:
        done = retention.purge(job)
    _show("removed", done.removed)
    _show("stays", done.stayed)
    print(f"{len(done.removed)} removed, {len(done.stayed)} on hold or in use.")


def erase(config_path: Path | None, account_ids: Sequence[str], reason: str, *, dry_run: bool) -> None:
    config = read_config(config_path)
    erasure.require_impersonal(reason, account_ids)
    if dry_run:
        with closing(open_checkpoint(config, create=False)) as database:
            subjects = map(open_audit(open_state(config)).pseudonym, account_ids)
            records = open_records(database, CLOCK, Broadcast([]))
            findings = erasure.find(config, records, account_ids, list(subjects))
        erasure.refuse_holds(config, findings, account_ids)
        _list(findings)
        print("Dry run: nothing was erased.")
        return
    with caretaking_job(config) as job:
        done = erasure.erase(job, account_ids, reason)
    _list(done.findings)
    rows, lines = sum(done.rows.values()), sum(done.lines.values())
    print(f"Erased: {rows:,} row(s) of the checkpoint, {lines:,} line(s) of log and error files.")
    print(f"Certificate: {done.certificate}")


def _list(findings: Findings) -> None:
    for day in findings.dates:
        accounts, files = findings.runs.get(day, ()), findings.logs.get(day, ())
        print(f"{day}  {len(accounts):,} account(s) in the checkpoint, {len(files)} log file(s)")
    for each in findings.residual:
        holds = "is in" if each.certain else "may be in"
        print(f"{holds} {each.path}, which only its recipients can open; purged after {each.goes}")
    if findings.nowhere:
        tell(f"Accounts in no run of the checkpoint: {len(findings.nowhere)}. Are the IDs right?")


def _show(verb: str, items: Sequence[Item]) -> None:
    for item in items:
        what = f"{item.accounts:,} accounts" if item.what is What.RATINGS else ""
        if item.paths:
            what = f"{len(item.paths)} file(s), {item.size:,} bytes"
        why = f"  ({item.hold or 'a run is at work'})" if verb == "stays" else ""
        print(f"{verb:<9} {item.business_date}  {item.what:<8} {what}{why}".rstrip())


def rotate(config_path: Path | None) -> None:
    config = read_config(config_path)
    with closing(open_checkpoint(config, create=False)) as database:
        count = rotation.rotate(database, master_keys(config), open_audit(open_state(config)))
    runs = f"names and scores of {count} run(s)" if count else "nothing was locked with another one"
    print(f"The new key is in use: {runs}.")
    if config.checkpoint.previous_key is not None:
        print("checkpoint.previous_key is not needed any more.")
