"""What well-known data sets ask of a network. Imports neither torch nor NNI."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class ImageShape(NamedTuple):
    """Classes, image channels, stem and side in pixels."""

    num_classes: int
    in_channels: int
    stem: str
    size: int

    def arguments(self) -> dict[str, int | str]:
        """Return what a network has to know: all but the size."""
        return {"num_classes": self.num_classes, "in_channels": self.in_channels, "stem": self.stem}


IMAGE_SHAPES: Mapping[str, ImageShape] = MappingProxyType(
    {
        "cifar10": ImageShape(10, 3, "cifar", 32),
        "cifar100": ImageShape(100, 3, "cifar", 32),
        "svhn": ImageShape(10, 3, "cifar", 32),
        "mnist": ImageShape(10, 1, "cifar", 28),
        "fashion_mnist": ImageShape(10, 1, "cifar", 28),
        "digits": ImageShape(10, 1, "cifar", 16),
        "imagenet": ImageShape(1000, 3, "imagenet", 224),
    }
)
"""Data sets by name."""

IMAGENET_SIZE = 128
"""Images of at least this side get the ImageNet stem, and are trained as ImageNet is."""

STEM_SIZES: Mapping[str, int] = MappingProxyType({"cifar": 32, "imagenet": 224})
"""Side of the images that each stem is made for, in pixels."""


def stem_of(size: int) -> str:
    """Return the stem for images of this side in pixels."""
    return "imagenet" if size >= IMAGENET_SIZE else "cifar"


def image_shape(dataset: str) -> ImageShape:
    """Return the shape of a data set's images.

    Raises
    ------
    ValueError
        If the name is not known; the message lists the valid ones.
    """
    if dataset not in IMAGE_SHAPES:
        raise ValueError(f"Unknown data set {dataset!r}; expected one of {', '.join(IMAGE_SHAPES)}.")
    return IMAGE_SHAPES[dataset]
