"""Memory that does not hold a batch: one sentence with the batch size to try."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

_ON_A_GPU = re.compile("CUDA.*out of memory|CU(DNN|BLAS)_STATUS_ALLOC_FAILED", re.DOTALL)
_ON_THE_CPU = re.compile("DefaultCPUAllocator|alloc_cpu|bad_alloc")


@contextlib.contextmanager
def advising_a_smaller_batch(work: str, setting: str, batch_size: int) -> Iterator[None]:
    """Turn what torch raises when memory runs out inside the block into a sentence that says what to set.

    Parameters
    ----------
    work
        What the block does, for the message.
    setting
        The setting that says how large its batches are.
    batch_size
        Its value.

    Raises
    ------
    MemoryError
        If memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if (memory := _exhausted(error)) is None:
            raise
        raise MemoryError(
            f"{memory} ran out in the {work} with {setting}={batch_size}; {_instead(setting, batch_size)}, which is a "
            "different run and begins anew. Or free what other processes hold of it and run the same again, to resume "
            "after the last finished epoch."
        ) from error


def _exhausted(error: Exception) -> str | None:
    """Return which memory an exception says to be full; None if it says something else."""
    if isinstance(error, torch.OutOfMemoryError) or _ON_A_GPU.search(str(error)):
        return "The GPU's memory"
    if isinstance(error, MemoryError) or _ON_THE_CPU.search(str(error)):
        return "Memory"
    return None


def _instead(setting: str, batch_size: int) -> str:
    """Return what to set: the power of two that is half the batch, or the next below that."""
    if batch_size < 2:
        return "choose a smaller network (space.* in a search, net.* in a retraining)"
    return f"try {setting}={1 << (batch_size // 2).bit_length() - 1}"
