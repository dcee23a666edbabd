"""The daily report as one HTML file that needs nothing else: no script, no network, no font.

It holds figures and, behind a fold, the IDs of failed accounts; no name, and no account's score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from esgbatch import __version__
from esgbatch.model import Reason
from esgbatch.reporting import nightcharts
from esgbatch.reporting.night import Night, Tone, bound, tone
from esgbatch.reporting.summary import next_step, verdict
from esgbatch.reporting.text import duration, spelled
from esgbatch.untrusted import printable

MEANINGS: Mapping[Reason, str] = {
    Reason.BAD_RATING: "The ESG API answered, but a score is missing, no number, or out of range.",
    Reason.FORBIDDEN: "The ESG API does not let us see this account.",
    Reason.NO_RATING: "The ESG API knows no rating of this account.",
    Reason.REJECTED: "The ESG API does not accept the request for this account.",
    Reason.UNAVAILABLE: "The ESG API failed at every attempt, to the end.",
    Reason.NOT_ATTEMPTED: "The deadline came before this account was asked for.",
}


def render(night: Night, *, environment: str) -> str:
    """The page."""
    jinja = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    folder = files("esgbatch.reporting")
    template = jinja.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    css = Markup((folder / "page.css").read_text(encoding="utf-8"))  # noqa: S704 - the package's own
    return template.render(css=css, environment=environment, **_content(night))


def _content(night: Night) -> dict[str, Any]:
    summary = night.summary
    run, tally, census = summary.run, summary.tally, summary.run.census
    word = tone(night)
    trends = list(nightcharts.trends(night.days)) if len(night.days) > 1 else []
    return {
        "title": f"ESG ratings of {run.business_date:%A, %d %B %Y}",
        "run": run,
        "tally": tally,
        "tone": word.value,
        "tone_class": {Tone.GOOD: "good", Tone.MIXED: "mixed", Tone.OPEN: "open", Tone.BAD: "bad"}[word],
        "verdict": verdict(summary),
        "timing": _timing(night),
        "next": _commands(next_step(summary)),
        "excluded": spelled(census.excluded_by),
        "success": f"{100 - tally.failed_percent:.2f}%" if tally.rows and tally.done == tally.rows else "",
        "failed": f"{tally.failed_percent:.2f}%" if tally.failed else "",
        "reconciled": _reconciled(night),
        "reasons": _reasons(night),
        "error_file": night.error_file,
        "bound": bound(night),
        **_stages(night),
        "charts": list(nightcharts.over_time(night)),
        **nightcharts.scores(night),
        "trends": trends,
        "days": (night.days[-1].date - night.days[0].date).days + 1 if trends else 0,
        "facts": list(_facts(night)),
        "footer": f"Written by esgbatch {__version__}, {_when(night, night.now)}. No names, no single scores.",
    }


def _timing(night: Night) -> str:
    first = min((each.delivered for each in night.summary.revisions if each.delivered), default=None)
    deadline = _when(night, night.deadline)
    if first is None:
        return f"The deadline is {deadline}." if night.now < night.deadline else f"The deadline was {deadline}."
    if first > night.deadline and not any(sample.deadline for sample in night.samples):
        return f"In the drop folder at {_when(night, first)}; no deadline bound this run."
    headroom = (night.deadline - first).total_seconds()
    side = f"{duration(abs(headroom))} {'before' if headroom >= 0 else 'after'} the deadline of {deadline}"
    return f"In the drop folder at {_when(night, first)}, {side}."


def _reconciled(night: Night) -> str:
    census, tally = night.summary.run.census, night.summary.tally
    listed = f"{census.listed:,} listed, less {census.excluded:,} excluded = {census.rows:,} rows"
    rated = f"{tally.succeeded:,} succeeded + {tally.failed:,} failed"
    if tally.done != tally.rows:
        return f"{listed}; {rated} so far."
    if census.rows != tally.rows:
        return f"{listed}, but {rated} = {tally.done:,}: this is a bug, please report it."
    return f"{listed} = {rated}. Every listed account is accounted for."


def _reasons(night: Night) -> list[dict[str, Any]]:
    tally = night.summary.tally
    found = []
    for reason, number in sorted(tally.failed_by.items(), key=lambda item: (-item[1], item[0])):
        listed = night.failures.get(reason)
        found.append(
            {
                "reason": str(reason),
                "meaning": MEANINGS[reason],
                "count": number,
                "share": f"{100 * number / tally.rows:.2f}%",
                "ids": listed.ids if listed else (),
                "more": listed.more if listed else 0,
            }
        )
    return found


def _commands(text: str) -> Markup:
    """Text whose commands stand between backticks."""
    parts = text.split("`")
    escaped = [
        Markup("<code>{}</code>").format(part) if at % 2 else Markup.escape(part)
        for at, part in enumerate(parts)
    ]
    return Markup("").join(escaped)


def _when(night: Night, moment: datetime) -> str:
    local = moment.astimezone(night.zone)
    same_day = local.date() == night.summary.run.business_date
    return local.strftime("%H:%M %Z" if same_day else "%Y-%m-%d %H:%M %Z")


# --- the stages -------------------------------------------------------------------------------


def _stages(night: Night) -> dict[str, Any]:
    """A bar for each process that worked on the run, in the order in which it went through the stages."""
    executions = [each for each in night.summary.executions if each.stages]
    if not executions:
        return {"stages": []}
    first = executions[0].started.timestamp()
    last = max(each.started.timestamp() + sum(each.stages.values()) for each in executions)
    span = max(last - first, 1e-3)
    bars, rows = [], []
    names = list(dict.fromkeys(name for each in executions for name in each.stages))
    for each in executions:
        at = each.started.timestamp() - first
        parts = []
        for name, seconds in each.stages.items():
            parts.append(
                {"name": name, "left": round(100 * at / span, 2), "width": round(100 * seconds / span, 2)}
            )
            at += seconds
        label = f"{each.command}, {each.started.astimezone(night.zone):%H:%M:%S}"
        bars.append({"label": label, "parts": parts})
        unended = "at work, or died" if each is executions[-1] else "died"
        code = unended if each.exit_code is None else f"code {each.exit_code}"
        rows.append([label, *(duration(each.stages[n]) if n in each.stages else "" for n in names), code])
    return {
        "stages": bars,
        "stage_names": names,
        "stage_head": ["Command", *names, "ended with"],
        "stage_rows": rows,
        "stages_from": f"{datetime.fromtimestamp(first, night.zone):%H:%M:%S}",
        "stages_to": f"{datetime.fromtimestamp(last, night.zone):%H:%M:%S %Z}",
    }


# --- the record -------------------------------------------------------------------------------


def _facts(night: Night) -> Iterator[tuple[str, str]]:
    summary = night.summary
    if summary.run.approval is not None:
        approval = summary.run.approval
        yield "Approved by", f"{approval.by}, {_when(night, approval.at)}: {approval.reason}"
    for revision in summary.revisions:
        delivered = f"delivered {_when(night, revision.delivered)}" if revision.delivered else "not delivered"
        partial = ", partial" if revision.partial else ""
        yield f"Revision {revision.number}", f"sealed {_when(night, revision.created)}, {delivered}{partial}"
        if revision.location:
            yield "Delivered to", revision.location
        yield "SHA-256 of the encrypted file", revision.sealed.encrypted.sha256
        yield "SHA-256 of the CSV inside", revision.sealed.plaintext.sha256
        yield "Encrypted for", ", ".join(revision.sealed.recipients)
    yield "Audit anchor", night.anchor
