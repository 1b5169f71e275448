"""The parts of an SVG picture: boxes, curves and text, as the same bytes for the same arguments."""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

CHARACTER = 7.4
"""Width of one character of a label at 12 px, generous enough for every common sans-serif."""


class Box(NamedTuple):
    """A rectangle, in pixels from the top left corner of what it belongs to."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def middle(self) -> float:
        """Vertical centre."""
        return self.top + self.height / 2


def bend(x0: float, y0: float, x1: float, y1: float) -> str:
    """Return the path of a smooth curve that leaves and arrives horizontally."""
    half = number((x0 + x1) / 2)
    return f"M {number(x0)} {number(y0)} C {half} {number(y0)} {half} {number(y1)} {number(x1)} {number(y1)}"


def arrow(x: float, y: float, fill: str) -> str:
    """Draw a small arrow head whose tip is at (x, y)."""
    back = number(x - 7)
    points = f"{number(x)},{number(y)} {back},{number(y - 4)} {back},{number(y + 4)}"
    return f'<polygon points="{points}" fill="{fill}"/>'


def rectangle(box: Box, fill: str, line: str, *, radius: int) -> str:
    """Draw a rectangle with round corners."""
    return (
        f'<rect x="{number(box.left)}" y="{number(box.top)}" width="{number(box.width)}" '
        f'height="{number(box.height)}" rx="{radius}" fill="{fill}" stroke="{line}" stroke-width="1.5"/>'
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "middle",
    fill: str = "#111111",
    css: str = "",
    markup: bool = False,
) -> str:
    """Draw text whose vertical middle is at ``y``; ``markup`` is put in as it is."""
    kind = f' class="{css}"' if css else ""
    baseline = number(y + 0.35 * size)
    content = words if markup else escape(words)
    return (
        f'<text x="{number(x)}" y="{baseline}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}"{kind}>{content}</text>'
    )


def number(value: float) -> str:
    """Write at most one decimal, so that rounding cannot make two pictures differ."""
    return f"{value:.1f}".removesuffix(".0")
