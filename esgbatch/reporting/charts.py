"""Small inline SVG charts by pygal, stripped to what is seen; the page's own style sheet colours them.

Every chart has a title and a description for those who hear it, and stands beside a table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pygal

WIDTH, HEIGHT = 520, 230
MOST_POINTS = 160
MOST_TICKS = 6

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or (`kind` is area or band) a filled shape. `style` is its class in the style sheet."""

    label: str
    points: Sequence[Point]
    style: str
    kind: str = "line"


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows: its ends, its ticks and how a tick reads."""

    low: float
    high: float
    ticks: Sequence[float]
    text: Callable[[float], str]


def figures(low: float, high: float, text: Callable[[float], str] = "{:,.4g}".format, most: int = 5) -> Axis:
    """An axis of figures with round ticks."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, text)


def clock(low: float, high: float, zone: ZoneInfo) -> Axis:
    """An axis of times of day in the zone; `low` and `high` are seconds since the epoch."""
    span = max(high - low, 1.0)
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
    step = next((step for step in steps if span / step <= MOST_TICKS), 86400 * math.ceil(span / 86400 / 6))
    offset = datetime.fromtimestamp(low, UTC).astimezone(zone).utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    first = math.ceil((low + shift) / step)
    ticks = [at * step - shift for at in range(first, math.floor((high + shift) / step) + 1)]
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%d %b"
    return Axis(low, low + span, ticks, lambda at: datetime.fromtimestamp(at, zone).strftime(form))


def draw(title: str, description: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """The chart as an SVG element, a few kB."""
    chart = pygal.XY(
        width=WIDTH,
        height=HEIGHT,
        margin=0,
        margin_top=8,
        margin_bottom=26,
        margin_left=46,
        margin_right=14,
        spacing=0,
        js=(),
        css=(),
        no_prefix=True,
        show_legend=False,
        show_dots=False,
        xrange=(x.low, x.high),
        range=(y.low, y.high),
        x_labels=list(x.ticks),
        y_labels=list(y.ticks),
        x_value_formatter=x.text,
        value_formatter=y.text,
        classes=("chart",),
    )
    for each in series:
        chart.add(each.label, thinned(each.points))
    return _stripped(chart.render_tree(), title, description, series)


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> Sequence[Point]:
    """At most so many points; of each part the highest one stays, so that no peak is lost."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    return [points[0], *(max(part, key=lambda point: point[1]) for part in parts[1:-1]), points[-1]]


def step_shape(low: float, width: float, heights: Sequence[float]) -> list[Point]:
    """A histogram as a closed line from the axis and back."""
    shape = [(low, 0.0)]
    for number, height in enumerate(heights):
        shape += [(low + number * width, height), (low + (number + 1) * width, height)]
    return [*shape, (low + len(heights) * width, 0.0)]


def _stripped(svg: ElementTree.Element, title: str, description: str, series: Sequence[Series]) -> str:
    """Without pygal's script, style, tooltips and backgrounds; with our own words and classes."""
    drawn = ElementTree.Element(
        "svg", {"class": "chart", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": title}
    )
    ElementTree.SubElement(drawn, "title").text = title
    ElementTree.SubElement(drawn, "desc").text = description
    plot = next(each for each in svg.iter() if each.get("class") == "plot")
    plot = ElementTree.fromstring(ElementTree.tostring(plot))  # noqa: S314 - pygal's own
    for parent in [*plot.iter()]:
        for child in [*parent]:
            if _name(child) in ("title", "desc", "rect"):
                parent.remove(child)
        number = re.match(r"series serie-(\d+)", parent.get("class", ""))
        if number:
            each = series[int(number.group(1))]
            parent.set("class", f"{each.kind} {each.style}")
    for element in plot.iter():
        element.tag = _name(element)
        for key, value in [*element.attrib.items()]:
            if key == "class" and _name(element) in ("path", "text"):
                if "guide" in value or _name(element) == "text":
                    del element.attrib[key]
            elif key in ("d", "x", "y", "transform"):
                element.set(key, re.sub(r"-?\d+\.\d+", lambda found: f"{float(found.group()):.1f}", value))
    drawn.append(plot)
    return ElementTree.tostring(drawn, encoding="unicode")


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
