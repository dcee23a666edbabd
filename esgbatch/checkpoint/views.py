"""The views that analysts query: one row a day, a reason, a score, a moment. docs/history.md describes them.

They read the manifests and the samples, never the accounts, so that nothing of an account
is in them and that they answer at once, also after the ratings were purged.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

NAMES = ("daily", "failures_by_reason", "mean_scores", "score_histogram", "night", "stages")

_LATEST = """runs r join revisions v on v.run = r.number
 and v.revision = (select max(revision) from revisions where run = r.number)"""

_DAILY = """
select r.business_date, r.run_id, r.stage, r.revision, v.partial, r.listed,
       r.inactive + r.duplicate + r.refused + r.erased as excluded,
       r.listed - r.inactive - r.duplicate - r.refused - r.erased as accounts,
       {succeeded} as succeeded, {failed} as failed,
       100.0 * {failed} / nullif(v.rows, 0) as failed_percent,
       {started} as started, {delivered} as delivered, {deadline} as deadline,
       d.delivered - d.started as duration_seconds,
       d.deadline - d.delivered as headroom_seconds,
       v.encrypted_bytes
from runs r
left join revisions v on v.run = r.number
 and v.revision = (select max(revision) from revisions where run = r.number)
left join (select number,
                  (select min(started) from executions where run = number) as started,
                  (select min(delivered) from revisions where run = number) as delivered,
                  (select max(deadline) from samples where run = number) as deadline
           from runs) d on d.number = r.number"""

_NIGHT = """
select r.business_date, {at} as at, s.done, s.failed, s.attempts, s.errors, s.in_flight, s.concurrency,
       s.waiting, s.latency_p50, s.latency_p95, s.held
from samples s join runs r on r.number = s.run"""


def create(connection: Connection) -> None:
    """Make them anew, in this database's SQL."""
    views = _postgresql() if connection.dialect.name == "postgresql" else _sqlite()
    for name in NAMES:
        connection.exec_driver_sql(f"drop view if exists {name}")
        connection.exec_driver_sql(f"create view {name} as {views[name]}")


def _sqlite() -> dict[str, str]:
    def count(which: str) -> str:
        return f"json_extract(cast(v.manifest as text), '$.counts.{which}')"

    def moment(column: str) -> str:
        return f"strftime('%Y-%m-%dT%H:%M:%SZ', {column}, 'unixepoch')"

    low, high = "json_extract(h.value, '$[0]')", "json_extract(h.value, '$[1]')"
    width = f"({high} - {low}) / json_array_length(h.value, '$[2]')"
    return {
        "daily": _DAILY.format(**_daily(count("succeeded"), count("failed"), moment)),
        "failures_by_reason": f"""
select r.business_date, f.key as reason, f.value as accounts
from {_LATEST}, json_each(cast(v.manifest as text), '$.failed_by') f""",
        "mean_scores": f"""
select r.business_date, c.value as score, m.value as mean
from {_LATEST}, json_each(r.columns) c, json_each(v.means) m where m.key = c.key""",
        "score_histogram": f"""
select r.business_date, c.value as score, {low} + b.key * {width} as from_score,
       {low} + (b.key + 1) * {width} as to_score, b.value as accounts
from {_LATEST}, json_each(r.columns) c, json_each(v.histograms) h, json_each(h.value, '$[2]') b
where h.key = c.key""",
        "night": _NIGHT.format(at=moment("s.at")),
        "stages": """
select r.business_date, e.id as execution, e.command, e.revision, s.key as stage, s.value as seconds
from executions e join runs r on r.number = e.run, json_each(e.stages) s""",
    }


def _postgresql() -> dict[str, str]:
    manifest = "convert_from(v.manifest, 'UTF8')::jsonb"
    number = "double precision"

    def count(which: str) -> str:
        return f"({manifest} -> 'counts' ->> '{which}')::int"

    def moment(column: str) -> str:
        return f"to_timestamp({column})"

    columns = "jsonb_array_elements_text(r.columns::jsonb) with ordinality c(title, place)"
    low, high = f"(h.h ->> 0)::{number}", f"(h.h ->> 1)::{number}"
    width = f"({high} - {low}) / jsonb_array_length(h.h -> 2)"
    return {
        "daily": _DAILY.format(**_daily(count("succeeded"), count("failed"), moment)),
        "failures_by_reason": f"""
select r.business_date, f.reason, f.accounts::int as accounts
from {_LATEST} cross join lateral jsonb_each_text({manifest} -> 'failed_by') f(reason, accounts)""",
        "mean_scores": f"""
select r.business_date, c.title as score, m.mean::{number} as mean
from {_LATEST} cross join lateral {columns}
join lateral jsonb_array_elements_text(v.means::jsonb) with ordinality m(mean, place) on m.place = c.place""",
        "score_histogram": f"""
select r.business_date, c.title as score, {low} + (b.place - 1) * {width} as from_score,
       {low} + b.place * {width} as to_score, b.accounts::int as accounts
from {_LATEST} cross join lateral {columns}
join lateral jsonb_array_elements(v.histograms::jsonb) with ordinality h(h, place) on h.place = c.place
cross join lateral jsonb_array_elements_text(h.h -> 2) with ordinality b(accounts, place)""",
        "night": _NIGHT.format(at=moment("s.at")),
        "stages": f"""
select r.business_date, e.id as execution, e.command, e.revision, s.stage, s.seconds::{number} as seconds
from executions e join runs r on r.number = e.run
cross join lateral jsonb_each_text(e.stages::jsonb) s(stage, seconds)""",
    }


def _daily(succeeded: str, failed: str, moment: Callable[[str], str]) -> dict[str, str]:
    times = {name: moment(f"d.{name}") for name in ("started", "delivered", "deadline")}
    return {"succeeded": succeeded, "failed": failed, **times}
