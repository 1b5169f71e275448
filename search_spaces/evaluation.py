"""From a genotype to the network that is trained, at the size its paper evaluates it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import nni.nas.strategy  # noqa: F401  before nni.nas.oneshot or nni.nas.hub, or NNI's own DARTS is left unusable
from nni.nas.nn.pytorch import model_context
from torch import nn

from .genotype import Genotype, is_own_space
from .registry import space_spec


class ImageShape(NamedTuple):
    """What a data set asks of a network."""

    num_classes: int
    in_channels: int
    stem: str


IMAGE_SHAPES: Mapping[str, ImageShape] = MappingProxyType(
    {
        "cifar10": ImageShape(10, 3, "cifar"),
        "cifar100": ImageShape(100, 3, "cifar"),
        "svhn": ImageShape(10, 3, "cifar"),
        "mnist": ImageShape(10, 1, "cifar"),
        "fashion_mnist": ImageShape(10, 1, "cifar"),
        "digits": ImageShape(10, 1, "cifar"),
        "imagenet": ImageShape(1000, 3, "imagenet"),
    }
)
"""Data sets by name."""


def evaluation_net(genotype: Genotype, dataset: str = "cifar10", **sizes: Any) -> nn.Module:
    """Build the evaluation network of ``genotype``, freshly initialised.

    Parameters
    ----------
    genotype
        An architecture of a registered search space.
    dataset
        Sets classes, image channels and stem, and the published size: one of :data:`IMAGE_SHAPES`.
    **sizes
        Arguments of the space's class that replace the published ones: ``channels``, ``num_classes``,
        ``enhancement_cells``, ``drop_path`` and so on.

    Raises
    ------
    ValueError
        If the data set or a size is not known, or the genotype belongs to a user's own space.
    """
    if dataset not in IMAGE_SHAPES:
        raise ValueError(f"Unknown data set {dataset!r}; expected one of {', '.join(IMAGE_SHAPES)}.")
    if is_own_space(genotype.space):
        raise ValueError(
            f"The genotype belongs to the space {genotype.space!r}; build its network with your space's freeze()."
        )
    spec, shape = space_spec(genotype.space), IMAGE_SHAPES[dataset]
    published = spec.published_sizes.get(sizes.get("stem") or shape.stem, {})
    if "layers" in sizes:
        published = {key: value for key, value in published.items() if key != "deep_cells"}
    with model_context(genotype.to_sample()):
        try:
            return spec.load_network()(**{**shape._asdict(), **published, **sizes})
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise ValueError(f"A network of the {genotype.space} space does not take these sizes: {error}.") from None
