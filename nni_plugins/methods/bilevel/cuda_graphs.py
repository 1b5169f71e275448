"""CUDA graphs: the one part of a replayed search that needs a GPU, and the refusal where there is none.

Nobody has run :class:`CudaGraphs` on a GPU yet. It is written after PyTorch's documentation of CUDA graphs, and what
uses it is tested on the CPU with a stand-in for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class CudaGraphs:
    """Captures steps as CUDA graphs, which share one pool of memory, as they never run at the same time."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

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
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: a data loader's thread may use the device meanwhile
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ValueError(f"cuda_graphs cannot capture this search ({reason}); leave cuda_graphs out.") from error
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
