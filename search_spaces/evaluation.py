"""From a genotype to the network that is trained, at the size its paper evaluates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from nni.nas.nn.pytorch import model_context
from torch import nn

from .any_connections import AnyDARTSSpace
from .bcnn import BCNN
from .darts import ROBUST_DARTS, DARTSSpace, RobustDARTS
from .genotype import Genotype
from .nasbench201 import NASBench201


class Images(NamedTuple):
    """What a data set asks of a network."""

    num_classes: int
    in_channels: int
    stem: str


DATASETS: dict[str, Images] = {
    "cifar10": Images(10, 3, "cifar"),
    "cifar100": Images(100, 3, "cifar"),
    "svhn": Images(10, 3, "cifar"),
    "mnist": Images(10, 1, "cifar"),
    "fashion_mnist": Images(10, 1, "cifar"),
    "digits": Images(10, 1, "cifar"),
    "imagenet": Images(1000, 3, "imagenet"),
}

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "bcnn": BCNN,
    "darts": DARTSSpace,
    "darts_any": AnyDARTSSpace,
    "nasbench201": NASBench201,
    **{space: partial(RobustDARTS, space) for space in ROBUST_DARTS},
}
"""The network class of each search space."""

_LIKE_DARTS = ("darts", "darts_any", *ROBUST_DARTS)

PUBLISHED_SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("bcnn", "cifar"): {"channels": 48, "blocks": 2, "deep_cells": 2, "enhancement_cells": 2},
    ("bcnn", "imagenet"): {"channels": 44, "blocks": 2, "deep_cells": 2, "enhancement_cells": 2},
    ("nasbench201", "cifar"): {"channels": 16, "cells": 5},
    **{(space, "cifar"): {"channels": 36, "layers": 20, "auxiliary": True} for space in _LIKE_DARTS},
    **{(space, "imagenet"): {"channels": 48, "layers": 14, "auxiliary": True} for space in _LIKE_DARTS},
}
"""Evaluation sizes of the papers by (space, stem)."""


def evaluation_net(genotype: Genotype, dataset: str = "cifar10", **sizes: Any) -> nn.Module:
    """Build the evaluation network of ``genotype``, freshly initialised.

    Parameters
    ----------
    genotype
        An architecture of one of this package's spaces.
    dataset
        Sets classes, image channels and stem, and the published size: one of :data:`DATASETS`.
    **sizes
        Arguments of the space's class that replace the published ones: ``channels``, ``num_classes``,
        ``enhancement_cells``, ``drop_path`` and so on.

    Raises
    ------
    ValueError
        If the data set or a size is not known, or the genotype belongs to a user's own space.
    """
    if dataset not in DATASETS:
        raise ValueError(f"Unknown data set {dataset!r}; expected one of {', '.join(DATASETS)}.")
    if genotype.space not in NETWORKS:
        raise ValueError(
            f"The genotype belongs to the space {genotype.space!r}; build its network with your space's freeze()."
        )
    images = DATASETS[dataset]._asdict()
    stem: str = sizes.get("stem") or DATASETS[dataset].stem
    published: Mapping[str, Any] = PUBLISHED_SIZES.get((genotype.space, stem), {})
    if "layers" in sizes:
        published = {key: value for key, value in published.items() if key != "deep_cells"}
    with model_context(genotype.to_sample()):
        try:
            return NETWORKS[genotype.space](**{**images, **published, **sizes})
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise ValueError(f"A network of the {genotype.space} space does not take these sizes: {error}.") from None
