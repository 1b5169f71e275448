"""A step that is captured once and replayed: when it is captured anew, where its batches go, what a replay leaves out.

A captured step is a list of kernels over fixed memory. A replay runs no Python, so that

- what Python decided stays decided: shapes, learning rates, which connections run. When any of it changes, the step
  runs uncaptured a few times and is then captured anew;
- a batch is copied to where the captured one lay, and a loss is copied before the next replay overwrites it;
- metrics are updated afterwards, with what the kernels have put out.

Nothing here needs a GPU: what captures is a :class:`Graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torchmetrics
from torch import nn
from torch.utils import _pytree as pytree

STEPS_BEFORE_CAPTURE = 2
"""Steps that run uncaptured after every change: they make what is made once (an optimiser's buffers, a library's
workspace), and while connections change at every step none is captured in vain."""

T = TypeVar("T")


class Graphs(Protocol):
    """What captures steps."""

    def run(self, step: Callable[[], T]) -> T:
        """Run ``step`` uncaptured, where it would be captured."""

    def capture(self, step: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Capture ``step`` without computing anything; return what it returned, and what replays it.

        The tensors returned, and all that ``step`` has kept of its own, hold values after every replay.
        """


class _Graph(NamedTuple):
    inputs: list[Any]
    """Leaves of the batch, tensors of fixed memory among them."""
    loss: torch.Tensor
    replay: Callable[[], None]
    updates: list[Callable[[], None]]
    """Of metrics, to be made after every replay."""


class CapturedStep:
    """A step from a batch to its loss that is replayed as long as nothing changes that a graph holds fixed.

    Parameters
    ----------
    step
        From a batch (tensors in tuples, lists and dicts) and its number to the loss; steps parameters in place.
    fixed
        Returns what a graph holds fixed besides the form of the batch; compared with ``==``.
    graphs
        Captures it.
    metrics
        The module whose torchmetrics ``step`` updates.
    replayed
        Called after every replay at which the Python code of ``step`` has not run.
    """

    def __init__(
        self,
        step: Callable[[Any, int], torch.Tensor],
        fixed: Callable[[], object],
        graphs: Graphs,
        metrics: nn.Module,
        replayed: Callable[[], None],
    ) -> None:
        self._step = step
        self._fixed = fixed
        self._graphs = graphs
        self._metrics = metrics
        self._replayed = replayed
        self._held: object = None
        self._steps = 0
        self._graph: _Graph | None = None

    def __call__(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss on ``batch``, a tensor of its own without history.

        In a replay ``step`` does not see ``batch_idx``.
        """
        leaves, form = pytree.tree_flatten(batch)
        held = form, [_form(leaf) for leaf in leaves], self._fixed()
        if held != self._held:
            self._held, self._steps, self._graph = held, 0, None
        if self._steps < STEPS_BEFORE_CAPTURE:
            self._steps += 1
            return self._graphs.run(lambda: self._step(batch, batch_idx)).detach()
        if self._graph is None:
            self._graph = self._capture(leaves, form, batch_idx)
            self._graph.replay()
        else:
            for place, leaf in zip(self._graph.inputs, leaves, strict=True):
                if isinstance(leaf, torch.Tensor):
                    place.copy_(leaf)
            self._graph.replay()
            self._replayed()
        for update in self._graph.updates:
            update()
        return self._graph.loss.clone()

    def _capture(self, leaves: list[Any], form: Any, batch_idx: int) -> _Graph:
        inputs = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        batch = pytree.tree_unflatten(inputs, form)
        with deferred_updates(self._metrics) as updates:
            loss, replay = self._graphs.capture(lambda: self._step(batch, batch_idx).detach())
        return _Graph(inputs, loss, replay, updates)


def _form(leaf: Any) -> object:
    """Return what a graph holds fixed of one part of a batch: all of it, unless it is a tensor."""
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else leaf


@contextmanager
def deferred_updates(module: nn.Module) -> Iterator[list[Callable[[], None]]]:
    """Note the updates of all torchmetrics in ``module`` inside the block, in place of making them."""
    updates: list[Callable[[], None]] = []

    def note(update: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        updates.append(partial(update, *args, **kwargs))

    metrics = [(metric, metric.update) for metric in module.modules() if isinstance(metric, torchmetrics.Metric)]
    for metric, update in metrics:
        metric.update = partial(note, update)  # type: ignore[method-assign]
    try:
        yield updates
    finally:
        for metric, update in metrics:
            metric.update = update  # type: ignore[method-assign]
