"""Small charts as inline SVG, so that a report is one file that opens anywhere.

Colours and text sizes come from the page's style sheet through classes: charts follow light and dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 640


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Attributes:
        label: text at the left.
        value: length of the bar; never negative.
        text: the value as people read it.
        style: CSS class, such as "before", "after" or "dim".
    """

    label: str
    value: float
    text: str
    style: str = "after"


@dataclass(frozen=True)
class Line:
    """One curve of a line chart: (x, y) points in order, drawn with the CSS class `style`."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str = "after"


def bars(rows: Sequence[Bar], *, title: str, label_width: int = 250) -> str:
    """Horizontal bars from zero, longest value at full width."""
    step, top = 26, 8
    height = top + step * len(rows) + 4
    longest = max((row.value for row in rows), default=0.0) or 1.0
    room = _WIDTH - label_width - 110
    parts = [_open(height, title)]
    for i, row in enumerate(rows):
        y = top + i * step
        length = max(1.0, room * row.value / longest)
        parts.append(f'<text x="{label_width - 8}" y="{y + 14}" class="label end">{escape(row.label)}</text>')
        parts.append(
            f'<rect x="{label_width}" y="{y}" width="{length:.1f}" height="18" rx="3" class="{row.style}"/>'
        )
        parts.append(
            f'<text x="{label_width + length + 6:.1f}" y="{y + 14}" class="value">{escape(row.text)}</text>'
        )
    return "".join([*parts, "</svg>"])


def lines(curves: Sequence[Line], *, title: str, x_label: str, y_label: str, log_x: bool = False) -> str:
    """Curves over a shared frame; the y axis starts at zero."""
    points = [p for curve in curves for p in curve.points]
    if not points:
        return ""
    frame = _Frame.around(points, log_x)
    parts = [_open(_Frame.height, title), *frame.grid()]
    for i, curve in enumerate(curves):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in curve.points)
        parts.append(f'<polyline points="{path}" class="line {curve.style}"/>')
        parts.append(
            f'<rect x="{frame.left + 12}" y="{16 + 20 * i}" width="14" height="4" class="{curve.style}"/>'
        )
        parts.append(
            f'<text x="{frame.left + 32}" y="{22 + 20 * i}" class="label">{escape(curve.label)}</text>'
        )
    middle = (frame.left + frame.right) / 2
    parts.append(f'<text x="{middle}" y="{frame.height - 4}" class="label middle">{escape(x_label)}</text>')
    turned = f'transform="rotate(-90 14 {frame.bottom / 2})"'
    parts.append(
        f'<text x="14" y="{frame.bottom / 2}" {turned} class="label middle">{escape(y_label)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _open(height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    )


@dataclass(frozen=True)
class _Frame:
    """Maps data to the drawing's coordinates."""

    x_low: float
    x_high: float
    y_high: float
    log_x: bool

    left, right, top, bottom, height = 64, _WIDTH - 16, 10, 230, 276

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]], log_x: bool) -> "_Frame":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        high = max(xs)
        low = min(xs) if log_x else 0.0
        return cls(low, high if high > low else low + (low or 1.0), max(ys) * 1.05 or 1.0, log_x)

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        share = math.log(value / low) / math.log(high / low) if self.log_x else (value - low) / (high - low)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - value / self.y_high * (self.bottom - self.top)

    def grid(self) -> list[str]:
        parts = []
        for value in ticks(0.0, self.y_high):
            y = self.y(value)
            parts.append(f'<path d="M{self.left} {y:.1f}H{self.right}" class="grid"/>')
            parts.append(
                f'<text x="{self.left - 6}" y="{y + 4:.1f}" class="label end">{_short(value)}</text>'
            )
        values = log_ticks(self.x_low, self.x_high) if self.log_x else ticks(self.x_low, self.x_high)
        for value in values:
            x = self.x(value)
            parts.append(f'<path d="M{x:.1f} {self.top}V{self.bottom}" class="grid"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{self.bottom + 18}" class="label middle">{_short(value)}</text>'
            )
        return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, roughly `about` of them."""
    raw = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 numbers between low and high, thinned where there would be more than eight."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    return found if len(found) <= 8 else found[:: math.ceil(len(found) / 8)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
