"""What a genotype, a supernet or a search space is made of: cells, parameters, multiply-adds, choices."""

from __future__ import annotations

from typing import Any

from nni_plugins.methods.relative_nas.model_space import to_search_space
from nni_plugins.report.complexity import count_multiply_adds, count_parameters
from nni_plugins.run.networks import make_space
from nni_plugins.run.settings import Settings
from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from search_spaces import Genotype
from search_spaces.evaluation import evaluation_net
from search_spaces.image_shapes import STEM_SIZES, image_shape
from search_spaces.registry import space_names, space_spec


def describe_genotype(genotype: Genotype, dataset: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return cells, parameters and multiply-adds of the evaluation network, as JSON values.

    Raises
    ------
    ValueError
        If the data set or a size is not known.
    """
    description: dict[str, Any] = {
        "space": genotype.space,
        "cells": {
            kind: {
                str(index): [list(connection) for connection in node]
                for index, node in enumerate(nodes, genotype.num_inputs)
            }
            for kind, nodes in genotype.cells.items()
        },
    }
    if genotype.space in space_names():
        space_spec(genotype.space).check_arguments(sizes, prefix="net.")
        net = evaluation_net(genotype, dataset, **sizes)
        size = _image_size(dataset, sizes)
        channels = sizes.get("in_channels", image_shape(dataset).in_channels)
        description |= {
            "dataset": dataset,
            "image_size": size,
            "parameters": count_parameters(net),
            "parameters_with_auxiliary_head": count_parameters(net, auxiliary=True),
            "multiply_adds": count_multiply_adds(net, channels, size),
        }
    return description


def describe_supernet(settings: Settings, dataset: str) -> dict[str, Any]:
    """Return weights, architecture parameters and multiply-adds of a supernet, as JSON values.

    Raises
    ------
    ValueError
        If the data set is not known, or the strategy cannot search the space.
    """
    strategy = settings.make_strategy()
    arguments = _arguments(settings, dataset)
    supernet = strategy.mutate_model(make_space(settings.space, **arguments))
    found = [m for m in supernet.modules() if isinstance(m, (CellArchitecture, ChoiceArchitecture))]
    searched = [p for architecture in dict.fromkeys(found) for p in architecture.parameters()]
    weights = [p for p in supernet.parameters() if id(p) not in {id(q) for q in searched}]
    size = _image_size(dataset, arguments)
    return {
        "space": settings.space,
        "strategy": settings.strategy,
        "dataset": dataset,
        "weights": sum(p.numel() for p in weights),
        "trainable_weights": sum(p.numel() for p in weights if p.requires_grad),
        "architecture_parameters": {
            architecture.label: count_parameters(architecture)
            for architecture in dict.fromkeys(found)
            if any(p.requires_grad for p in architecture.parameters())
        },
        "image_size": size,
        "multiply_adds": count_multiply_adds(supernet, arguments["in_channels"], size),
    }


def describe_choices(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the choices of the settings' space as the search space of an ``nnictl`` experiment.

    Raises
    ------
    ValueError
        If the space has choices that such a file cannot say.
    """
    return to_search_space(make_space(settings.space, **_arguments(settings, "cifar10")).simplify())


def _arguments(settings: Settings, dataset: str) -> dict[str, Any]:
    """Return the arguments of the settings' space for a data set; a user's own space takes no stem."""
    shape = image_shape(dataset).arguments()
    if settings.space not in space_names():
        del shape["stem"]
    return {**shape, **settings.space_arguments}


def _image_size(dataset: str, arguments: dict[str, Any]) -> int:
    """Return the side of the data set's images, or, with another stem, of those that this stem is made for."""
    shape = image_shape(dataset)
    stem = arguments.get("stem", shape.stem)
    return shape.size if stem == shape.stem else STEM_SIZES[stem]
