"""What a piece of work would take if the machine did nothing but multiply, or nothing but copy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 10
SIDE = 1024
"""Of the matrices that are multiplied, float32."""
BYTES = 256 * 1024**2
"""Of the copy, more than the caches of a core hold."""


@dataclass
class Work:
    """Floating point operations (a multiply-add is two) and bytes read and written, each operation for itself."""

    flops: int = 0
    bytes: int = 0


class _Moved(TorchDispatchMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = any(returned.alias_info and not returned.alias_info.is_write for returned in func._schema.returns)
        if not is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self._work.bytes += sum(tensor.nbytes for tensor in tensors)
        return result


@contextmanager
def counted() -> Iterator[Work]:
    """Count the work inside the block, the backward pass included."""
    work = Work()
    with FlopCounterMode(display=False) as flops, _Moved(work):
        yield work
    work.flops = flops.get_total_flops()


def machine_limit() -> tuple[float, float]:
    """Return the floating point operations a second of a plain product, and the bytes a second of a plain copy.

    A copy of n bytes counts twice: it reads and writes them. The best of several repeats, with the threads of torch.
    """
    left, right = torch.randn(2, SIDE, SIDE)
    source = torch.ones(BYTES // 4)
    target = torch.empty_like(source)
    return 2 * SIDE**3 / _best(lambda: left @ right), 2 * BYTES / _best(lambda: target.copy_(source))


def _best(run: Any) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
