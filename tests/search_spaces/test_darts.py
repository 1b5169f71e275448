"""The DARTS space and S1 to S4: sizes, shapes, per-edge candidates, and NNI's own strategies on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nni
import nni.nas.strategy as nni_strategies
import pytest
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from numpy.random import RandomState
from torch import nn

from nni_plugins import BilevelSearch
from search_spaces import DARTSSpace, Genotype, NASBench201, RobustDARTS, evaluation_net, published, space_spec
from search_spaces.cells import cell_operation
from search_spaces.darts import ROBUST_DARTS
from search_spaces.darts.network import AuxiliaryHead
from search_spaces.operations import Noise

SMALL: dict[str, Any] = {"channels": 4, "layers": 3}
SMALL_SPACES: dict[str, tuple[Callable[..., ModelSpace], dict[str, Any]]] = {
    "darts": (DARTSSpace, SMALL),
    "nasbench201": (NASBench201, {"channels": 4, "cells": 1}),
    **{name: (RobustDARTS, {"space": name, **SMALL}) for name in ROBUST_DARTS},
}


def small(name: str) -> ModelSpace:
    torch.manual_seed(0)
    make, sizes = SMALL_SPACES[name]
    return make(**sizes)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def count_without_alpha(net: nn.Module) -> int:
    return sum(p.numel() for name, p in net.named_parameters() if ".architecture." not in name)


def sampled(space: ModelSpace, seed: int = 0) -> dict[str, Any]:
    sample: dict[str, Any] = {}
    space.random(sample, RandomState(seed))
    return sample


# Sizes


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (DARTSSpace, 1_930_618),
        (lambda: RobustDARTS("s1"), 405_146),
        (lambda: RobustDARTS("s3"), 665_466),
    ],
    ids=["darts", "s1", "s3"],
)
def test_parameters_of_the_search_net(make: Callable[[], ModelSpace], parameters: int) -> None:
    assert count_without_alpha(BilevelSearch().mutate_model(make())) == parameters


@pytest.mark.parametrize(
    ("name", "dataset", "parameters"),
    [
        ("darts_v2", "cifar10", 3_349_342),  # as the released code's log says, like the next two
        ("darts_v2", "imagenet", 4_718_752),
        ("pc_darts_cifar", "cifar10", 3_634_678),
        ("relative_nas", "cifar10", 3_928_222),  # 3.93 M as published
    ],
)
def test_parameters_of_the_evaluation_net(name: str, dataset: str, parameters: int) -> None:
    net: Any = evaluation_net(published(name), dataset)
    assert count(net) - count(net.auxiliary_head) == parameters


def cells_seen(net: Any, images: torch.Tensor) -> list[torch.Size]:
    shapes: list[torch.Size] = []
    for cell in net.cells:
        cell.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1:]))
    net(images)
    return shapes


def test_reduction_cells_at_one_and_two_thirds() -> None:
    net = evaluation_net(published("darts_v2"), layers=8, channels=6, auxiliary=False)
    widths = [6, 6, 12, 12, 12, 24, 24, 24]
    sizes = [16, 16, 8, 8, 8, 4, 4, 4]
    expected = [(4 * width, size, size) for width, size in zip(widths, sizes, strict=True)]
    assert cells_seen(net, torch.randn(2, 3, 16, 16)) == expected


def test_imagenet_stem_divides_by_eight() -> None:
    net = evaluation_net(published("darts_v2"), "imagenet", layers=3, channels=4, num_classes=7)
    assert cells_seen(net, torch.randn(2, 3, 64, 64)) == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]
    assert net.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_image_channels_and_classes() -> None:
    net = BilevelSearch().mutate_model(DARTSSpace(num_classes=5, in_channels=1, **SMALL))
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 5)


# Auxiliary head


@pytest.mark.parametrize(("side", "window", "stride"), [(8, 5, 3), (7, 5, 2)])
def test_auxiliary_head_pools_as_the_released_code(side: int, window: int, stride: int) -> None:
    head = AuxiliaryHead(3, 4, "imagenet").eval()
    features = torch.randn(2, 3, side, side)
    pooled = nn.AvgPool2d(window, stride, count_include_pad=False)(features.relu())
    torch.testing.assert_close(head(features), head.classifier(head.features(pooled).flatten(1)))


@pytest.mark.parametrize("side", [2, 3, 5, 6, 16])
def test_auxiliary_head_takes_other_sizes(side: int) -> None:
    assert AuxiliaryHead(3, 4, "cifar")(torch.randn(2, 3, side, side + 1)).shape == (2, 4)


def test_auxiliary_head_is_for_training_alone() -> None:
    net = evaluation_net(published("darts_v2"), **SMALL)
    logits, auxiliary = net(torch.randn(2, 3, 16, 16))
    assert logits.shape == auxiliary.shape == (2, 10)
    assert net.eval()(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    assert DARTSSpace(auxiliary=True, **SMALL).auxiliary_head is None
    assert evaluation_net(published("darts_v2"), **SMALL, auxiliary=False).auxiliary_head is None


# S1 to S4


def test_candidates_of_the_robust_spaces() -> None:
    s1 = space_spec("s1").layout
    assert s1["normal"].operations_on(0, 2) == ("skip_connect", "dil_conv_3x3")
    assert s1["normal"].operations_on(0, 4) == ("max_pool_3x3", "skip_connect")
    assert s1["normal"].operations_on(4, 5) == ("dil_conv_3x3", "dil_conv_5x5")
    assert s1["reduce"].operations_on(0, 2) == ("max_pool_3x3", "avg_pool_3x3")
    assert s1["reduce"].operations_on(4, 5) == ("skip_connect", "dil_conv_5x5")
    for graph in s1.values():
        lists = [graph.operations_on(source, target) for source, target in graph.edges]
        assert len(lists) == 14
        assert all(len(set(names)) == 2 for names in lists)
    others = {
        "s2": ("skip_connect", "sep_conv_3x3"),
        "s3": ("none", "skip_connect", "sep_conv_3x3"),
        "s4": ("noise", "sep_conv_3x3"),
    }
    for name, operations in others.items():
        assert {graph.operations for graph in space_spec(name).layout.values()} == {operations}


def test_the_mixture_of_s1_has_each_edges_own_candidates() -> None:
    """Against the sum over edges, operation by operation, with softmax weights."""
    cell = BilevelSearch().mutate_model(small("s1")).cells[0]
    made: dict[tuple[int, int, int], nn.Module] = {}
    for (source, target, k), key in cell._key.items():
        name = space_spec("s1").layout["normal"].operations_on(source, target)[k]
        operation = cell_operation(target, 0, source, op=name, channels=4, reduces=False, search=True, drop_path=0)
        ours = nn.Sequential(*cell.operations[key].body, *filter(None, [cell.operations[key].norm]))
        operation.load_state_dict(dict(zip(operation.state_dict(), ours.state_dict().values(), strict=True)))
        made[source, target, k] = operation
    inputs = [torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)]
    nodes = cell.preprocessor(inputs)
    weights = cell.architecture.weights()[0]
    edges = [(source, target) for target in range(2, 6) for source in range(target)]
    for target in range(2, 6):
        terms = [
            weights[edges.index((source, target)), k] * made[source, target, k](nodes[source])
            for source in range(target) for k in range(2)
        ]  # fmt: skip
        nodes.append(torch.stack(terms).sum(0))
    torch.testing.assert_close(cell(inputs), torch.cat(nodes[2:], 1), rtol=1e-4, atol=1e-5)


def test_noise_is_fresh_on_every_edge_and_pass() -> None:
    noise, images = Noise(2), torch.zeros(4, 8, 17, 16)
    first, second = noise(images), noise(images)
    assert first.shape == (4, 8, 9, 8)
    assert not torch.equal(first, second)
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1) < 0.05
    operations = BilevelSearch().mutate_model(small("s4")).cells[0].operations
    assert sum(isinstance(operation.body[0], Noise) for operation in operations.values()) == 14


# Genotypes


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_every_sample_is_a_genotype_and_a_network(name: str) -> None:
    space = small(name)
    for seed in range(10):
        sample = sampled(space, seed)
        genotype = Genotype.from_sample(sample, name)
        assert genotype.to_sample() == sample
        assert Genotype.from_json(genotype.to_json()) == genotype
    assert space.freeze(sample)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_frozen_s1_cell_has_the_operations_that_the_genotype_names() -> None:
    nodes: Any = [
        (("dil_conv_5x5", 1), ("skip_connect", 0)),
        (("sep_conv_3x3", 1), ("dil_conv_5x5", 0)),
        (("max_pool_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 0), ("dil_conv_5x5", 4)),
    ]
    reduce: Any = [(("max_pool_3x3", 0), ("max_pool_3x3", 1))] * 4
    genotype = Genotype("s1", {"normal": nodes, "reduce": reduce})
    assert genotype.to_sample()["normal/op_2_0"] == "1"
    net: Any = evaluation_net(genotype, **SMALL)
    kinds = [[type(operation) for operation in node] for node in net.cells[0].ops]
    assert kinds[0][1] is nn.Identity
    assert kinds[2][0] is nn.MaxPool2d
    assert net.cells[0].ops[0][0][1].kernel_size == (5, 5)
    assert net.cells[0].ops[3][1][1].dilation == (2, 2)


@pytest.mark.parametrize("operation", ["sep_conv_3x3", "avg_pool_3x3", "7"])
def test_an_operation_that_the_edge_does_not_have(operation: str) -> None:
    sample = sampled(small("s1")) | {"normal/op_2_0": operation, "normal/input_2_0": [0]}
    with pytest.raises(ValueError, match=r"edge 0 to 2\); expected one of skip_connect, dil_conv_3x3"):
        Genotype.from_sample(sample, "s1")


# NNI's own strategies


def supermodules(net: nn.Module) -> Iterator[BaseSuperNetModule]:
    return (module for module in net.modules() if isinstance(module, BaseSuperNetModule))


@pytest.mark.parametrize("strategy", ["DARTS", "RandomOneShot"])
@pytest.mark.parametrize("name", SMALL_SPACES)
def test_nni_one_shot_strategies(name: str, strategy: str) -> None:
    net = getattr(nni_strategies, strategy)().mutate_model(small(name))
    picked: dict[str, Any] = {}
    for module in supermodules(net):
        picked |= module.resample(picked)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    exported: dict[str, Any] = {}
    for module in supermodules(net):
        exported |= module.export(exported)
    Genotype.from_sample(exported, name)


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_nni_evolution(name: str, nni_home: Path) -> None:
    """RegularizedEvolution finds networks with few parameters, and its samples are genotypes."""
    space = small(name)

    def few_parameters(model: ModelSpace) -> None:
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)
        nni.report_final_result(-float(count(model)))

    evolution = nni_strategies.RegularizedEvolution(population_size=3, sample_size=3, mutation_prob=0.3, seed=0)
    config = NasExperimentConfig("sequential", "raw", max_trial_number=6, experiment_working_directory=nni_home)
    experiment = NasExperiment(space, FunctionalEvaluator(few_parameters), evolution, config)
    experiment.run()
    (sample,) = experiment.export_top_models(formatter="dict")
    experiment.stop()
    genotype = Genotype.from_sample(sample, name)
    assert genotype.to_sample() == sample
    assert -count(small(name).freeze(sample)) >= max(individual.y for individual in evolution._population)


# Wrong input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DARTSSpace(layers=2), "layers must be a whole number of at least 3, got 2"),
        (lambda: DARTSSpace(channels=5), "even number of at least 2, got 5"),
        (
            lambda: DARTSSpace(stem="mnist"),  # type: ignore[arg-type]
            "stem must be one of cifar, imagenet, got 'mnist'",
        ),
        (lambda: RobustDARTS("s5"), "Unknown RobustDARTS space 's5'; expected one of s1, s2, s3, s4"),
    ],
)
def test_wrong_arguments(make: Callable[[], ModelSpace], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_drop_path_leaves_the_names_of_weights_alone() -> None:
    nets = [evaluation_net(published("darts_v2"), channels=4, layers=3, drop_path=p) for p in (0.0, 0.3)]
    assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
