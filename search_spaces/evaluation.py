"""From a genotype to the network that is trained, at the size its paper evaluates it."""

from __future__ import annotations

from typing import Any

import nni.nas.strategy  # noqa: F401  before nni.nas.oneshot or nni.nas.hub, or NNI's own DARTS is left unusable
from nni.nas.nn.pytorch import model_context
from torch import nn

from .arguments import naming_unknown_arguments
from .genotype import Genotype, is_own_space
from .image_shapes import image_shape
from .registry import space_spec


def evaluation_net(genotype: Genotype, dataset: str = "cifar10", **sizes: Any) -> nn.Module:
    """Build the evaluation network of ``genotype``, freshly initialised.

    Parameters
    ----------
    genotype
        An architecture of a registered search space.
    dataset
        Sets classes, image channels and stem, and the published size: see
        :data:`search_spaces.image_shapes.IMAGE_SHAPES`.
    **sizes
        Arguments of the space's class that replace the published ones: ``channels``, ``num_classes``,
        ``enhancement_cells``, ``drop_path`` and so on.

    Raises
    ------
    ValueError
        If the data set or a size is not known, or the genotype belongs to a user's own space.
    """
    shape = image_shape(dataset)
    if is_own_space(genotype.space):
        raise ValueError(
            f"The genotype belongs to the space {genotype.space!r}; build its network with your space's freeze()."
        )
    spec = space_spec(genotype.space)
    published = spec.published_sizes.get(sizes.get("stem") or shape.stem, {})
    if "layers" in sizes:
        published = {key: value for key, value in published.items() if key != "deep_cells"}
    spec.check_arguments(sizes)
    with model_context(genotype.to_sample()), naming_unknown_arguments(f"A network of the {genotype.space} space"):
        return spec.load_network()(**{**shape.arguments(), **published, **sizes})
