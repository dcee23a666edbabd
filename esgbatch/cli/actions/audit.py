"""audit: records shown, checked and given away, with the errors that an auditor meets."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from esgbatch.cli.context import CLOCK, alarmed, read_config, tell, the_date
from esgbatch.compliance.audit import Anchor
from esgbatch.config.model import Config
from esgbatch.errors import AuditBroken, WrongUsage
from esgbatch.files import replacing
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import access, auditing
from esgbatch.operations.auditing import Filter
from esgbatch.untrusted import printable
from esgbatch.wiring import keyring, open_audit, open_checkpoint, open_records, open_state


def show(
    config_path: Path | None,
    day: date | None,
    action: str | None,
    since: str | None,
    until: str | None,
    *,
    as_json: bool,
) -> None:
    config = read_config(config_path)
    wanted = _filter(config, day, since, until, action)
    for entry in auditing.open_trail(config).entries():
        if wanted.wants(entry):
            print(entry.line.decode("ascii") if as_json else printable(auditing.line(entry)))


def show_account(config_path: Path | None, account_id: str, *, as_json: bool) -> None:
    config = read_config(config_path)
    trail = open_audit(open_state(config))
    with closing(open_checkpoint(config, create=False)) as database:
        content = access.answer(open_records(database, CLOCK, Broadcast([])), trail, config, account_id)
    trail.append("access_answered", subject=trail.pseudonym(account_id), runs=len(content["runs"]))
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        for line in access.render(content):
            print(printable(line))


def verify(config_path: Path | None, given: Sequence[str], *, files: bool, as_json: bool) -> None:
    config = read_config(config_path)
    anchors = [_anchor(text) for text in given]
    try:
        found = auditing.verify(
            config, anchors, lambda: open_records(open_checkpoint(config, create=False), CLOCK, Broadcast([]))
        )
    except AuditBroken:
        if anchors:  # it may be the anchor that is wrong: those who asked for it will see
            raise
        with alarmed(config, the_date(config, None)):
            raise
    compared = auditing.verify_files(config) if files else None
    head, torn = found.examined.head, found.examined.torn
    if as_json:
        told = {"records": head.n, "head": str(head), "anchors": found.anchors, "torn_bytes": torn}
        print(json.dumps({"schema": 1, **told, "files": compared}))
    else:
        print(f"{head.n:,} records, each genuine and in its place; they agree with {found.anchors:,} anchors.")
        if compared is not None:
            print(f"{compared:,} archived files, each as it was sealed.")
        print(f"The last one's anchor is {head}")
    if torn:
        tell(
            f"the last line is torn: {torn} bytes, as a crash amid a write leaves them. The next record will "
            "end it and vouch for it. Where there was no crash, compare with an anchor from outside."
        )
    if found.remark:
        tell(found.remark)


def export(
    config_path: Path | None,
    output: Path,
    day: date | None,
    since: str | None,
    until: str | None,
    *,
    force: bool,
) -> None:
    config = read_config(config_path)
    wanted = _filter(config, day, since, until, None)
    trail = auditing.open_trail(config)
    try:
        if output.exists() and not force:
            raise WrongUsage(f"{output} is already there.", advice="choose another --output, or add --force")
        with replacing(output) as file:
            records, signer = auditing.export(
                config, trail, wanted, file, keyring(config.job.state_dir), _now()
            )
    except OSError as error:
        raise WrongUsage(
            f"{output} cannot be written: {error.strerror}.", advice="choose another --output"
        ) from None
    sha256 = auditing.file_digest(output)
    trail.append("exported", records=records, asked=wanted.as_dict(), bundle_sha256=sha256, signed_by=signer)
    print(f"{output} is written, with {records:,} records; its SHA-256 is\n{sha256}")
    if signer is None:
        tell(
            "it is not signed, since encryption.sign_with is not set: "
            "tell its SHA-256 to the auditor by another way"
        )
    else:
        print(f"It is signed with the key\n{signer}")


def ingest(config_path: Path | None, files: Sequence[Path], zone: str | None) -> None:
    config = read_config(config_path)
    trail = open_audit(open_state(config))
    done = auditing.ingest(config, trail, files, zone=_zone(zone), now=_now())
    found = done.harvest
    print(
        f"{found.lines:,} lines read: {len(found.accesses):,} times a delivered file was touched by others, "
        f"{done.new:,} of them new to the trail; {found.own:,} times by this job."
    )
    if found.lines and not found.accesses and not found.own:
        tell("no line tells of a delivered file: is it the SFTP server's log, which has to be at -l INFO?")
    if found.unreadable:
        tell(f"{found.unreadable:,} lines are torn and were left out; read the log again where it is whole.")
    if found.growing:
        tell(
            f"{found.growing:,} accesses are of a session of {printable(config.delivery.username)} that "
            "has not ended yet: read this log again when it has."
        )


def _filter(
    config: Config, day: date | None, since: str | None, until: str | None, action: str | None
) -> Filter:
    return Filter(day, action, _moment(config, since, "--since"), _moment(config, until, "--until"))


def _moment(config: Config, text: str | None, option: str) -> datetime | None:
    try:
        return None if text is None else auditing.moment(text, config.zone)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{option}: {text!r} is no time; write it like 2026-11-24 or 2026-11-24T05:00:00Z"
        ) from None


def _anchor(text: str) -> Anchor:
    try:
        return Anchor.parse(text.strip(), "the one given")
    except ValueError as error:
        raise typer.BadParameter(f"--anchor {text!r}: {error}") from None


def _zone(name: str | None) -> tzinfo:
    try:
        if name is not None:
            return ZoneInfo(name)
        if named := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(named)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except FileNotFoundError:
        return UTC  # as the C library has it
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise typer.BadParameter(
            f"--zone: no such time zone: {name!r}; use a name like America/Chicago"
        ) from None


def _now() -> datetime:
    return datetime.fromtimestamp(CLOCK.time(), UTC)
