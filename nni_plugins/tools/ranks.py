"""The processes of a data-parallel training, its ranks, taken together: their number, sums and means over all of them.

Every function is for a single process as well, where it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist


def number_of_ranks() -> int:
    """Return how many processes train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if number_of_ranks() > 1 else 0


@torch.no_grad()
def average_(tensors: Iterable[torch.Tensor]) -> None:
    """Replace every tensor, in place, by its mean over all ranks, which have to call this with tensors of like shapes.

    All ranks get the same bits. Tensors of one type travel together, in one message.
    """
    ranks = number_of_ranks()
    if ranks == 1:
        return
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for alike in by_type.values():
        together = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(together)
        together /= ranks
        for tensor, mean in zip(alike, together.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def averaged(numbers: Sequence[float]) -> list[float]:
    """Return the mean of every number over all ranks."""
    ranks = number_of_ranks()
    return [total / ranks for total in summed(numbers)] if ranks > 1 else list(numbers)


def summed(numbers: Sequence[float]) -> list[float]:
    """Return the sum of every number over all ranks."""
    if number_of_ranks() == 1:
        return list(numbers)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    totals = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return totals.tolist()


def take_from_the_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give all ranks, in place, what the first one has."""
    if number_of_ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
