"""The DARTS space with a learnable topology, as EnTranNAS-DST (arXiv 2101.11342) searches it.

A node keeps any number of connections, at least one, and several operations from one predecessor if it likes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from .cells import Stem
from .darts import DARTSSpace
from .layout import LAYOUTS


class AnyDARTSSpace(DARTSSpace):
    """:class:`DARTSSpace` whose nodes keep any number of connections; the seven operations without ``none``.

    In the evaluation net drop-path drops every connection on its own.

    Parameters
    ----------
    num_classes, in_channels, stem, channels, layers, operations, drop_path, auxiliary
        As in :class:`DARTSSpace`.

    Raises
    ------
    ValueError
        If the sizes do not fit together, or ``none`` is among the operations.
    """

    connections: ClassVar[Literal[2, "any"]] = "any"

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        stem: Stem = "cifar",
        channels: int = 16,
        layers: int = 8,
        operations: tuple[str, ...] = LAYOUTS["darts_any"].operations,
        drop_path: float = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels, stem, channels, layers, operations, drop_path, auxiliary)
