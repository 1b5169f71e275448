"""How well a supernet speaks for the network that is derived from it.

    gap = accuracy of the supernet - accuracy of the same weights with every mixture switched to its derived connections

EnTranNAS brings the gap down; with EnTranNAS-DST and one operation left on every live edge it is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_plugins.supernet.cell import MixedCell
from nni_plugins.supernet.choice import MixedInput, MixedLayer
from nni_plugins.tools.ranks import summed


class Consistency(NamedTuple):
    """Accuracies in percent."""

    supernet: float
    derived: float

    @property
    def gap(self) -> float:
        """Percentage points by which the supernet is better than its derived sub-graph."""
        return self.supernet - self.derived


def mixtures_of(module: nn.Module) -> list[MixedCell | MixedLayer | MixedInput]:
    """Return every mixture inside ``module``, in the order of the network."""
    return [m for m in module.modules() if isinstance(m, (MixedCell, MixedLayer, MixedInput))]


@contextmanager
def derived_subgraph(module: nn.Module, sample: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Make every mixture in ``module`` run its derived connections alone, unweighted, inside the block.

    Parameters
    ----------
    module
        A supernet, or anything that contains one.
    sample
        NNI's sample of an architecture to run in place of the derived one, with the supernet's weights.

    Raises
    ------
    ValueError
        If the sample does not describe an architecture of the space.
    """
    mixtures = mixtures_of(module)
    before = [mixture.derived_only for mixture in mixtures]
    try:
        for mixture in mixtures:
            mixture.architecture.choose(sample)
            mixture.derived_only = True
        yield
    finally:
        for mixture, derived_only in zip(mixtures, before, strict=True):
            mixture.architecture.choose(None)
            mixture.derived_only = derived_only


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Make every BatchNorm normalise with the batch at hand and leave its running statistics alone, inside the block.

    Running statistics are those of the mixture; a sub-graph's features are distributed differently.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, (training, tracks) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, tracks


@torch.no_grad()
def consistency(
    supernet: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], *, running_statistics: bool = False
) -> Consistency:
    """Measure the accuracy of a supernet and of its derived sub-graph, in one pass through the data.

    Parameters
    ----------
    supernet
        From images to logits (batch, classes).
    batches
        Images and labels, on the supernet's device; where several processes take part, each one's share of them.
    running_statistics
        Whether BatchNorm normalises with its running statistics, or with those of every batch. The paper does not say;
        the former punish the sub-graph for not being the mixture.

    Raises
    ------
    ValueError
        If there are no batches.
    """
    correct, seen = torch.zeros(2, dtype=torch.long), 0
    with evaluating(supernet, running_statistics=running_statistics):
        for images, labels in batches:
            mixed = supernet(images)
            with derived_subgraph(supernet):
                derived = supernet(images)
            correct += torch.stack([(logits.argmax(1) == labels).sum() for logits in (mixed, derived)]).cpu()
            seen += len(labels)
    mixed_correct, derived_correct, images_seen = summed([*correct.tolist(), seen])
    if not images_seen:
        raise ValueError("Consistency is measured on data, but there is not one batch; pass validation batches.")
    return Consistency(100 * mixed_correct / images_seen, 100 * derived_correct / images_seen)


@contextmanager
def evaluating(module: nn.Module, *, running_statistics: bool = False) -> Iterator[None]:
    """Put ``module`` in evaluation mode inside the block; BatchNorm uses the batch unless ``running_statistics``."""
    before = [(inner, inner.training) for inner in module.modules()]
    module.eval()
    try:
        if running_statistics:
            yield
        else:
            with batch_statistics(module):
                yield
    finally:
        for inner, training in before:
            inner.training = training
