"""CUDA graphs: the one part of a replayed search that needs a GPU, and the refusal where there is none.

Nobody has run :class:`CudaGraphs` on a GPU yet. It is written after PyTorch's documentation of CUDA graphs, and what
uses it is tested on the CPU with a stand-in for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class CudaGraphs:
    """Captures steps as CUDA graphs. Those that live at a time share their memory, as they never run at a time."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._latest: Callable[[], torch.cuda.CUDAGraph | None] = lambda: None

    def run(self, step: Callable[[], T]) -> T:
        """Run ``step`` uncaptured, on the stream on which it would be captured."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = step()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def capture(self, step: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Capture ``step``; return what it returned, which holds values after every replay, and what replays it.

        Raises
        ------
        ValueError
            If something in ``step`` cannot be captured.
        """
        graph, latest = torch.cuda.CUDAGraph(), self._latest()
        pool = None if latest is None else latest.pool()  # that of a graph that is gone cannot be used again
        try:
            # thread_local: a data loader's thread may use the device meanwhile
            with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                result = step()
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a capture that has failed raises an error of its own
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            reason = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
            raise ValueError(f"cuda_graphs cannot capture this search ({reason}); leave cuda_graphs out.") from error
        self._latest = weakref.ref(graph)
        return result, graph.replay


def refuse_missing_cuda() -> None:
    """Refuse CUDA graphs where there is no CUDA device.

    Raises
    ------
    ValueError
        As its name says.
    """
    if not torch.cuda.is_available():
        raise ValueError("cuda_graphs needs a CUDA device, and PyTorch finds none here; leave cuda_graphs out.")
