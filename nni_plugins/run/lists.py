"""What there is to choose from: strategies, spaces, settings, published cells and data sets, as rows of a table.

Only the settings need torch: those of strategies and of networks are declared beside code that does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

from nni_plugins.data.names import DATA_NAMES, OWN_DATA
from nni_plugins.methods.registry import method_specs
from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
from nni_plugins.tools.checked import Checked
from search_spaces.arguments import Accepts, declared_arguments, in_words
from search_spaces.image_shapes import image_shape
from search_spaces.published import published, published_names
from search_spaces.registry import space_names, space_spec


class Listing(NamedTuple):
    """A table for a person.

    Parameters
    ----------
    title, columns, rows
        As :func:`nni_plugins.report.tables.print_table` takes them.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def list_strategies() -> list[Listing]:
    """Return all methods."""
    rows = [
        (spec.name, spec.summary, ", ".join(spec.spaces), ", ".join(spec.papers)) for spec in method_specs().values()
    ]
    return [Listing("strategies", ("--strategy", "what it is", "spaces of its paper", "arXiv"), rows)]


def list_spaces() -> list[Listing]:
    """Return all search spaces."""
    rows = []
    for name in space_names():
        layout = space_spec(name).layout
        graph = next(iter(layout.values()))
        rows.append((name, ", ".join(layout), str(graph.num_nodes), str(graph.connections), str(len(graph.operations))))
    return [Listing("spaces", ("--space", "cells", "nodes", "connections per node", "operations"), rows)]


def list_published() -> list[Listing]:
    """Return the genotypes of the papers."""
    rows = [(name, published(name).space) for name in published_names()]
    return [Listing("published genotypes", ("GENOTYPE", "space"), rows)]


def list_data() -> list[Listing]:
    """Return the data sets, and the forms of a user's own."""
    rows = []
    for name, origin in DATA_NAMES.items():
        shape = image_shape(name)
        rows.append((name, f"{shape.num_classes} classes, {shape.size}x{shape.size}x{shape.in_channels}, {origin}"))
    return [Listing("data sets", ("--data", "what it is"), rows + list(OWN_DATA.items()))]


def list_settings() -> list[Listing]:
    """Return every setting of recipes, strategies and networks, with its default as it stands without a paper's."""
    listings = [
        Listing("search", _SETTING, _fields(SearchRecipe())),
        Listing("retraining", _SETTING, _fields(RetrainRecipe(), "retrain.")),
    ]
    families: dict[type, list[str]] = {}
    for spec in method_specs().values():
        choices = getattr(spec.load_strategy()(), "choices", None)
        if isinstance(choices, Checked):
            families.setdefault(type(choices), []).append(spec.name)
    for kind, names in families.items():
        listings.append(Listing(f"strategies {', '.join(names)}", _SETTING, _fields(kind())))
    for name in space_names():
        arguments = _arguments(space_spec(name).load_network())
        listings.append(Listing(f"space {name}: space. for its supernet, net. for its network", _SETTING, arguments))
    return listings


_SETTING = ("--set", "expected", "default")


def _fields(declared: Any, prefix: str = "") -> list[tuple[str, ...]]:
    hints = get_type_hints(type(declared))
    return [
        (prefix + each.name, in_words(hints[each.name], each.metadata.get("accepts", Accepts())), _shown(value))
        for each in dataclasses.fields(declared)
        for value in [getattr(declared, each.name)]
    ]


def _arguments(network: Callable[..., Any]) -> list[tuple[str, ...]]:
    declared = declared_arguments(network) or {}
    return [(name, in_words(each.hint, Accepts()), _shown(each.default)) for name, each in declared.items()]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


LISTS: Mapping[str, Callable[[], list[Listing]]] = MappingProxyType(
    {
        "strategies": list_strategies,
        "spaces": list_spaces,
        "published": list_published,
        "data": list_data,
        "settings": list_settings,
    }
)
"""What ``nni-plugins list`` knows, by its argument."""
