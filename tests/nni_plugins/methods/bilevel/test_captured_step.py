"""When a step is captured and replayed, and that a replay is the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn

from nni_plugins.methods.bilevel.captured_step import STEPS_BEFORE_CAPTURE, CapturedStep, deferred_updates
from nni_plugins.methods.bilevel.cuda_graphs import refuse_missing_cuda
from tests.nni_plugins.methods.bilevel.cpu_graphs import CPUGraphs


class Descent(nn.Module):
    """Descent on ``mean((w - x) ** 2)`` at a rate that is a number of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.rate = 0.1
        self.mean = torchmetrics.MeanMetric()
        self.calls: list[int] = []

    def step(self, batch: Any, number: int) -> torch.Tensor:
        self.calls.append(number)
        loss = (self.w - batch["x"]).square().mean()
        (gradient,) = torch.autograd.grad(loss, [self.w])
        with torch.no_grad():
            self.w.sub_(self.rate * gradient)
        self.mean.update(loss.detach())
        return loss


class Captured:
    """A descent that is captured, and the same one that is not."""

    def __init__(self) -> None:
        self.descent, self.plain, self.graphs = Descent(), Descent(), CPUGraphs()
        self.replayed = 0
        self._step = CapturedStep(self.descent.step, lambda: self.descent.rate, self.graphs, self.descent, self._count)

    def _count(self) -> None:
        self.replayed += 1

    def step(self, number: int, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(images, 2, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        return self._step({"x": x, "text": "a"}, number), self.plain.step({"x": x}, number).detach()

    def set_rate(self, rate: float) -> None:
        self.descent.rate = self.plain.rate = rate


def test_a_replay_is_the_step_without_its_python_code() -> None:
    case = Captured()
    losses = [case.step(number) for number in range(7)]
    assert STEPS_BEFORE_CAPTURE == 2
    assert case.descent.calls == [0, 1, 2]  # the last is the capture
    assert (case.graphs.runs, case.graphs.captures, case.graphs.replays) == (2, 1, 5)
    assert case.replayed == 4
    for loss, expected in losses:  # all at the end: none was overwritten by a later one
        assert torch.equal(loss, expected) and not loss.requires_grad
    assert torch.equal(case.descent.w, case.plain.w)
    assert case.descent.mean.update_count == 7
    assert torch.equal(case.descent.mean.compute(), case.plain.mean.compute())


def test_what_a_recording_holds_fixed_is_recorded_anew() -> None:
    case = Captured()
    for number in range(15):
        if number in (5, 10):
            case.set_rate(0.3 if number == 5 else 0.01)
        case.step(number)
        assert torch.equal(case.descent.w, case.plain.w), number
    assert case.descent.calls == [0, 1, 2, 5, 6, 7, 10, 11, 12]


def test_a_batch_of_another_size_has_a_recording_of_its_own() -> None:
    case = Captured()
    for number, images in enumerate([3, 3, 3, 3, 2, 3, 3, 3, 3]):
        loss, expected = case.step(number, images)
        assert torch.equal(loss, expected)
    assert case.descent.calls == [0, 1, 2, 4, 5, 6, 7]


def test_what_changes_at_every_step_is_never_recorded() -> None:
    case = Captured()
    for number in range(6):
        case.set_rate(0.1 / (1 + number))
        case.step(number)
    assert torch.equal(case.descent.w, case.plain.w)
    assert case.graphs.captures == 0


def test_updates_of_metrics_are_made_later_and_only_inside_the_block_deferred() -> None:
    descent = Descent()
    with deferred_updates(descent) as updates:
        descent.mean.update(torch.tensor(2.0))
    assert not descent.mean.update_called and len(updates) == 1
    descent.mean.update(torch.tensor(4.0))
    assert descent.mean.compute() == 4
    updates[0]()
    assert descent.mean.compute() == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_refused_where_there_is_no_device() -> None:
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, and PyTorch finds none here"):
        refuse_missing_cuda()
