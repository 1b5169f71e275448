"""Descriptions and lists as tables for a person. Imports neither torch nor NNI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of texts under their columns."""
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)


def print_choices(choices: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the choices of a search space."""
    rows = ((name, ", ".join(map(str, entry["_value"]))) for name, entry in choices.items())
    print_table("", ("choice", "values"), rows)


def print_description(description: Mapping[str, Any]) -> None:
    """Print cells as tables, and everything else line by line."""
    for kind, nodes in description.get("cells", {}).items():
        rows = (
            (index, ", ".join(f"{operation}({source})" for operation, source in connections))
            for index, connections in nodes.items()
        )
        print_table(f"{kind} cell", ("node", "connections"), rows)
    console = Console()
    for name, value in description.items():
        if name != "cells":
            console.print(f"{name.replace('_', ' ')}: {_readable(value)}", markup=False, soft_wrap=True)


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
