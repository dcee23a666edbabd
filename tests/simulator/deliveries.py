"""What has reached the drop folder and the audit trail by the end of a night."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator

from esgbatch import manifest
from tests.simulator.firm import Arrival, digest, unseal
from tests.simulator.night import Night

SUCCESS, FAILED, NOT_AVAILABLE = "Success", "Failed", "N/A"


def files(night: Night) -> Iterator[str]:
    """What arrives is whole and right, each revision once, and its manifest after it."""
    plan = night.plan
    repeats = sum(
        execution.command == "deliver" and bool(execution.events("delivery_started"))
        for execution in night.executions
    )
    times = Counter(arrival.content for arrival in night.firm.arrivals)
    allowed = 1 + (repeats if plan.remote_consumes_file else 0)
    for content, count in times.items():
        if count > allowed:
            yield f"a file arrived {count} times: {content[:40]!r}"
    name, manifest_name = manifest.sealed_name(plan.day), manifest.manifest_name(plan.day)
    last = None
    revision = 0
    for arrival in night.firm.arrivals:
        if arrival.name == name:
            last = arrival
        elif arrival.name == manifest_name and last is not None:
            told = json.loads(arrival.content)
            if told["revision"] < revision:
                yield f"revision {told['revision']} arrived after revision {revision}"
            revision = told["revision"]
            yield from _file(night, last, told)
        else:
            yield f"{arrival.name} arrived unexpectedly"
    if night.delivered:
        if not revision:
            yield "delivered, but no file has arrived"
        elif night.run is not None and revision != night.run.revision:
            yield f"revision {night.run.revision} is recorded as delivered, {revision} has arrived"
        yield from _drop(night, last, name)


def _drop(night: Night, last: Arrival | None, name: str) -> Iterator[str]:
    leftovers = [path for path in night.firm.drop if path.endswith(".part")]
    # A delivery that was repeated for its own sake, and interrupted, is not gone on with.
    repeats = [each for each in night.executions if each.command == "deliver" and each.outcome != "delivered"]
    if leftovers and not night.plan.remote_troubles and not repeats:
        yield f"left in the drop folder: {leftovers}"
    if (
        not night.plan.remote_consumes_file
        and last is not None
        and night.firm.drop.get(f"/drop/{name}") != last.content
    ):
        yield "the drop folder does not hold the last file"


def _file(night: Night, arrival: Arrival, told: dict[str, object]) -> Iterator[str]:
    """Every listed active account once, in order; real scores; figures that agree."""
    plan = night.plan
    text = unseal(arrival.content)
    rows = list(csv.reader(io.StringIO(text.decode(), newline="")))[1:]
    expected = [(_guarded(account), _guarded(name)) for account, name in plan.active.items()]
    if [(row[0], row[1]) for row in rows] != expected:
        yield f"revision {told['revision']} does not hold every account once and in order"
    for account, row in zip(plan.active, rows, strict=False):
        scores = tuple(row[2:6])
        given = {tuple(map(str, each)) for each in night.api.given[account]}
        if row[6] == SUCCESS and scores not in given:
            yield f"{account!r} is a success with scores that the API never gave"
        elif row[6] == FAILED and set(scores) != {NOT_AVAILABLE}:
            yield f"{account!r} failed and has scores"
    statuses = Counter(row[6] for row in rows)
    usable = [one for one in plan.listings if one.account_id is not None]
    listed = {
        "counts": {
            "listed": len(plan.listings),
            "excluded": len(plan.listings) - len(expected),
            "rows": len(expected),
            "succeeded": statuses[SUCCESS],
            "failed": statuses[FAILED],
        },
        "excluded_by": {
            "inactive": sum(not one.active for one in usable),
            "duplicate": sum(one.active for one in usable) - len(expected),
            "refused": len(plan.listings) - len(usable),
        },
        "plaintext": {"sha256": digest(text).sha256, "bytes": len(text)},
    }
    for key, value in listed.items():
        if told[key] != value:
            yield f"the manifest says {key} {told[key]}, it is {value}"
    failed_by = told["failed_by"]
    assert isinstance(failed_by, dict)
    if sum(failed_by.values()) != statuses[FAILED]:
        yield f"the manifest's failed_by {failed_by} do not add up to {statuses[FAILED]}"
    if told["partial"] != ("not_attempted" in failed_by):
        yield f"the manifest says partial {told['partial']} with {failed_by}"
    if failed_by.get("not_attempted") and plan.on_deadline != "deliver_partial":
        yield "accounts were not attempted, and the file was not held"


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell else cell


def trail(night: Night) -> Iterator[str]:
    """The audit trail knows every sealed and every delivered revision."""
    if night.run is None or not night.delivered:
        return
    noted = Counter((action, details.get("revision")) for action, details in night.firm.trail)
    for revision in range(1, night.run.revision + 1):
        if not noted["sealed", revision]:
            yield f"the audit trail does not know that revision {revision} was sealed"
    arrived = {
        json.loads(each.content)["revision"] for each in night.firm.arrivals if each.name.endswith(".json")
    }
    for revision in arrived:
        if (times := noted["delivered", revision]) != 1:
            yield f"the audit trail says {times} times that revision {revision} was delivered"
    actions = Counter(action for action, _ in night.firm.trail)
    if actions["accounts_enrolled"] != 1:
        yield f"the audit trail says {actions['accounts_enrolled']} times that the list was enrolled"
    if night.run.approval is not None and not actions["approved"]:
        yield "the audit trail does not know of an approval"
    if night.run.revision > 1 and not actions["rerun"]:
        yield "the audit trail does not know of a rerun"


def same(night: Night, undisturbed: Night) -> Iterator[str]:
    """The file is the one that a night without trouble makes, byte for byte."""
    ours, theirs = (_last_plaintext(each) for each in (night, undisturbed))
    if not undisturbed.delivered:
        yield f"the undisturbed night was not delivered: {undisturbed.executions[-1]}"
    elif night.delivered and ours != theirs:
        differing = sum(a != b for a, b in zip(ours.split(b"\r\n"), theirs.split(b"\r\n"), strict=False))
        yield f"{differing} rows differ from the undisturbed night's"


def _last_plaintext(night: Night) -> bytes:
    arrived = [each.content for each in night.firm.arrivals if not each.name.endswith(".json")]
    return unseal(arrived[-1]) if arrived else b""
