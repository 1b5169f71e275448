"""What a genotype, a supernet or a search space is made of: cells, parameters, multiply-adds, choices."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from nni_plugins.methods.relative_nas.model_space import to_search_space
from nni_plugins.report.complexity import count_multiply_adds, count_parameters
from nni_plugins.run.networks import make_space
from nni_plugins.run.settings import Settings
from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from search_spaces import Genotype
from search_spaces.evaluation import IMAGE_SHAPES, evaluation_net
from search_spaces.registry import space_names

IMAGE_SIZES = {"cifar": 32, "imagenet": 224}


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
        net = evaluation_net(genotype, dataset, **sizes)
        images = IMAGE_SHAPES[dataset]
        size = IMAGE_SIZES[sizes.get("stem", images.stem)]
        description |= {
            "dataset": dataset,
            "image_size": size,
            "parameters": count_parameters(net),
            "multiply_adds": count_multiply_adds(net, sizes.get("in_channels", images.in_channels), size),
        }
    return description


def describe_supernet(settings: Settings) -> dict[str, Any]:
    """Return weights, architecture parameters and multiply-adds of a supernet, as JSON values."""
    strategy = settings.make_strategy()
    arguments = {"num_classes": 10, "in_channels": 3, **settings.space_arguments}
    supernet = strategy.mutate_model(make_space(settings.space, **arguments))
    found = [m for m in supernet.modules() if isinstance(m, (CellArchitecture, ChoiceArchitecture))]
    searched = [p for architecture in dict.fromkeys(found) for p in architecture.parameters()]
    weights = [p for p in supernet.parameters() if id(p) not in {id(q) for q in searched}]
    return {
        "space": settings.space,
        "strategy": settings.strategy,
        "weights": sum(p.numel() for p in weights),
        "trainable_weights": sum(p.numel() for p in weights if p.requires_grad),
        "architecture_parameters": {
            architecture.label: count_parameters(architecture)
            for architecture in dict.fromkeys(found)
            if any(p.requires_grad for p in architecture.parameters())
        },
        "image_size": IMAGE_SIZES[arguments.get("stem", "cifar")],
        "multiply_adds": count_multiply_adds(
            supernet, arguments["in_channels"], IMAGE_SIZES[arguments.get("stem", "cifar")]
        ),
    }


def describe_choices(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the choices of the settings' space as the search space of an ``nnictl`` experiment.

    Raises
    ------
    ValueError
        If the space has choices that such a file cannot say.
    """
    arguments = {"num_classes": 10, "in_channels": 3, **settings.space_arguments}
    return to_search_space(make_space(settings.space, **arguments).simplify())


def print_choices(choices: dict[str, dict[str, Any]]) -> None:
    """Print choices as a table for a person."""
    table = Table("choice", "values")
    for name, entry in choices.items():
        table.add_row(name, ", ".join(map(str, entry["_value"])))
    Console().print(table)


def print_description(description: dict[str, Any]) -> None:
    """Print a description as tables for a person."""
    console = Console()
    for kind, nodes in description.get("cells", {}).items():
        table = Table("node", "connections", title=f"{kind} cell", title_justify="left")
        for index, connections in nodes.items():
            table.add_row(index, ", ".join(f"{operation}({source})" for operation, source in connections))
        console.print(table)
    for name, value in description.items():
        if name != "cells":
            console.print(f"{name.replace('_', ' ')}: {_readable(value)}")


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(part)}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
