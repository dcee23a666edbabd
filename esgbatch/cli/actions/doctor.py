"""doctor: a line a check, or JSON; and the question whether to trust a host key."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from esgbatch.cli.context import CLOCK, read_config, tell
from esgbatch.config.load import find, load
from esgbatch.config.secrets import keep_from_dumps
from esgbatch.errors import BatchError, DoctorFailed, StopRequested, WrongUsage
from esgbatch.operations.doctor import hostkey, report
from esgbatch.operations.doctor.examination import examine
from esgbatch.operations.doctor.findings import Setup, Status
from esgbatch.wiring import open_audit, open_checkpoint, open_source, open_state, secrets


def check(config_path: Path | None, *, as_json: bool) -> None:
    findings = []
    try:
        for name, finding in examine(lambda: _setup(config_path)):
            findings.append((name, finding))
            if not as_json:
                print(report.line(name, finding), flush=True)
    except StopRequested as stop:
        stop.advice = "`esgbatch doctor`"
        raise
    if as_json:
        print(json.dumps(report.as_dict(findings), indent=2, ensure_ascii=False))
    counts = {status: sum(finding.status is status for _, finding in findings) for status in Status}
    if counts[Status.FAIL]:
        raise DoctorFailed(
            f"{counts[Status.FAIL]} of {len(findings)} checks failed.",
            advice="do what the lines with FAIL say, then `esgbatch doctor`",
        )
    tell(f"{len(findings)} checks, {counts[Status.WARN]} warning(s), no failure.")


def trust_host(config_path: Path | None) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise WrongUsage(
            "--trust-host asks a person, and there is no terminal.",
            advice="call it in a terminal, or write the server's key into delivery.known_hosts yourself",
        )
    config = read_config(config_path)
    told = hostkey.trust_host(config.delivery, _ask)
    if told.fingerprint is not None:
        try:
            open_audit(open_state(config)).append(
                "host_key_trusted", host=told.host, fingerprint=told.fingerprint, known_hosts=str(told.path)
            )
        except BatchError as error:
            tell(f"it is not in the audit trail: {error}")
    print(told.text)


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        return ""


def _setup(config_path: Path | None) -> Setup:
    keep_from_dumps()
    path = find(config_path)
    config = load(path)
    return Setup(
        path=path,
        config=config,
        clock=CLOCK,
        secrets=tuple(secrets(config)),
        open_state=open_state,
        open_source=open_source,
        open_checkpoint=lambda wanted: open_checkpoint(wanted, create=False),
    )
