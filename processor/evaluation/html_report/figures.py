"""The charts of the page as SVG text whose colours come from the page's style sheet, so that they follow its theme.

Every element with `data-tip` shows that text under the pointer (page.js).
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from processor.evaluation.html_report.content import Curve, Distances, MapPoint

_WIDTH, _HEIGHT = 400, 250  # units of a chart, about pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 36
_MAP = (640, 430)  # width, height of the map
_BARS = 20  # of the histogram of APs
_SHAPES = (  # of cameras, within -5..5
    "M0-4.4a4.4 4.4 0 1 1 0 8.8a4.4 4.4 0 1 1 0-8.8z", "M-4-4H4V4H-4z", "M0-5.2L5 3.8H-5z",
    "M0-5.6L4.6 0L0 5.6L-4.6 0z", "M0 5.2L5-3.8H-5z", "M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7z",
    "M0-5.4L5.1-1.7L3.2 4.4H-3.2L-5.1-1.7z",
    "M-5-2.4L-2.4-5L0-2.4L2.4-5L5-2.4L2.4 0L5 2.4L2.4 5L0 2.4L-2.4 5L-5 2.4L-2.4 0z",
)  # fmt: skip


class _Chart:
    """Axes with ticks; x and y are (lowest, highest) of the data."""

    def __init__(self, label: str, x: tuple[float, float], y: tuple[float, float], log_y: bool = False) -> None:
        self.x, self.log_y = x, log_y
        self.y = tuple(map(math.log10, y)) if log_y else y
        self.parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Data -> units of the picture, rounded to what the eye can see."""
        y = math.log10(y) if self.log_y else y
        across = (x - self.x[0]) / (self.x[1] - self.x[0] or 1)
        up = (y - self.y[0]) / (self.y[1] - self.y[0] or 1)
        right = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
        return round(right, 1), round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], x_title: str, y_title: str = "") -> None:
        """Lines at the y ticks, labels at both axes."""
        left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for value, text in y_ticks.items():
            _, y = self.place(self.x[0], value)
            self.parts.append(f'<path class="grid" d="M{left} {y}H{right}"/>')
            self.parts.append(f'<text class="tick" x="{left - 7}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
        self.parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
        for value, text in x_ticks.items():
            x = _LEFT + (value - self.x[0]) / (self.x[1] - self.x[0] or 1) * (right - left)
            self.parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
            self.parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
        self.parts.append(f'<text class="title" x="{right}" y="{_HEIGHT - 3}" text-anchor="end">{x_title}</text>')
        if y_title:
            self.parts.append(f'<text class="title" x="{left + 4}" y="{_TOP + 4}">{y_title}</text>')

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through data points."""
        self.parts.append(f'<path class="line {style}" d="{_path([self.place(*point) for point in points])}"/>')

    def hover(self, x: float, half: float, y: float, tip: str, style: str) -> None:
        """A dot on a line that shows, with `tip`, when the pointer is in its column."""
        left, _ = self.place(x - half, y if self.log_y else self.y[0])
        right, _ = self.place(x + half, y if self.log_y else self.y[0])
        left, right = max(left, _LEFT), min(right, _WIDTH - _RIGHT)
        cx, cy = self.place(x, y)
        self.parts.append(
            f'<g class="hover" data-tip="{escape(tip)}"><rect x="{left}" y="{_TOP}" width="{max(right - left, 1):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"/><circle class="{style}" cx="{cx}" cy="{cy}" r="3.5"/></g>'
        )

    def svg(self) -> str:
        """The finished picture."""
        return "".join([*self.parts, "</svg>"])


def cmc_chart(curve: Curve) -> str:
    """CMC curve over its 95 % band, in percent."""
    ranks = range(1, len(curve.values) + 1)
    floor = math.floor(10 * min(0.9, float(curve.low.min()))) / 10
    chart = _Chart("CMC curve with its 95 % band", (1, max(2, len(curve.values))), (100 * floor, 100))
    marks = [rank for rank in (1, 5, 10, 20) if rank <= len(curve.values)]
    chart.axes({rank: str(rank) for rank in marks}, _percent_ticks(100 * floor, 100), "rank")
    low, high = ([chart.place(rank, 100 * v) for rank, v in zip(ranks, end)] for end in (curve.low, curve.high))
    chart.parts.append(f'<path class="band" d="{_path([*high, *low[::-1]])}z"/>')
    points = [(rank, 100 * value) for rank, value in zip(ranks, curve.values)]
    chart.line(points, "main")
    for (rank, value), bottom, top in zip(points, curve.low, curve.high):
        tip = f"Rank-{rank}: {value:.2f} % [{100 * bottom:.2f}, {100 * top:.2f}]"
        chart.hover(rank, 0.5, value, tip, "main")
    return chart.svg()


def ap_chart(scores: Sequence[float]) -> str:
    """How many queries have which AP; a bar filters the list below."""
    # With the digits that the page gives page.js; a score on an edge belongs to the bar above it, 1 to the last.
    bars = [min(math.floor(round(score, 6) * _BARS + 1e-6), _BARS - 1) for score in scores if not math.isnan(score)]
    counts, edges = np.bincount(bars, minlength=_BARS), np.linspace(0, 1, _BARS + 1)
    ticks = _whole_ticks(int(counts.max(initial=1)))
    chart = _Chart("histogram of the average precision of the queries", (0, 100), (0, max(*ticks, int(counts.max()))))
    chart.axes({n: str(n) for n in (0, 20, 40, 60, 80, 100)}, ticks, "AP in %", "queries")
    for count, low, high in zip(counts.tolist(), 100 * edges, 100 * edges[1:]):
        (left, top), (right, bottom) = chart.place(low, count), chart.place(high, 0)
        tip = f"AP {low:.0f} to {high:.0f} %: {count} {'query' if count == 1 else 'queries'}"
        chart.parts.append(
            f'<g class="bar" data-tip="{tip}" data-low="{low:.0f}" data-high="{high:.0f}"><rect class="reach" '
            f'x="{left}" y="{_TOP}" width="{right - left:.1f}" height="{bottom - _TOP:.1f}"/><rect class="main" '
            f'x="{left + 1:.1f}" y="{top}" width="{right - left - 2:.1f}" height="{bottom - top:.1f}" rx="1.5"/></g>'
        )
    return chart.svg()


def distance_chart(distances: Distances) -> str:
    """Densities of the distances of true and false pairs."""
    edges, top = distances.edges, float(max(distances.true.max(), distances.false.max()))
    chart = _Chart("distances of true and false pairs", (float(edges[0]), float(edges[-1])), (0, top * 1.05))
    chart.axes({v: f"{v:g}" for v in _ticks(edges[0], edges[-1])}, {0: "0"}, "distance", "density")
    for densities, style in ((distances.false, "false"), (distances.true, "true")):
        steps = [(edges[0], 0.0)]
        for density, left, right in zip(densities, edges, edges[1:]):
            steps += [(left, density), (right, density)]
        steps.append((edges[-1], 0.0))
        chart.parts.append(f'<path class="hill {style}" d="{_path([chart.place(*step) for step in steps])}"/>')
    width = float(edges[1] - edges[0])
    for true, false, left in zip(distances.true, distances.false, edges):
        shares = f"{100 * true * width:.1f} % of true, {100 * false * width:.1f} % of false pairs"
        tip = f"{left:.3f} to {left + width:.3f}: {shares}"
        chart.hover(float(left + width / 2), width / 2, float(max(true, false)), tip, "quiet")
    return chart.svg()


def lines_chart(
    label: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    last: float,
    in_percent: bool = False,
    log_y: bool = False,
) -> str:
    """Lines over the epochs 1 to `last`, name -> (epoch, value); the styles s0, s1, ... in order."""
    values = [value for points in series.values() for _, value in points]
    epochs = sorted({epoch for points in series.values() for epoch, _ in points})
    low, high = (min(values), max(values)) if log_y or in_percent else (min(0.0, min(values)), max(values))
    if in_percent:
        low, high, ticks = 0, 100, _percent_ticks(0, 100)
    elif log_y:
        low, high = 10 ** math.floor(math.log10(low) + 1e-9), 10 ** math.ceil(math.log10(high) - 1e-9)
        high = high if high > low else low * 10
        ticks = {10.0**n: f"1e{n}" for n in range(round(math.log10(low)), round(math.log10(high)) + 1)}
    else:
        ticks = {v: f"{v:g}" for v in _ticks(low, high)}
        high = max(high, *ticks)
    last = max(last, epochs[-1], 2)
    chart = _Chart(label, (1, last), (low, high or 1), log_y)
    marks = {1: "1"} | {v: f"{v:g}" for v in _ticks(1, last) if v == int(v) and v > 1 + last / 15}
    chart.axes(marks, ticks, "epoch")
    for number, points in enumerate(series.values()):
        chart.line(points, f"s{number}")
        if len(points) < 12:
            for x, y in (chart.place(*point) for point in points):
                chart.parts.append(f'<circle class="dot s{number}" cx="{x}" cy="{y}" r="2.4"/>')
    at = {name: dict(points) for name, points in series.items()}
    half = (epochs[-1] - epochs[0]) / max(1, len(epochs) - 1) / 2 or 0.5
    for epoch in epochs:
        here = [(name, points[epoch]) for name, points in at.items() if epoch in points]
        unit = " %" if in_percent else ""
        tip = f"epoch {epoch:g}: " + ", ".join(f"{name} {value:.4g}{unit}" for name, value in here)
        chart.hover(epoch, half, here[0][1], tip, "quiet")
    return chart.svg()


def map_chart(points: Sequence[MapPoint]) -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
    """The map of features; legends as (picture of a mark, name) of its persons and of its cameras."""
    people, cameras = (list(dict.fromkeys(getattr(p, part) for p in points)) for part in ("person", "camera"))
    cameras.sort(key=lambda name: (len(name), name))
    width, height = _MAP
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="map of tracklet features">']
    for point in points:
        person, camera = people.index(point.person), cameras.index(point.camera)
        x, y = 14 + point.x * (width - 28), 14 + (1 - point.y) * (height - 28)
        tip = f"person {point.person}" + (f", camera {point.camera}" if point.camera else "")
        parts.append(
            f'<path class="mark p{person}{_fill(camera)}" d="{_SHAPES[camera % len(_SHAPES)]}" '
            f'transform="translate({x:.1f} {y:.1f})" data-tip="{escape(tip)}" data-name="{escape(point.name)}"/>'
        )
    of_people = [(_sample(f"p{number}", 0), name) for number, name in enumerate(people)]
    of_cameras = [(_sample("ink", number), name) for number, name in enumerate(cameras) if name]
    return "".join([*parts, "</svg>"]), of_people, of_cameras


def score_bar(value: float, low: float | None, high: float | None, paper: float | None) -> str:
    """A score in percent on a line from 0 to 100, with its interval and the paper's value as a mark."""
    parts = ['<svg class="scale" viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true">']
    parts.append('<rect class="track" x="0" y="6" width="200" height="4" rx="2"/>')
    if low is not None and high is not None:
        width = max(2 * (high - low), 1)
        parts.append(f'<rect class="range" x="{2 * low:.1f}" y="3" width="{width:.1f}" height="10" rx="2"/>')
    parts.append(f'<rect class="value" x="{min(2 * value, 197):.1f}" y="1" width="3" height="14" rx="1"/>')
    if paper is not None:
        parts.append(f'<rect class="paper" x="{min(2 * paper, 198):.1f}" y="1" width="1.5" height="14"/>')
    return "".join([*parts, "</svg>"])


def _sample(style: str, camera: int) -> str:
    mark = f'<path class="mark {style}{_fill(camera)}" d="{_SHAPES[camera % len(_SHAPES)]}"/>'
    return f'<svg class="sample" viewBox="-7 -7 14 14" aria-hidden="true">{mark}</svg>'


def _fill(camera: int) -> str:
    """The second round of shapes is hollow."""
    return " hollow" if camera // len(_SHAPES) % 2 else ""


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _percent_ticks(low: float, high: float) -> dict[float, str]:
    step = 20 if high - low > 60 else 10 if high - low > 25 else 5 if high - low > 10 else 2
    return {float(v): f"{v:g} %" for v in np.arange(low, high + 1e-6, step)}


def _whole_ticks(most: int) -> dict[float, str]:
    return {v: f"{v:g}" for v in _ticks(0, max(most, 1)) if v == int(v)} | {0: "0"}


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values in low..high, about `most` of them."""
    span = float(high - low) or 1.0
    raw = span / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(float(low) / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(float(high) / step + 1e-9) + 1)]
