"""Cells from the papers, ``(operation, input)`` for two connections per node 2..5."""

from __future__ import annotations

from .genotype import Connection, Genotype

_SHORT = {
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "av": "avg_pool_3x3",
    "mx": "max_pool_3x3",
    "id": "skip_connect",
}

# space, the method that found it, each kind of cell as in the papers' tables: nodes separated by "/", connections as
# operation,input
_PUBLISHED: dict[str, tuple[str, str, dict[str, str]]] = {
    "bnas_v2_clr_v1": ("bcnn", "bnas_v2_clr", {
        "convolution": "s3,1 s3,0 / s3,1 av,2 / s5,1 s3,3 / s3,1 d3,2",
        "enhancement": "av,0 d3,1 / av,0 av,2 / av,2 av,3 / av,2 mx,1",
    }),
    "bnas_v2_clr_v2": ("bcnn", "bnas_v2_clr", {
        "convolution": "s3,1 mx,0 / mx,1 s3,0 / s3,0 s3,1 / s3,1 d3,4",
        "enhancement": "av,0 d5,1 / av,2 av,0 / av,2 av,3 / mx,1 av,3",
    }),
    "bnas_v2_pc_v1": ("bcnn", "bnas_v2_pc", {
        "convolution": "s3,1 s3,0 / d5,2 s3,1 / s3,1 s3,2 / s5,1 s5,2",
        "enhancement": "d3,0 id,1 / d3,1 id,2 / mx,1 d5,0 / id,1 mx,0",
    }),
    "bnas_v2_pc_v2": ("bcnn", "bnas_v2_pc", {
        "convolution": "s3,1 s3,0 / s5,1 s5,2 / s3,1 s3,2 / s5,1 d3,4",
        "enhancement": "id,0 id,1 / d3,1 id,0 / mx,0 id,1 / mx,0 mx,1",
    }),
    "bnas_v2_pc_image": ("bcnn", "bnas_v2_pc", {
        "convolution": "s5,1 s3,0 / id,2 s3,1 / s5,1 s3,3 / s3,4 s3,3",
        "enhancement": "id,1 d5,0 / mx,1 id,2 / id,1 mx,2 / s3,1 d3,3",
    }),
    "darts_v2": ("darts", "darts_second_order", {
        "normal": "s3,0 s3,1 / s3,0 s3,1 / s3,1 id,0 / id,0 d3,2",
        "reduce": "mx,0 mx,1 / id,2 mx,1 / mx,0 id,2 / id,2 mx,1",
    }),
    "pc_darts_cifar": ("darts", "pc_darts", {
        "normal": "s3,1 id,0 / s3,0 d3,1 / s5,0 s3,1 / av,0 d3,1",
        "reduce": "s5,1 mx,0 / s5,1 s5,2 / s3,0 s3,3 / s3,1 s3,2",
    }),
    "relative_nas": ("darts", "relative_nas", {
        "normal": "s3,0 d5,1 / s3,1 s3,1 / s3,1 s5,1 / id,0 s3,0",
        "reduce": "av,1 mx,1 / d5,1 mx,1 / av,3 id,1 / d5,3 s3,1",
    }),
}  # fmt: skip


def published_names() -> list[str]:
    """Return the names that :func:`published` knows."""
    return list(_PUBLISHED)


def published(name: str) -> Genotype:
    """Return a cell pair from a paper.

    Parameters
    ----------
    name
        One of :func:`published_names`: the BNAS-v2 cells (arXiv 2009.08886), DARTS_V2 (arXiv 1806.09055), PC-DARTS's
        CIFAR cell (arXiv 1907.05737) and RelativeNAS's (arXiv 2009.06193), all from the released code.

    Raises
    ------
    ValueError
        If the name is not known; the message lists the valid ones.
    """
    if name not in _PUBLISHED:
        raise ValueError(f"Unknown published genotype {name!r}; expected one of {', '.join(_PUBLISHED)}.")
    space, _, cells = _PUBLISHED[name]
    return Genotype(space, {kind: _parse(text) for kind, text in cells.items()})


def published_by(name: str) -> str:
    """Return the method that found a published cell, by whose recipe its paper evaluates it.

    Parameters
    ----------
    name
        One of :func:`published_names`.
    """
    return _PUBLISHED[name][1]


def _parse(text: str) -> tuple[tuple[Connection, ...], ...]:
    nodes = []
    for node in text.split("/"):
        pairs = [connection.split(",") for connection in node.split()]
        nodes.append(tuple(Connection(_SHORT[operation], int(source)) for operation, source in pairs))
    return tuple(nodes)
