"""Backbones and torchvision's heads on them: which features come, at which size, and that everything trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nni_plugins.run.result import load_net
from nni_plugins.transfer.backbone import Backbone, load_backbone
from nni_plugins.transfer.heads import DenseHead, Pyramid, ssdlite
from search_spaces import Genotype, evaluation_net, from_architecture_string, published
from search_spaces.taps import Tap

EXAMPLE = Path(__file__).parents[3] / "exported" / "example"
CELL_201 = from_architecture_string(
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
)
SMALL: list[Any] = [
    (published("darts_v2"), {"channels": 4, "layers": 5, "auxiliary": True}),
    (published("bnas_v2_clr_v1"), {"channels": 4, "deep_cells": 1}),
    (published("bnas_v2_clr_v1"), {"channels": 2, "blocks": 3, "deep_cells": 0}),
]


def test_the_published_sizes_of_relative_nas() -> None:
    net = evaluation_net(published("relative_nas"), "imagenet", channels=46)
    assert Backbone(net).taps == (Tap(8, 184), Tap(16, 368), Tap(32, 736))  # 4 nodes of C, 2C, 4C
    assert Backbone(net, [32, 4]).taps == (Tap(4, 46), Tap(32, 736))


@pytest.mark.parametrize(
    ("genotype", "sizes", "taps"),
    [
        (*SMALL[0], [(1, 16), (2, 32), (4, 64)]),
        (*SMALL[1], [(1, 16), (2, 32), (4, 64)]),
        (*SMALL[2], [(1, 6), (2, 16), (4, 32), (8, 64)]),  # no deep cells: the stem's 3C at the full resolution
        (CELL_201, {"channels": 4, "cells": 1}, [(1, 4), (2, 8), (4, 16)]),
    ],
)
def test_shapes_after_a_cifar_stem(genotype: Genotype, sizes: dict[str, Any], taps: list[tuple[int, int]]) -> None:
    net = evaluation_net(genotype, **sizes)
    backbone = Backbone(net, [stride for stride, _ in taps])
    features = backbone(torch.randn(2, 3, 32, 32))
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        str(stride): (2, channels, 32 // stride, 32 // stride) for stride, channels in taps
    }
    assert backbone.out_channels == [channels for _, channels in taps]
    assert Backbone(net).taps == tuple(taps[-3:])


@pytest.mark.parametrize(("genotype", "sizes"), SMALL)
def test_shapes_after_an_imagenet_stem(genotype: Genotype, sizes: dict[str, Any]) -> None:
    backbone = Backbone(evaluation_net(genotype, "imagenet", **sizes), [4, 8, 16, 32])
    features = backbone(torch.randn(2, 3, 128, 96))
    for tap in backbone.taps:
        assert features[str(tap.stride)].shape == (2, tap.channels, 128 // tap.stride, 96 // tap.stride)


@pytest.mark.parametrize(
    ("genotype", "sizes", "parts"),
    [
        (*SMALL[0], ["cells.0", "cells.2", "cells.4"]),  # cells 1 and 3 of 5 are reductions
        (*SMALL[1], ["convolution_cells.0", "convolution_cells.2", "enhancement_cells.1"]),
        (CELL_201, {"channels": 4, "cells": 2}, ["cells.1", "cells.4", "cells.7"]),
    ],
)
def test_features_are_those_on_the_way_to_the_logits(
    genotype: Genotype, sizes: dict[str, Any], parts: list[str]
) -> None:
    net = evaluation_net(genotype, **sizes).eval()
    seen: dict[str, torch.Tensor] = {}
    for part in parts:

        def keep(_: nn.Module, __: Any, output: torch.Tensor, part: str = part) -> None:
            seen[part] = output.clone()

        net.get_submodule(part).register_forward_hook(keep)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        net(images)
        on_the_way = [seen[part] for part in parts]
        features = Backbone(net).eval()(images)
    for found, wanted in zip(features.values(), on_the_way, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_weights_are_those_of_the_folder() -> None:
    backbone, trained = load_backbone(EXAMPLE), load_net(EXAMPLE).state_dict()
    assert not backbone.training
    weights = backbone.net.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in weights.items())
    parts = {name.split(".")[0] for name in trained.keys() - weights.keys()}
    assert parts == {"convolution_to_pooling", "enhancement_to_pooling", "classifier"}


def test_a_backbone_leaves_the_network_as_it_was() -> None:
    net = load_net(EXAMPLE)
    images = torch.randn(2, 1, 16, 16)
    before = net(images)
    backbone = Backbone(net)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert torch.equal(net(images), before)


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ([8], r"strides must be some of 1, 2, 4, where this network has features, each once, got \[8\]"),
        ([1, 1], r"each once, got \[1, 1\]"),
        ([], r"got \[\]"),
    ],
)
def test_strides_that_there_are_not(strides: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone(EXAMPLE, strides)


def test_a_network_without_taps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Sequential says nowhere where its features .* search_spaces\.taps\.Tapped"):
        Backbone(nn.Sequential(nn.Conv2d(1, 1, 1)))


# Heads


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_a_pyramid_has_one_width() -> None:
    pyramid = Pyramid(load_backbone(EXAMPLE), 12)
    shapes = [tuple(f.shape) for f in pyramid(torch.randn(2, 1, 16, 16)).values()]
    assert shapes == [(2, 12, 16, 16), (2, 12, 8, 8), (2, 12, 4, 4)]
    assert pyramid.out_channels == [12] * 3


def test_a_dense_head_maps_every_pixel_and_trains_the_backbone() -> None:
    model = DenseHead(load_backbone(EXAMPLE, [2, 4]).train(), 5, channels=8)
    maps = model(torch.randn(2, 1, 18, 22))
    assert maps.shape == (2, 5, 18, 22)
    maps.square().mean().backward()
    # the head reads the finest level: its sum has the coarser one, whose own output nobody reads
    assert {name.rpartition(".")[0] for name in without_gradient(model)} == {"pyramid.pyramid.layer_blocks.1.0"}


def test_a_detector_trains_the_backbone_and_finds_boxes_inside_the_image() -> None:
    model = ssdlite(load_backbone(EXAMPLE, [2, 4]), 3, 32, mean=[0.5], std=[0.25], sides=[0.2, 0.5, 0.9], channels=8)
    images = [torch.rand(1, 32, 32) for _ in range(2)]
    boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0], [10.0, 8.0, 30.0, 28.0]])
    losses = model.train()(images, [{"boxes": boxes, "labels": torch.tensor([1, 3])}] * 2)
    sum(losses.values()).backward()
    assert without_gradient(model) == []
    for found in model.eval()(images):
        assert found["boxes"].min() >= 0 and found["boxes"].max() <= 32
        assert set(found["labels"].tolist()) <= {1, 2, 3}


def test_a_detector_needs_a_side_for_every_resolution() -> None:
    with pytest.raises(ValueError, match="sides must be 4 numbers, one for each of 3 resolutions and one more, got 2"):
        ssdlite(load_backbone(EXAMPLE), 3, 32, mean=[0.5], std=[0.25], sides=[0.2, 0.5])
