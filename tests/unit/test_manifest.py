"""The manifest: the shape of interface.md, section 3, to the letter."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from esgbatch import __version__, manifest
from esgbatch.model import Approval, Census, Reason, Revision, Run, SealedFile, Tally
from tests.summaries import APPROVAL, FIRST, NASTY, RUN, SEALED, TALLY

EXAMPLE = {
    "schema": 1,
    "file": "FirmESGRatings_20261124.csv.pgp",
    "business_date": "2026-11-24",
    "revision": 2,
    "run_id": "0123456789abcdef0123456789abcdef",
    "created": "2026-11-24T12:31:07Z",
    "counts": {"listed": 100210, "excluded": 210, "rows": 100000, "succeeded": 99720, "failed": 280},
    "excluded_by": {"inactive": 180, "duplicate": 25, "refused": 5},
    "failed_by": {"no_rating": 200, "unavailable": 80},
    "plaintext": {"sha256": "a" * 64, "bytes": 8123456},
    "encrypted": {"sha256": "b" * 64, "bytes": 2345678, "recipients": ["A" * 40]},
    "supersedes": {"revision": 1, "sha256": "c" * 64},
    "approved": None,
    "partial": False,
    "program": f"esgbatch {__version__}",
    "config_sha256": "d" * 64,
    "audit_anchor": "4711:hash",
}


def built(
    run: Run = RUN,
    tally: Tally = TALLY,
    sealed: SealedFile = SEALED,
    *,
    supersedes: Revision | None = FIRST,
    partial: bool = False,
) -> bytes:
    return manifest.build(
        run,
        tally,
        sealed,
        # 6:31 in Chicago
        created=datetime(2026, 11, 24, 6, 31, 7, 999_999, tzinfo=timezone(timedelta(hours=-6))),
        supersedes=supersedes,
        partial=partial,
        config_sha256="d" * 64,
        audit_anchor="4711:hash",
    )


def parsed(*arguments: Any, **options: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(built(*arguments, **options))
    return content


def test_it_has_exactly_the_documented_shape_in_the_documented_order() -> None:
    content = parsed()
    assert content == EXAMPLE
    assert json.dumps(content) == json.dumps(EXAMPLE), "the order of the keys, and the types"


def test_it_is_a_text_file_in_utf_8() -> None:
    content = built()
    assert content.endswith(b"}\n")
    assert content.startswith(b"{")
    assert json.loads(content.decode("ascii"))


def test_names_of_the_files() -> None:
    day = date(2026, 1, 2)
    assert manifest.plain_name(day) == "FirmESGRatings_20260102.csv"
    assert manifest.sealed_name(day) == "FirmESGRatings_20260102.csv.pgp"
    assert manifest.manifest_name(day) == "FirmESGRatings_20260102.manifest.json"


def test_the_first_revision_supersedes_nothing() -> None:
    assert parsed(replace(RUN, revision=1), supersedes=None)["supersedes"] is None


def test_partial_is_a_truth_value() -> None:
    assert parsed(partial=True)["partial"] is True


def test_the_figures_add_up() -> None:
    content = parsed()
    counts = content["counts"]
    assert counts["listed"] - counts["excluded"] == counts["rows"] == counts["succeeded"] + counts["failed"]
    assert sum(content["excluded_by"].values()) == counts["excluded"]
    assert sum(content["failed_by"].values()) == counts["failed"]


def test_a_day_without_a_failure_or_an_exclusion() -> None:
    run = replace(RUN, census=Census(listed=3))
    content = parsed(run, Tally(succeeded=3), replace(SEALED, rows=3))
    assert content["failed_by"] == {}
    assert content["excluded_by"] == {"inactive": 0, "duplicate": 0, "refused": 0}
    assert content["counts"] == {"listed": 3, "excluded": 0, "rows": 3, "succeeded": 3, "failed": 0}


def test_every_reason_is_named_as_documented() -> None:
    reasons = ["bad_rating", "forbidden", "no_rating", "not_attempted", "rejected", "unavailable"]
    content = parsed(RUN, Tally(failed_by=dict.fromkeys(reversed(Reason), 1)))
    assert list(content["failed_by"]) == reasons


def test_an_approval_says_who_why_and_when() -> None:
    approved = parsed(replace(RUN, approval=APPROVAL))["approved"]
    assert approved == {"by": "J. Doe", "reason": "known: split of a fund", "at": "2026-11-24T13:05:00Z"}


@pytest.mark.parametrize("text", [NASTY, 'a "quoted" \\ one', "\0"])
def test_any_text_of_an_approval_comes_back_and_stands_on_one_line(text: str) -> None:
    content = built(replace(RUN, approval=Approval(text, text, APPROVAL.at)))
    assert json.loads(content)["approved"] == {"by": text, "reason": text, "at": "2026-11-24T13:05:00Z"}
    assert not any(byte < 32 for byte in content.replace(b"\n", b""))
    assert content.count(b"\n") == built(replace(RUN, approval=APPROVAL)).count(b"\n")


def test_an_approval_in_no_encoding_at_all_does_not_keep_the_file_back_for_ever() -> None:
    """Bytes of the command line that are no UTF-8 come in as halves of surrogate pairs (PEP 383)."""
    content = built(replace(RUN, approval=Approval("M\udcfcller", "\udcff", APPROVAL.at)))
    content.decode("utf-8")
    assert json.loads(content)["approved"]["by"] == "M\udcfcller"
