"""The command."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from scripts.bench_rows import cpu, quota, size, startup, table
from scripts.bench_rows.figures import ROWS, Figure, Row, Scale, chosen
from scripts.bench_rows.processes import describe_machine
from scripts.bench_rows.site import set_up

FAMILIES = (quota, cpu, size, startup)
QUICK = Scale(part=0.001, most_rounds=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a row could not be measured; a target that is not met is a figure like any other."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names, or how names begin (default: all)")
    parser.add_argument("--list", action="store_true", help="tell which rows there are")
    parser.add_argument(
        "--quick", action="store_true", help="so small that the figures say nothing, no verdict"
    )
    parser.add_argument(
        "--part", type=float, default=1.0, metavar="SHARE", help="of every size; below 1 no verdict"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="at most so many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and samples as JSON too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table between the markers in it")
    options = parser.parse_args(arguments)
    try:
        rows = chosen(options.rows)
    except KeyError as error:
        parser.error(f"there is no row {error}; --list tells which there are")
    if options.list:
        print("\n".join(f"{each.name:13} {each.about}" for each in ROWS.values()))
        return 0
    scale = QUICK if options.quick else Scale(options.part, options.rounds)
    set_up()
    machine, day = describe_machine(), f"{datetime.now(UTC):%Y-%m-%d}"
    figures, failed = _measure(rows, scale)
    print(machine, table.plain(figures), sep="\n\n")
    if options.json:
        content = table.as_dict(figures, machine, day, scale.part)
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.write:
        table.write(options.write, figures, machine, day)
    return 1 if failed else 0


def _measure(rows: Sequence[Row], scale: Scale) -> tuple[list[Figure], bool]:
    figures: list[Figure] = []
    failed = False
    for each in rows:
        began = time.monotonic()
        print(f"{each.name}: {each.about} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            try:
                figures += each.measure(scale, Path(folder))
            except Exception as error:  # noqa: BLE001 - the other rows are to be measured all the same
                failed = True
                print(f"{each.name} failed: {type(error).__name__}: {error}", file=sys.stderr)
                figures.append(Figure(each.name, each.about, "could not be measured"))
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return figures, failed
