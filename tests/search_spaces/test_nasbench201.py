"""NAS-Bench-201: the benchmark's own figures, names and networks."""

from __future__ import annotations

import pytest
import torch
from nni.nas.hub.pytorch import NasBench201 as HubNasBench201
from torch import nn

from search_spaces import (
    Genotype,
    NASBench201,
    evaluation_net,
    from_architecture_string,
    published,
    to_architecture_string,
)

BEST_ON_CIFAR10 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"


# the benchmark's own parameter counts, in millions
@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (BEST_ON_CIFAR10, 1_073_466),
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|", 1_288_506),
        ("|nor_conv_1x1~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|", 858_426),
    ],
)
def test_parameters(architecture: str, parameters: int) -> None:
    net = evaluation_net(from_architecture_string(architecture))
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_labels_and_candidates_are_the_hubs() -> None:
    def candidates(space: HubNasBench201) -> dict[str, list[str]]:
        return {label: list(mutable.values) for label, mutable in space.simplify().items()}

    assert candidates(NASBench201()) == candidates(HubNasBench201())


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def test_batch_norm_is_affine_outside_of_searched_cells_only() -> None:
    space = NASBench201(channels=4, cells=2)
    cells = [cell for cell in space.cells if hasattr(cell, "layers")]
    inside = {id(norm) for cell in cells for norm in norms(cell)}
    assert len(inside) == 6 * 6 * 2
    assert all(norm.affine == (id(norm) not in inside) for norm in norms(space))
    frozen = space.freeze(from_architecture_string(BEST_ON_CIFAR10).to_sample())
    assert all(norm.affine for norm in norms(frozen))


def test_pooling_has_no_batch_norm_and_convolutions_end_in_one() -> None:
    choice = NASBench201(channels=4, cells=1).cells[0].layers[0][0]
    assert isinstance(choice["avg_pool_3x3"], nn.AvgPool2d)
    assert [type(layer) for layer in choice["conv_3x3"]] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
    assert choice["conv_1x1"][1].kernel_size == (1, 1)


def test_image_channels_and_classes() -> None:
    net = evaluation_net(from_architecture_string(BEST_ON_CIFAR10), "digits", num_classes=7, channels=4, cells=1)
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 7)


# Architecture strings


def test_architecture_string_there_and_back() -> None:
    genotype = from_architecture_string(BEST_ON_CIFAR10)
    assert genotype.cells["cell"] == (
        (("conv_3x3", 0),),
        (("conv_3x3", 0), ("conv_3x3", 1)),
        (("skip_connect", 0), ("conv_3x3", 1), ("conv_1x1", 2)),
    )
    assert to_architecture_string(genotype) == BEST_ON_CIFAR10


def test_the_order_of_connections_does_not_matter() -> None:
    genotype = from_architecture_string("|none~0|+|none~0|skip_connect~1|+|none~0|avg_pool_3x3~1|none~2|")
    cells = {"cell": tuple(node[::-1] for node in genotype.cells["cell"])}
    assert to_architecture_string(Genotype("nasbench201", cells, num_inputs=1)) == to_architecture_string(genotype)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not |operation~input|...|"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2", "is not |operation~input|...|"),
        ("|none~0|+|none~0|none~1|", "3 intermediate nodes; this one has 2"),
        ("|none~0|+|none~0|+|none~0|none~1|none~2|", "one connection from each earlier node"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~3|", "node 3 cannot take input 3"),
        ("|none~0|+|none~0|max_pool~1|+|none~0|none~1|none~2|", "'max_pool' is no operation of the space"),
        ("none", "is not |operation~input|...|"),
    ],
)
def test_strings_that_do_not_parse(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="is not a nasbench201 architecture string") as caught:
        from_architecture_string(text)
    assert reason in str(caught.value)
    assert "expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with op one of none, skip_connect, nor_conv_1x1" in str(
        caught.value
    )


def test_a_genotype_of_another_space_has_no_string() -> None:
    with pytest.raises(ValueError, match="this genotype belongs to the darts space; search the nasbench201 space"):
        to_architecture_string(published("darts_v2"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": "imagenet"}, "has the stem cifar only, got 'imagenet'"),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"cells": 0}, "cells must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NASBench201(**arguments)
