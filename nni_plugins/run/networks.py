"""The search space and the evaluation network of a run, for its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_plugins.data import ImageSet
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import channels_last
from nni_plugins.supernet.fast_layers import lay_out, use_fast_layers
from nni_plugins.tools.own_code import in_short, is_own, own
from search_spaces import Genotype, evaluation_net
from search_spaces.arguments import naming_unknown_arguments
from search_spaces.image_shapes import stem_of
from search_spaces.registry import space_names, space_spec


class DataShape(Protocol):
    """As much of a data set as a network needs to be built."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def in_channels(self) -> int:
        """Channels of an image."""

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""


def shape_arguments(space: str, data: DataShape) -> dict[str, Any]:
    """Return what the data asks of a network: classes, image channels and, for registered spaces, the stem."""
    arguments: dict[str, Any] = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    if space in space_names():
        arguments["stem"] = stem_of(data.image_size)
    return arguments


def make_space(name: str, **arguments: Any) -> ModelSpace:
    """Return a fresh model space.

    Parameters
    ----------
    name
        A registered space, or ``module:function`` for your own once the command line has named it: a callable that
        takes at least ``num_classes`` and ``in_channels`` and returns an NNI model space.
    **arguments
        Passed on.

    Raises
    ------
    ValueError
        If the name or an argument is not known, the user's function fails, or the result is not a model space.
    """
    if name not in space_names() and is_own(name):
        return _own_space(name, arguments)
    spec = space_spec(name)
    spec.check_arguments(arguments)
    with naming_unknown_arguments(f"The search space {name!r}"):
        return spec.load_network()(**arguments)


def _own_space(name: str, arguments: Mapping[str, Any]) -> ModelSpace:
    make = own(name, "search space", "--space")
    wanted = "a function or class that takes num_classes and in_channels and returns an NNI ModelSpace"
    try:
        space: Any = make(**arguments)
    except Exception as error:
        raise ValueError(
            f"The search space {name!r}, called with {', '.join(arguments)}, fails: {in_short(error)}; expected "
            f"{wanted}."
        ) from error
    if not isinstance(space, ModelSpace):
        raise ValueError(f"The search space {name!r} returned {type(space).__name__}; expected {wanted}.")
    return space


def build_space(settings: Settings, data: DataShape) -> ModelSpace:
    """Return a fresh model space for ``data``.

    Raises
    ------
    ValueError
        As :func:`make_space`.
    """
    return make_space(settings.space, **_for_data(settings.space, data, settings.space_arguments, "space."))


def build_net(
    genotype: Genotype, settings: Settings, data: DataShape, sample: Mapping[str, Any] | None = None
) -> nn.Module:
    """Return the evaluation network of ``genotype`` for ``data``, freshly initialised.

    Parameters
    ----------
    genotype
        The architecture.
    settings, data
        Sizes and shape.
    sample
        NNI's form of the architecture, with which a user's own space freezes itself; by default the genotype's.

    Raises
    ------
    ValueError
        If a size is not known.
    """
    if genotype.space not in space_names():
        return build_space(settings, data).freeze(dict(sample or genotype.to_sample()))
    arguments = _for_data(genotype.space, data, settings.net_arguments, "net.")
    dataset = "imagenet" if shape_arguments(genotype.space, data)["stem"] == "imagenet" else "cifar10"
    drop_path = {"drop_path": settings.retrain.drop_path} if settings.retrain.drop_path else {}
    return evaluation_net(genotype, dataset, **{**drop_path, **arguments})


def _for_data(space: str, data: DataShape, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return arguments of a network with what the data asks of it.

    Raises
    ------
    ValueError
        If a given number of classes or channels is not that of the data.
    """
    shape = shape_arguments(space, data)
    for name in ("num_classes", "in_channels"):
        if given.get(name, shape[name]) != shape[name]:
            raise ValueError(
                f"{prefix}{name} must be {shape[name]}, as the data has it, got {given[name]!r}; leave it out."
            )
    return {**shape, **given}


def classifier_of(net: nn.Module, settings: Settings, data: ImageSet) -> ImageClassifier:
    """Return the Lightning module that trains ``net`` by the settings' recipe."""
    recipe = settings.retrain
    lay_out(net, channels_last=channels_last(recipe))
    module = ImageClassifier(
        recipe, data.num_classes, drop_path=recipe.drop_path, auxiliary_weight=recipe.auxiliary_weight
    )
    module.set_model(use_fast_layers(net))
    return module
