"""Heads of torchvision on a backbone: detection, and a map of classes or of key points for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork

from nni_plugins.transfer.backbone import Backbone


class Pyramid(nn.Module):
    """A backbone with a feature pyramid network on it: as many channels at every resolution [FPN, arXiv 1612.03144].

    Parameters
    ----------
    backbone
        Features at their own widths.
    channels
        Width at every resolution.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(backbone.out_channels, channels)
        self.out_channels = [channels] * len(backbone.out_channels)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the backbone returns, (batch, channels, height / stride, width / stride) by stride."""
        return self.pyramid(self.backbone(images))


def ssdlite(
    backbone: Backbone,
    num_classes: int,
    image_size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    sides: Sequence[float],
    channels: int = 64,
) -> SSD:
    """Return an SSD detector with depthwise heads on a feature pyramid [SSDLite, arXiv 1801.04381].

    Parameters
    ----------
    backbone
        Where features come from; one head for every resolution.
    num_classes
        Kinds of object; the detector counts the background as class 0 beside them.
    image_size
        Side in pixels to which images are brought.
    mean, std
        Of the images that the backbone was trained on, as its ``report.json`` has them. Images come in as numbers from
        0 to 1.
    sides
        Sides of the default boxes at every resolution, the finest first, and one more, as a part of the image's side.
    channels
        Width of the pyramid.

    Raises
    ------
    ValueError
        If there are not as many sides as resolutions and one.
    """
    levels = len(backbone.taps)
    if len(sides) != levels + 1:
        raise ValueError(
            f"sides must be {levels + 1} numbers, one for each of {levels} resolutions and one more, got "
            f"{len(sides)}: {tuple(sides)}."
        )
    boxes = DefaultBoxGenerator([[2]] * levels, scales=list(sides), steps=[tap.stride for tap in backbone.taps])
    pyramid = Pyramid(backbone, channels)
    head = SSDLiteHead(
        pyramid.out_channels, boxes.num_anchors_per_location(), num_classes + 1, partial(nn.BatchNorm2d, eps=1e-3)
    )
    return SSD(
        pyramid, boxes, (image_size, image_size), num_classes + 1, list(mean), list(std), head, score_thresh=0.05
    )


class DenseHead(nn.Module):
    """Maps of the images' size: logits of every pixel's class, or heat maps of key points.

    A fully convolutional head [FCN, arXiv 1411.4038] on the finest resolution of a feature pyramid, scaled up.

    Parameters
    ----------
    backbone
        Where features come from.
    num_maps
        Classes, the background among them, or key points.
    channels
        Width of the pyramid.
    """

    def __init__(self, backbone: Backbone, num_maps: int, channels: int = 64) -> None:
        super().__init__()
        self.pyramid = Pyramid(backbone, channels)
        self.head = FCNHead(channels, num_maps)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (batch, num_maps, height, width) of normalised images (batch, in_channels, height, width)."""
        finest = next(iter(self.pyramid(images).values()))
        return F.interpolate(self.head(finest), size=images.shape[2:], mode="bilinear", align_corners=False)
