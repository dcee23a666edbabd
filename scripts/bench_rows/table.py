"""The result for people, for machines, and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.bench_rows.figures import Figure

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
TITLES = ("row", "what", "measured", "against", "ratio (spread)", "target", "met")


def plain(figures: Sequence[Figure]) -> str:
    """Columns as wide as they must be."""
    lines = [TITLES, *(_cells(figure) for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(TITLES))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_dict(figures: Sequence[Figure], machine: str, day: str, part: float) -> dict[str, Any]:
    return {
        "machine": machine,
        "date": day,
        "part": part,
        "rows": [{**asdict(figure), "samples": dict(figure.samples)} for figure in figures],
    }


def write(path: Path, figures: Sequence[Figure], machine: str, day: str) -> None:
    """Put the figures between the markers; rows measured on the same machine before, and not now, stay.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has not the markers {BEGIN} and {END}")
    told = f"Measured on {machine}."
    rows = _rows(old) if told in old else {}
    rows |= {figure.name: _line(_cells(figure)) for figure in figures}
    lines = [told, "", f"Last on {day}.", "", _line(TITLES), _line(("---",) * len(TITLES)), *rows.values()]
    content = "\n".join(["", *lines, ""])
    path.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")


def _rows(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return {line.split("|")[1].strip(): line for line in lines}


def _cells(figure: Figure) -> tuple[str, ...]:
    met = {True: "yes", False: "no", None: ""}[figure.met]
    return (figure.name, figure.what, figure.ours, figure.theirs, figure.result, figure.target, met)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
