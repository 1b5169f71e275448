"""How the cells of a search changed: one picture with the derived operation of every edge in every epoch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nni_plugins.report.collapse import SKIP, picked_operations, skips_to_warn_at
from nni_plugins.report.operation_family import FAMILIES, in_order, operation_family
from nni_plugins.tools.atomic_files import atomic_write
from search_spaces.genotype import Genotype

_WIDTH = 9.0
_ROW_HEIGHT = 0.2
_CURVE_HEIGHT = 1.0
_SHARE_HEIGHT = 1.6
_HEADING_HEIGHT = 0.75


def draw_history(
    genotypes: Sequence[Genotype],
    path: str | Path | None = None,
    title: str | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Draw the cells of all epochs: epochs along x, one row per edge, one colour per operation, and the skip count.

    An edge that was not kept in an epoch stays white. The dashed line is where
    :func:`~nni_plugins.report.collapse.skip_warning` warns.

    Parameters
    ----------
    genotypes
        The derived architecture of every epoch, all of one space.
    path
        Where to write the picture; None writes nothing.
    title
        Heading of the picture.
    curves
        Shares from 0 to 1 by name, one number an epoch (NaN for none), drawn below the cells.

    Returns
    -------
    str
        The picture as SVG; the same history gives the same text.

    Raises
    ------
    ValueError
        If there is no epoch, the epochs belong to different spaces, or a curve has not a number for each.
    """
    if not genotypes:
        raise ValueError("A history needs the genotype of at least one epoch, got none.")
    if spaces := {genotype.space for genotype in genotypes} - {genotypes[0].space}:
        raise ValueError(f"A history is that of one space, got {genotypes[0].space} and {', '.join(sorted(spaces))}.")
    curves = dict(curves or {})
    for name, values in curves.items():
        if len(values) != len(genotypes):
            raise ValueError(f"The curve {name} has {len(values)} numbers for {len(genotypes)} epochs; give one each.")
    picks = [names for genotype in genotypes for names in picked_operations(genotype).values()]
    operations = in_order(name for names in picks for name in names)
    colours = _colours(operations)
    kinds = list(genotypes[0].cells)
    edges = {kind: _edges(genotypes, kind) for kind in kinds}
    heights = [height for kind in kinds for height in (_ROW_HEIGHT * len(edges[kind]), _CURVE_HEIGHT)]
    with matplotlib.rc_context({"svg.hashsalt": "history", "svg.fonttype": "none", "font.size": 9}):
        heights += [_SHARE_HEIGHT] if curves else []
        figure = Figure((_WIDTH, sum(heights) + _HEADING_HEIGHT * (len(kinds) + 1)), layout="constrained")
        axes = figure.subplots(len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        of_the_cells = axes[: 2 * len(kinds)]
        for kind, cells, curve in zip(kinds, of_the_cells[::2], of_the_cells[1::2], strict=True):
            _draw_cells(cells, genotypes, kind, edges[kind], colours)
            _draw_skips(curve, genotypes, kind, warns=kind == kinds[0])
        if curves:
            _draw_curves(axes[-1], curves)
        axes[-1].set_xlabel("epoch")
        axes[-1].set_xlim(0.5, len(genotypes) + 0.5)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Patch(facecolor=colours[operation], label=operation) for operation in operations]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(title or f"Cells of the {genotypes[0].space} space over the epochs of a search")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    if path is not None:
        atomic_write(path, text.getvalue())
    return text.getvalue()


def _edges(genotypes: Sequence[Genotype], kind: str) -> list[tuple[int, int]]:
    """Return every edge of a cell as (source, target), target by target."""
    first = genotypes[0].num_inputs
    targets = range(first, first + len(genotypes[0].cells[kind]))
    return [(source, target) for target in targets for source in range(target)]


def _draw_cells(
    axes: Axes, genotypes: Sequence[Genotype], kind: str, edges: list[tuple[int, int]], colours: dict[str, str]
) -> None:
    for epoch, genotype in enumerate(genotypes, start=1):
        kept: dict[tuple[int, int], list[str]] = {}
        for target, node in enumerate(genotype.cells[kind], start=genotype.num_inputs):
            for operation, source in node:
                kept.setdefault((source, target), []).append(operation)
        for edge, operations in kept.items():
            height = 0.86 / len(operations)
            for part, operation in enumerate(operations):
                bottom = edges.index(edge) - 0.43 + part * height
                axes.broken_barh([(epoch - 0.5, 1)], (bottom, height), facecolors=colours[operation])
    axes.set_yticks(range(len(edges)), [f"{source} → {target}" for source, target in edges])
    axes.set_ylim(len(edges) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title(kind if kind.endswith("cell") else f"{kind} cell", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_skips(axes: Axes, genotypes: Sequence[Genotype], kind: str, *, warns: bool) -> None:
    picks = [picked_operations(genotype)[kind] for genotype in genotypes]
    skips, too_many = [names.count(SKIP) for names in picks], [skips_to_warn_at(len(names)) for names in picks]
    edges = [epoch + 0.5 for epoch in range(len(picks) + 1)]
    axes.stairs(skips, edges, baseline=None, color=FAMILIES[operation_family(SKIP)][1], linewidth=1.5)
    if warns:
        axes.stairs(too_many, edges, baseline=None, color="#8a8a8a", linestyle="--", linewidth=0.8)
    axes.set_ylim(-0.2, max(*skips, *too_many) + 0.8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("skips")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[float]]) -> None:
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker=".", linewidth=1.5, label=name)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share")
    axes.set_title("how far the search has decided", loc="left", fontweight="bold")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _colours(operations: list[str]) -> dict[str, str]:
    """Return a colour for every operation: the line colour of its family, ever paler within the family."""
    colours = {}
    for family, (fill, line) in FAMILIES.items():
        members = [operation for operation in operations if operation_family(operation) == family]
        for place, operation in enumerate(members):
            pale = 0.75 * place / len(members)
            mixed = [(1 - pale) * strong + pale * weak for strong, weak in zip(to_rgb(line), to_rgb(fill), strict=True)]
            colours[operation] = "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
    return colours
