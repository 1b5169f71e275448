"""A stand-in for CUDA graphs: the list of tensor operations that a step was, to be computed again on the same memory.

With it the code around CUDA graphs is tested on the CPU: like a graph it holds fixed all that Python decided, works in
fixed memory, raises no tensor's version at a replay, and takes no step that waits for the device. It says nothing about
whether CUDA can capture a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
aten = torch.ops.aten
WAITING = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default)
UNFILLED = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided)
"""Of no use to a replay, whose memory is there."""


class OperationList(TorchDispatchMode):
    """Keeps every operation, with the tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITING, f"{func} waits for the device"
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket not in UNFILLED:
            self.operations.append((func, args, kwargs or {}, output))
        return output

    @torch.no_grad()
    def compute(self) -> None:
        for func, args, kwargs, places in self.operations:
            values = func(*args, **kwargs)
            for place, value in zip(pytree.tree_leaves(places), pytree.tree_leaves(values), strict=True):
                if isinstance(place, torch.Tensor) and place is not value:
                    place.copy_(value)


class CPUGraphs:
    """Captures on the CPU.

    Parameters
    ----------
    unversioned
        Tensors whose version a replay does not raise, as a graph's replay raises none.

    Attributes
    ----------
    captures, replays, runs
        How often it has captured, replayed and run a step uncaptured.
    """

    def __init__(self, unversioned: Callable[[], Sequence[torch.Tensor]] = lambda: ()) -> None:
        self._unversioned = unversioned
        self.captures = self.replays = self.runs = 0

    def run(self, step: Callable[[], T]) -> T:
        self.runs += 1
        return step()

    def capture(self, step: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Capture; unlike a graph this computes the step, for which the first replay computes nothing."""
        self.captures += 1
        with OperationList() as operations:
            result = step()
        computed = True

        def replay() -> None:
            nonlocal computed
            self.replays += 1
            if not computed:
                with torch.autograd._unsafe_preserve_version_counter(tuple(self._unversioned())):
                    operations.compute()
            computed = False

        return result, replay
