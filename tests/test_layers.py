"""The floor plan: every import points downwards, and none goes in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = (
    ("nni_plugins.cli", "nni_plugins.commands", "nni_plugins.trial", "nni_plugins.experiment"),
    ("nni_plugins.transfer",),
    ("nni_plugins.run",),
    ("nni_plugins.deploy",),
    ("nni_plugins.methods",),
    ("nni_plugins.report",),
    ("nni_plugins.supernet", "nni_plugins.data"),
    ("nni_plugins.tools",),
    ("search_spaces",),
)
"""From the doors down; rooms in one line do not know each other."""


def modules() -> dict[str, Path]:
    found = {}
    for package in ("nni_plugins", "search_spaces"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str], *, lazy: bool) -> set[str]:
    """Modules of ours that a module imports; with ``lazy`` also inside functions and for type checkers."""
    tree = ast.parse(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    nodes = list(ast.walk(tree)) if lazy else [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            # `from package import module` is an import of the module
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return {each for each in found & known if each != name}


def room(name: str) -> int | None:
    """Number of the room of a module from the top; None for the package itself."""
    for level, rooms in enumerate(ROOMS):
        if any(name == each or name.startswith(f"{each}.") for each in rooms):
            return level
    return None


def test_every_module_has_a_room() -> None:
    assert {name for name in modules() if room(name) is None} == {"nni_plugins"}


def test_no_import_goes_in_a_circle() -> None:
    known = modules()
    graph = {name: imports(name, path, set(known), lazy=False) for name, path in known.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(known)  # raises CycleError with the circle


def test_every_arrow_points_downwards() -> None:
    known = modules()
    upwards = []
    for name, path in known.items():
        start = room(name)
        for target in imports(name, path, set(known), lazy=True):
            end = room(target)
            if start is None or end is None:
                continue
            same = name.split(".")[:2] == target.split(".")[:2]
            if end < start or (end == start and not same and name.split(".")[0] == "nni_plugins" and start > 0):
                upwards.append(f"{name} -> {target}")
    assert upwards == []


def test_search_spaces_stands_alone() -> None:
    known = modules()
    for name, path in known.items():
        if name.startswith("search_spaces"):
            assert not [t for t in imports(name, path, set(known), lazy=True) if t.startswith("nni_plugins")], name
