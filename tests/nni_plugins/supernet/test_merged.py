"""Merged edges against one edge after the other: the same function, the same gradients, the same state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nni.nas.hub.pytorch import DARTS as HubDARTS
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nni_plugins import BatchNormOnly, BilevelSearch, EdgeNormalisation, PartialChannels, PerSource
from nni_plugins.supernet.cell import MixedCell
from nni_plugins.supernet.consistency import batch_statistics
from search_spaces import BCNN, DARTSSpace, NASBench201, RobustDARTS
from tests.nni_plugins.methods.searching import CLASSES, OneCell, Probe, of_architecture, search

PARTIAL = {"relaxation": EdgeNormalisation(), "channels": PartialChannels(2)}
FROZEN = {"trains": BatchNormOnly()}
SPACES: dict[str, Callable[[], ModelSpace]] = {
    "bcnn": partial(BCNN, channels=4, deep_cells=1),
    "darts": partial(DARTSSpace, channels=4, layers=3),
    "nasbench201": partial(NASBench201, channels=4, cells=1),
    "s4": partial(RobustDARTS, space="s4", channels=4, layers=3),
    "hub": partial(HubDARTS, width=4, num_cells=3, dataset="cifar"),
}
CASES = [
    ("bcnn", {}), ("bcnn", PARTIAL), ("bcnn", FROZEN),
    ("darts", {}), ("darts", PARTIAL), ("darts", FROZEN), ("darts", {**PARTIAL, **FROZEN}),
    ("nasbench201", {}), ("nasbench201", FROZEN),
    ("hub", {}), ("hub", PARTIAL),
]  # fmt: skip


def supernet_of(space: str, settings: dict[str, Any], *, merge_edges: bool | None) -> Any:
    torch.manual_seed(0)
    supernet: Any = BilevelSearch(merge_edges=merge_edges, **settings).mutate_model(SPACES[space]()).double()
    with torch.no_grad():
        for parameter in supernet.parameters():  # affine parameters and architecture are not as they start
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for module in supernet.modules():
            if isinstance(module, nn.BatchNorm2d):
                statistics: Any = module
                statistics.running_mean.normal_()
                statistics.running_var.uniform_(0.5, 2)
    return supernet


def images(size: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)


def cells_of(supernet: nn.Module) -> list[MixedCell]:
    return [module for module in supernet.modules() if isinstance(module, MixedCell)]


def statistics_of(supernet: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in supernet.named_buffers() if "running" in name}


def gradients_of(supernet: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}


def close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, check_stride=False, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize(("space", "settings"), CASES, ids=str)
def test_equal_to_one_edge_after_the_other(space: str, settings: dict[str, Any]) -> None:
    pair = plain, merged = [supernet_of(space, settings, merge_edges=merge) for merge in (False, True)]
    inputs = images(8 if space == "nasbench201" else 9)  # its residual blocks take no odd sizes
    assert all(sum(len(uses.merged) for uses in cell._uses.values()) for cell in cells_of(merged))
    close(dict(merged.state_dict()), dict(plain.state_dict()))
    assert list(merged.state_dict()) == list(plain.state_dict())
    for _ in range(2):  # running statistics add up
        outputs = [supernet.train()(inputs) for supernet in pair]
        torch.testing.assert_close(outputs[1], outputs[0])
        for output in outputs:
            F.cross_entropy(output, torch.arange(3)).backward()
    gradients = [gradients_of(supernet) for supernet in pair]
    assert {name for name, p in plain.named_parameters() if p.requires_grad} == gradients[0].keys()
    close(gradients[1], gradients[0])
    close(statistics_of(merged), statistics_of(plain))
    torch.testing.assert_close(merged.eval()(inputs), plain.eval()(inputs))
    with batch_statistics(plain), batch_statistics(merged):
        torch.testing.assert_close(merged(inputs), plain(inputs))
    close(statistics_of(merged), statistics_of(plain))


@pytest.mark.parametrize(("channels", "together"), [(4, {2, 3, 4}), (8, {2, 3, 4}), (12, {2}), (16, set())])
def test_by_default_a_cpu_merges_few_channels_up_to_a_width(
    channels: int, together: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to four edges leave a node; 32 channels hold two operations of 12."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    supernet: Any = BilevelSearch().mutate_model(DARTSSpace(channels=channels, layers=3))
    first = cells_of(supernet)[0]
    uses = [use for uses in first._uses.values() for use in uses.merged]
    assert {len(use.keys) for use in uses} == together
    assert all(isinstance(first.operations[key].norm, nn.BatchNorm2d) for use in uses for key in use.keys)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    supernet = BilevelSearch().mutate_model(DARTSSpace(channels=channels, layers=3))
    assert not any(uses.merged for cell in cells_of(supernet) for uses in cell._uses.values())


def test_operations_that_differ_between_edges() -> None:
    """In S4 an edge has a convolution and noise, of which no two edges may share a draw."""
    merged = supernet_of("s4", {}, merge_edges=True)
    F.cross_entropy(merged(images()), torch.arange(3)).backward()
    for cell in cells_of(merged):
        keys = [key for uses in cell._uses.values() for use in uses.merged for key in use.keys]
        noise = [key for key, operation in cell.operations.items() if "Noise" in repr(operation)]
        last = [key for key in cell.operations if key.startswith("4_5")]  # the source of a single edge
        assert len(keys) == 13
        assert set(cell.operations) - set(keys) == {*noise, *last}


@pytest.mark.parametrize("settings", [{}, PARTIAL, FROZEN], ids=["all channels", "partial channels", "frozen"])
def test_channels_last(settings: dict[str, Any]) -> None:
    plain, merged = (supernet_of("darts", settings, merge_edges=merge) for merge in (False, True))
    merged = merged.to(memory_format=torch.channels_last)
    inputs = images(8)
    output = merged(inputs.to(memory_format=torch.channels_last))
    torch.testing.assert_close(output, plain(inputs))
    F.cross_entropy(output, torch.arange(3)).backward()
    F.cross_entropy(plain(inputs), torch.arange(3)).backward()
    for (name, parameter), other in zip(plain.named_parameters(), merged.parameters(), strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(
                other.grad, parameter.grad, check_stride=False, msg=partial("{}: {}".format, name)
            )


def test_the_layout_of_the_images_is_kept() -> None:
    merged = supernet_of("darts", {}, merge_edges=True).to(memory_format=torch.channels_last)
    layouts = []
    for cell in cells_of(merged):
        cell.register_forward_hook(
            lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    merged(images(8).to(memory_format=torch.channels_last))
    assert layouts == [True] * 3


def convolutions(supernet: nn.Module) -> int:
    """Return how many convolutions and matrix products one forward pass is."""

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += func in (torch.ops.aten.convolution.default, torch.ops.aten.bmm.default)
            return func(*args, **(kwargs or {}))

    with Count() as count, torch.no_grad():
        supernet(images())
    return count.calls


def test_a_source_is_convolved_once_for_all_targets() -> None:
    """14 edges leave 5 sources of a DARTS cell, the last of which feeds one target."""
    plain, merged = (supernet_of("darts", {}, merge_edges=merge) for merge in (False, True))
    per_edge = 2 + 2 + 4 + 4  # dilated: depthwise, 1x1; separable: the same twice
    outside = convolutions(plain) - 3 * 14 * per_edge - 2 * 8 * 2  # and a factorized reduction on 8 edges of 2 cells
    assert convolutions(merged) == outside + 3 * 5 * per_edge + 2 * 2 * 2


def test_what_is_not_known_is_computed_one_by_one() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class Space(OneCell):
        def __init__(self) -> None:
            super().__init__(make_cell=lambda channels: Cell(
                {"own": lambda *_: nn.Sequential(Doubled(channels, channels, 1)),
                 "counting": lambda *_: nn.Sequential(nn.Conv2d(channels, channels, 1),
                                                      nn.BatchNorm2d(channels, momentum=None)),
                 "biased": lambda *_: nn.Conv2d(channels, channels, 3, padding=1)},
                num_nodes=2, num_ops_per_node=1, num_predecessors=1, label="cell"))  # fmt: skip

    outputs = []
    for merge_edges in (False, True):
        torch.manual_seed(0)
        supernet: Any = BilevelSearch(merge_edges=merge_edges).mutate_model(Space()).double()
        outputs.append(supernet(images()[:, :1]))
    torch.testing.assert_close(outputs[1], outputs[0])
    merged = [use.keys for uses in supernet.cell._uses.values() for use in uses.merged]
    assert merged == [("0_1_biased", "0_2_biased")]


def test_a_search_ends_where_the_unmerged_one_does() -> None:
    ended = []
    for merge_edges in (False, True):
        torch.manual_seed(0)
        strategy = BilevelSearch(merge_edges=merge_edges, arch_learning_rate=0.01, unrolled=True)
        supernet: Any = strategy.mutate_model(OneCell()).double()
        search(strategy, supernet, Probe(), steps=4, prepare=torch.Tensor.double)
        ended.append({name: value for name, value in supernet.state_dict().items() if "num_batches" not in name})
    close(ended[1], ended[0])


# Refusals


class Layers(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Conv2d(1, CLASSES, 3), nn.Conv2d(1, CLASSES, 5)], label="layer")


def test_refused_where_there_is_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match="merge_edges must be false with features=PerSource"):
        BilevelSearch(merge_edges=True, features=PerSource())
    strategy = BilevelSearch(merge_edges=True)
    for space in (Layers(), OneCell(make_cell=lambda channels: single_node(channels))):
        with pytest.raises(ValueError, match="has no Cell with such edges; leave merge_edges out"):
            strategy.mutate_model(space)
        assert of_architecture(space) == {}, "nothing was changed"


def single_node(channels: int) -> Cell:
    return Cell([nn.Conv2d(channels, channels, 1)] * 2, num_nodes=1, num_ops_per_node=1, num_predecessors=1, label="c")
