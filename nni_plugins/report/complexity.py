"""What a genotype or a supernet is made of: cells, parameters, multiply-adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nni_plugins.methods.registry import make_space
from nni_plugins.methods.relative_nas.model_space import to_search_space
from nni_plugins.run.epoch_metrics import genotype_of_epoch
from nni_plugins.run.retrain import count_multiply_adds, count_parameters
from nni_plugins.run.settings import Settings
from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from search_spaces import Genotype, from_architecture_string, published, published_names
from search_spaces.evaluation import IMAGE_SHAPES, evaluation_net
from search_spaces.genotype import is_own_space

IMAGE_SIZES = {"cifar": 32, "imagenet": 224}


def load_genotype(name: str, epoch: int | None = None) -> Genotype:
    """A genotype from a file or a result folder, a published one by name, or a NAS-Bench-201 architecture string.

    Parameters
    ----------
    epoch
        Of a result folder, take the cell of this epoch of the search, counted from 1.

    Raises
    ------
    ValueError
        If it is neither; the sentence lists the published names.
    """
    if epoch is not None:
        report = Path(name) / "report.json"
        if not report.is_file():
            raise ValueError(f"--epoch takes a cell from a search's result folder, but there is no {report}.")
        return genotype_of_epoch(json.loads(report.read_text())["search_history"], epoch)
    if name in published_names():
        return published(name)
    if name.startswith("|"):
        return from_architecture_string(name)
    if Path(name).is_dir():
        return Genotype.load(Path(name) / "genotype.json")
    if not Path(name).is_file():
        raise ValueError(
            f"{name!r} is neither a genotype file nor a published genotype; the published ones are "
            f"{', '.join(published_names())}."
        )
    return Genotype.load(name)


def describe_genotype(genotype: Genotype, dataset: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Cells, parameters and multiply-adds of the evaluation network, as JSON values.

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
    if not is_own_space(genotype.space):
        net = evaluation_net(genotype, dataset, **sizes)
        shape = IMAGE_SHAPES[dataset]
        size = IMAGE_SIZES[sizes.get("stem", shape.stem)]
        description |= {
            "dataset": dataset,
            "image_size": size,
            "parameters": count_parameters(net),
            "multiply_adds": count_multiply_adds(net, sizes.get("in_channels", shape.in_channels), size),
        }
    return description


def describe_supernet(settings: Settings) -> dict[str, Any]:
    """Weights, architecture parameters and multiply-adds of a supernet on 32x32 images, as JSON values."""
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
    """The choices of the settings' space as the search space of an ``nnictl`` experiment.

    Raises
    ------
    ValueError
        If the space has choices that such a file cannot say.
    """
    arguments = {"num_classes": 10, "in_channels": 3, **settings.space_arguments}
    return to_search_space(make_space(settings.space, **arguments).simplify())


def print_choices(choices: dict[str, dict[str, Any]]) -> None:
    """Choices as a table for a person."""
    table = Table("choice", "values")
    for name, entry in choices.items():
        table.add_row(name, ", ".join(map(str, entry["_value"])))
    Console().print(table)


def print_description(description: dict[str, Any]) -> None:
    """A description as tables for a person."""
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
