"""The benchmark runs through, so that it cannot rot; what its figures are says nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench_rows.figures import Figure
from scripts.bench_rows.site import lines, set_up, site
from scripts.bench_rows.table import BEGIN, END, write

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts" / "bench"


# One row of each way of measuring: the others differ in numbers, and in the peer.
SAMPLE = ("cpu-aiohttp", "latency-tail", "memory", "closing", "resume", "enrolment", "help", "status")
PEERS = ("threads_requests", "scrapy_spider", "dlt_pipeline")


def test_a_small_benchmark_measures_every_kind_of_row(tmp_path: Path):
    target, page = tmp_path / "figures.json", tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    ended = subprocess.run(
        [sys.executable, BENCH, *SAMPLE, "--quick", "--json", target, "--write", page],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(target.read_text())["rows"]
    measured = {each["name"] for each in figures}
    assert measured >= {"throughput", "connections", *SAMPLE}
    assert all(each["met"] is None for each in figures), "a small run gives no verdict"
    assert all(min(samples) >= 0 for each in figures for samples in each["samples"].values())
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert {line.split("|")[1].strip() for line in written.splitlines() if line.startswith("| ")} > measured


def test_every_peer_writes_the_file_that_the_job_would_deliver(tmp_path: Path):
    set_up()
    with site(tmp_path, 200) as place:
        for peer in PEERS:
            place.peer(peer, peer)
            assert lines(tmp_path / peer / "ratings.csv") == place.expected(), peer


def test_rows_are_chosen_by_the_beginning_of_their_names():
    listed = subprocess.run(
        [sys.executable, BENCH, "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {"quota-50", "cpu-scrapy", "enrolment"} <= {line.split()[0] for line in listed.stdout.splitlines()}
    unknown = subprocess.run(
        [sys.executable, BENCH, "quote"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert unknown.returncode == 2
    assert "there is no row 'quote'" in unknown.stderr


def test_rows_measured_elsewhere_do_not_stay_in_the_table(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    first, second = (Figure(name, "what", "1") for name in ("first", "second"))
    write(page, [first], "one machine", "2026-11-24")
    write(page, [second], "one machine", "2026-11-25")
    assert "| first |" in page.read_text()
    assert "| second |" in page.read_text()
    write(page, [second], "another machine", "2026-11-26")
    assert "| first |" not in page.read_text()
