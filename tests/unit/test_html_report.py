"""The page: everything is in it, nothing gets out of it, and nobody's text becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from esgbatch.model import Reason, Stage, Tally
from esgbatch.operations.daily import MOST_ID_BYTES
from esgbatch.reporting.charts import figures, thinned
from esgbatch.reporting.html import MEANINGS, render
from esgbatch.reporting.night import FailedAccounts, Night, Tone, bound, holds, lives, tone
from esgbatch.reporting.summary import next_step
from tests.nights import START, night, past, samples

BOUND = 300_000


class Reader(HTMLParser):
    """The page's tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(told: Night) -> str:
    return render(told, environment="production")


def undelivered(stage: Stage, **changes: object) -> Night:
    told = night()
    run = replace(told.summary.run, stage=stage, **changes)  # type: ignore[arg-type]
    return replace(told, summary=replace(told.summary, run=run, revisions=()))


def test_the_page_tells_the_night() -> None:
    text = Reader(page(night())).text
    for told in (
        "ESG ratings of Tuesday, 24 November 2026",
        "Revision 2 is delivered, 280 of 100,000 accounts without a rating.",
        "In the drop folder at 06:02 CST, 2 h 58 min before the deadline of 09:00 CST.",
        "100,210 listed, less 210 excluded = 100,000 rows = 99,720 succeeded + 280 failed.",
        "The request limit: on average 48 of 50 requests a second were used.",
        "held: throttled",
        "resume, 05:25:05",
        "and 78 more, in the log file",
        "+1.14",
        "Average scores",
        "4711:abab",
        "esgbatch rerun --failed --date 2026-11-24",
    ):
        assert told in text, told


def test_nothing_is_fetched_and_nothing_runs() -> None:
    reader = Reader(page(night()))
    assert not {tag for tag, _ in reader.tags} & {"script", "img", "link", "iframe", "object", "form", "a"}
    for tag, attributes in reader.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "href")}, tag
    policies = [each["content"] for tag, each in reader.tags if each.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert "url(" not in page(night())


def test_what_others_wrote_is_text() -> None:
    told = night()
    nasty = "<script>alert(1)</script>"
    run = replace(told.summary.run, columns=(nasty, *told.summary.run.columns[1:]))
    written = page(replace(told, summary=replace(told.summary, run=run), error_file=nasty, anchor=nasty))
    assert "<script" not in written
    assert "\x1b" not in written
    assert "\u202e" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written


def test_every_chart_is_told_in_words_and_in_a_table() -> None:
    written = page(night())
    figures_ = re.findall(r"<figure.*?</figure>", written, re.DOTALL)
    assert len(figures_) == 6 + 4 + 4
    for each in figures_:
        assert re.search(r'<svg class="chart"[^>]*role="img" aria-label="[^"]+"', each)
        assert re.search(r"<title>[^<]+</title><desc>[^<]+\.</desc>", each)
        assert "<table>" in each


def test_the_size_is_bounded_whatever_failed() -> None:
    ids = tuple(f"{number:030d}" for number in range(MOST_ID_BYTES // 30))
    told = night()
    tally = Tally(succeeded=1, failed_by=dict.fromkeys(Reason, 100_000))
    failures = {Reason.REJECTED: FailedAccounts(ids, 98_000)}
    assert len(page(replace(told, failures=failures, summary=replace(told.summary, tally=tally)))) < BOUND


def test_years_of_history_make_no_large_page() -> None:
    written = page(replace(night(), days=past(3000)))
    assert "The last 3000 days" in written
    assert len(written) < BOUND


def test_a_file_that_came_when_no_deadline_bound_is_not_called_late() -> None:
    told = night()
    [revision] = told.summary.revisions
    late = replace(revision, delivered=told.deadline + timedelta(hours=4))
    told = replace(told, summary=replace(told.summary, revisions=(late,)))
    assert "4 h 00 min after the deadline of 09:00 CST." in page(told)
    free = replace(told, samples=[replace(each, deadline=None) for each in told.samples])
    assert "In the drop folder at 13:00 CST; no deadline bound this run." in page(free)


def test_every_reason_is_explained() -> None:
    assert set(MEANINGS) == set(Reason)


@pytest.mark.parametrize(
    "stage", [Stage.LISTING, Stage.RATING, Stage.SEALING, Stage.WITHHELD, Stage.DELIVERING]
)
def test_a_night_that_has_not_been_delivered(stage: Stage) -> None:
    told = undelivered(stage)
    assert tone(told) is Tone.BAD
    text = Reader(page(replace(told, samples=(), days=()))).text
    assert "Not delivered" in text
    assert "The deadline is 09:00 CST." in text
    assert f"--date {told.summary.run.business_date}" in next_step(told.summary)


def test_the_tone_is_what_a_reader_would_say() -> None:
    told = night()
    assert tone(told) is Tone.GOOD
    assert tone(replace(told, tolerated_percent=0.2)) is Tone.MIXED
    at_work = undelivered(Stage.RATING)
    working = replace(at_work.summary.executions[0], ended=None)
    at_work = replace(at_work, summary=replace(at_work.summary, executions=(working,)))
    assert tone(at_work) is Tone.OPEN
    assert tone(replace(at_work, now=at_work.deadline + timedelta(seconds=1))) is Tone.BAD


# --- what bounded it --------------------------------------------------------------------------


def test_what_bounded_the_night() -> None:
    told = night()
    assert bound(replace(told, rate_limit=500.0)).startswith("The ESG API's latency: ")
    assert bound(replace(told, rate_limit=500.0, most_in_flight=32)).startswith("The ESG API's latency: all 32")
    busy = [replace(each, cpu=each.cpu * 6) for each in told.samples]
    assert bound(replace(told, rate_limit=500.0, samples=busy)).startswith("This machine: ")
    held = [replace(each, held="outage") for each in told.samples]
    assert bound(replace(told, samples=held)).startswith("The ESG API: it kept us waiting for ")
    listing = replace(told.summary.executions[0], stages={"listing": 900.0, "rating": 30.0})
    slow = replace(told.summary, executions=(listing,))
    assert (
        bound(replace(told, summary=slow))
        == "The account system: reading its list took 15 min 00 s of 15 min 30 s."
    )
    assert bound(replace(told, samples=())) == "The night was too short to say."


def test_a_resumed_night_is_two_lives_and_holds_are_merged() -> None:
    told = night()
    assert [len(life) for life in lives(told.samples)] == [130, 80]
    first, second = holds(told.samples)
    assert first == (START.timestamp() + 600, START.timestamp() + 780, "throttled")
    assert second[2] == "throttled"
    assert holds(samples(seconds=300)) == []


# --- charts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (0, 1e-9), (0, 49), (99.62, 99.72), (-5, 5), (0, 1e9), (7, 7)]
)
def test_axes_have_a_few_round_ticks_around_their_values(low: float, high: float) -> None:
    axis = figures(low, high)
    assert axis.low <= low + 1e-6
    assert axis.high >= high - 1e-6 * max(1.0, high)
    assert 1 <= len(axis.ticks) <= 8


def test_thinning_keeps_the_ends_and_every_peak() -> None:
    points = [(float(at), 0.0) for at in range(5000)]
    points[777] = (777.0, 9.0)
    kept = thinned(points)
    assert len(kept) <= 170
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert points[777] in kept
