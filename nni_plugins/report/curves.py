"""Small charts for a page: curves over epochs, and accuracy against latency."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_CHART = (4.4, 2.7)
_SCATTER = (7.2, 4.0)


class Point(NamedTuple):
    """A trained network."""

    label: str
    group: str
    latency_ms: float
    accuracy: float


def draw_curves(title: str, curves: Mapping[str, Sequence[float]], *, unit: str) -> str:
    """Draw curves over the epochs from 1 on.

    Parameters
    ----------
    title
        Heading of the chart.
    curves
        A number for every epoch (NaN for none) by what the curve is.
    unit
        What stands along y.

    Returns
    -------
    str
        The chart as SVG; the same numbers give the same text.
    """

    def draw(axes: Axes) -> None:
        for name, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, marker="." if len(values) <= 60 else "", label=name)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        axes.legend(frameon=False)

    return _drawn(_CHART, draw)


def draw_accuracy_latency(points: Sequence[Point]) -> str:
    """Draw accuracy against latency, the Pareto front as a line, a colour for every group; SVG."""

    def draw(axes: Axes) -> None:
        front = pareto_front(points)
        if len(front) > 1:
            latencies, accuracies = [p.latency_ms for p in front], [p.accuracy for p in front]
            axes.step(latencies, accuracies, where="post", color="#8a8a8a", linewidth=1, label="Pareto front")
        for group in dict.fromkeys(point.group for point in points):
            members = [point for point in points if point.group == group]
            axes.scatter([p.latency_ms for p in members], [p.accuracy for p in members], label=group, s=28, zorder=2)
        for point in points:
            axes.annotate(
                point.label, (point.latency_ms, point.accuracy), xytext=(5, 3), textcoords="offset points", fontsize=8
            )
        axes.set_xlabel("latency of the ONNX model, ms (p50, one image, one thread)")
        axes.set_ylabel("test accuracy, %")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return _drawn(_SCATTER, draw)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats: none is as fast and more accurate, or faster and as accurate."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency_ms, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def _drawn(size: tuple[float, float], draw: Callable[[Axes], Any]) -> str:
    with matplotlib.rc_context(
        {"svg.hashsalt": "curves", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}
    ):
        figure = Figure(size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
