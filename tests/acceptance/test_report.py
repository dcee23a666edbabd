"""The daily report as its readers get it: in a real browser, and by a real mail server."""

from __future__ import annotations

import csv
import email
import email.policy
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.acceptance.chromium import Page, chromium
from tests.acceptance.firm import DAY, TestFirm, firm
from tests.acceptance.pseudoterminal import on_terminal
from tests.nights import night

ROOT = Path(__file__).parents[2]
RECIPIENTS = {"ESGBATCH_ALERTS__EMAIL__REPORT_RECIPIENTS": '["compliance@sandbox.example"]'}
FAILING = {"A-000003": "no_rating", "A-000005": "bad_null"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def small(tmp_path: Path) -> Iterator[TestFirm]:
    with firm(tmp_path, 300) as each:
        yield each


def mails(each: TestFirm) -> list[EmailMessage]:
    folder = Path(each.server.places.mail.folder)
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)  # type: ignore[misc]
        for path in sorted(folder.glob("*.eml"))
    ]


def attached(mail: EmailMessage) -> EmailMessage:
    [attachment] = mail.iter_attachments()
    assert isinstance(attachment, EmailMessage)
    return attachment


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_of_a_night(tmp_path_factory: pytest.TempPathFactory) -> str:
    from esgbatch.reporting.html import render

    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(night(), environment="production"))
    return path.as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_a_browser_asks_for_nothing_and_complains_of_nothing(
    browser: Page, page_of_a_night: str, width: int, dark: bool
) -> None:
    browser.open(page_of_a_night, width=width, dark=dark)
    assert browser.requests == [page_of_a_night]
    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width, "no scrolling to the side"


CONTRAST = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parse(c).map(v => { v /= 255; return v <= .03928 ? v / 12.92 :
    ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (parse(c)[3] !== 0) return c; } return 'rgb(255,255,255)'; };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!text || !e.getClientRects().length || ['title', 'desc'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const a = light(svg ? style.fill : style.color), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 90)];
  }
  return worst;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(browser: Page, page_of_a_night: str, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    browser.open(page_of_a_night, width=1280, dark=dark)
    ratio, where = browser.evaluate(CONTRAST)
    assert ratio >= 4.5, (ratio, where)


def test_it_prints(browser: Page, page_of_a_night: str) -> None:
    browser.open(page_of_a_night, width=1280, dark=True)
    pages = browser.pdf().count(b"/Type /Page\n")
    assert 1 < pages <= 6


# --- a real night -----------------------------------------------------------------------------


def test_a_real_nights_page(small: TestFirm, browser: Page) -> None:
    small.server.switch(accounts=FAILING)
    small.run("run")
    target = small.folder / "report.html"
    small.run("report", "--format", "html", "--output", str(target))
    browser.open(target.as_uri(), width=390)
    assert (browser.requests, browser.complaints) == ([target.as_uri()], [])
    text = browser.evaluate("document.body.textContent")
    assert "2 of 300 accounts without a rating" in text
    for account in FAILING:
        assert account in text
    for index in range(small.books.accounts):
        assert small.books.name(index) not in text or len(small.books.name(index)) < 5
    assert target.stat().st_size < 300_000


def test_the_report_is_mailed_after_each_delivery(small: TestFirm) -> None:
    small.environment |= RECIPIENTS
    small.run("run")
    [mail] = mails(small)
    assert mail["To"] == "compliance@sandbox.example"
    assert mail["Subject"] == f"[sandbox] ESG ratings of {DAY}: Revision 1 is delivered, every account rated."
    body = mail.get_body(("plain",))
    assert body is not None
    assert "Rows in the file                       300" in body.get_content()
    assert "Audit anchor  " in body.get_content()
    assert attached(mail).get_filename() == f"esgbatch-report-{DAY:%Y%m%d}.html"
    assert "Every listed account is accounted for." in attached(mail).get_content()
    small.run("run")
    assert len(mails(small)) == 1, "it was delivered before: no news"
    ran = small.run("report", "--send")
    assert ran.out == f"The report of {DAY} is sent to compliance@sandbox.example.\n"
    assert len(mails(small)) == 2


def test_a_mail_server_that_is_down_changes_nothing_but_the_log(small: TestFirm) -> None:
    small.environment |= RECIPIENTS | {"ESGBATCH_ALERTS__EMAIL__PORT": "9"}
    ran = small.run("run")
    assert "Revision 1 is delivered" in ran.out
    log = (small.folder / "logs" / f"esgbatch-{DAY:%Y%m%d}.jsonl").read_text()
    [told] = [entry for line in log.splitlines() if (entry := json.loads(line))["event"] == "report_not_sent"]
    assert told["level"] == "WARNING"
    ran = small.run("report", "--send", code=10)
    assert "cannot be reached" in ran.err
    assert "Next: " in ran.err


@pytest.mark.parametrize("columns", [80, 200])
def test_the_report_on_a_terminal(small: TestFirm, columns: int) -> None:
    small.run("run")
    plain = small.environment | {"NO_COLOR": "1"}
    given = ("--date", DAY.isoformat(), "--config", str(small.config))
    code, shown = on_terminal(small.folder, "report", *given, columns=columns, environment=plain)
    lines = shown.splitlines()
    assert code == 0, shown
    assert lines[1].startswith("╭─ Delivered ─")
    assert len(lines[1]) == columns
    assert not re.search(r"\x1b\[3\d", shown), "no colour"
    code, shown = on_terminal(small.folder, "report", "--days", "7", *given, columns=columns, environment=plain)
    assert code == 0, shown
    assert ("Overall ESG Score" in shown) is (columns == 200)


def test_a_withheld_file_is_shown_with_its_scores_and_what_to_do(small: TestFirm) -> None:
    small.environment["ESGBATCH_QUALITY__MAX_FAILED_PERCENT"] = "0.1"
    small.server.switch(accounts=FAILING)
    small.run("run", code=14)
    out = small.run("report", "--format", "html").out
    for told in ("Not delivered", "The file is withheld: ", f"approve --date {DAY}", "A-000003"):
        assert told in out
    assert "Distribution of Overall ESG Score" in out
    assert "Not delivered" in small.run("report", "--days", "3", "--format", "html").out


def test_the_guides_lines_open_the_file_and_prove_it_whole(small: TestFirm) -> None:
    """docs/user-guide.md, on Linux, as they stand there."""
    small.run("run")
    guide = (ROOT / "docs" / "user-guide.md").read_text()
    lines = re.findall(r"^(?:\$ )?(gpg --.*)$", guide, re.MULTILINE)
    lines += re.findall(r"`(gpg --use-embedded-filename [^`]+)`", guide)
    assert len(lines) == 3
    folder = small.folder / "desk"
    folder.mkdir()
    shutil.copy(small.sealed, folder)
    for line in lines:
        script = line.replace("20261124", f"{DAY:%Y%m%d}")
        for opened in folder.glob("*.csv"):
            opened.unlink()
        ran = subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True,
            env=os.environ | {"GNUPGHOME": str(small.desk.home)},
        )  # fmt: skip
        opened = folder / f"FirmESGRatings_{DAY:%Y%m%d}.csv"
        found = hashlib.sha256(opened.read_bytes()).hexdigest() if opened.exists() else ran.stdout.split()[0]
        assert found == small.manifest()["plaintext"]["sha256"], line


def test_nobody_to_send_it_to_is_said(small: TestFirm) -> None:
    small.run("run")
    assert mails(small) == []
    ran = small.run("report", "--send", code=10)
    assert "alerts.email.report_recipients" in ran.err
    assert f"esgbatch report --send --date {DAY}" in ran.err
    small.run("report", "--send", "--format", "csv", code=2)


def test_the_history_as_csv_and_as_the_views_agree(small: TestFirm) -> None:
    small.server.switch(accounts=FAILING)
    small.run("run")
    out = small.run("report", "--days", "7", "--format", "csv").out
    [day] = csv.DictReader(io.StringIO(out, newline=""))
    assert (day["business_date"], day["rows"], day["failed"]) == (DAY.isoformat(), "300", "2")
    assert (day["failed_no_rating"], day["failed_bad_rating"], day["failed_rejected"]) == ("1", "1", "0")
    [told] = json.loads(small.run("report", "--days", "7", "--format", "json").out)["days"]
    assert {name: "" if value is None else str(value) for name, value in told["record"].items()} == {
        name: {"false": "False", "true": "True"}.get(value, value) for name, value in day.items()
    }
    with sqlite3.connect(f"file:{small.state / 'checkpoint.sqlite'}?mode=ro", uri=True) as connection:
        columns = "business_date, accounts, succeeded, failed, started, delivered"
        assert connection.execute(f"select {columns} from daily").fetchall() == [
            (DAY.isoformat(), 300, 298, 2, day["started"], day["delivered"])
        ]
        assert connection.execute("select reason, accounts from failures_by_reason order by 1").fetchall() == [
            ("bad_rating", 1),
            ("no_rating", 1),
        ]
        means = connection.execute("select score, round(mean, 3) from mean_scores").fetchall()
        assert {f"mean {score}": str(mean) for score, mean in means}.items() <= day.items()
        [rows] = connection.execute(
            "select distinct sum(accounts) from score_histogram group by score"
        ).fetchall()
        assert rows == (298,)
        [(samples,)] = connection.execute("select count(*) from night").fetchall()
        assert samples >= 1
