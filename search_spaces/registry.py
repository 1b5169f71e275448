"""Search spaces by name: those of this package, and those that installed packages declare.

A package declares a space by an entry point of the group :data:`ENTRY_POINTS` that loads to a :class:`SpaceSpec`::

    [project.entry-points."nni_plugins.spaces"]
    my_space = "my_package.my_space:SPEC"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from . import bcnn, darts, nasbench201
from .spec import SpaceSpec

ENTRY_POINTS = "nni_plugins.spaces"

_BUILT_IN: Mapping[str, SpaceSpec] = MappingProxyType(
    {spec.name: spec for spec in (bcnn.SPEC, *darts.SPECS, nasbench201.SPEC)}
)


def built_in_spaces() -> tuple[str, ...]:
    """Return the names of this package's search spaces."""
    return tuple(_BUILT_IN)


def space_names() -> tuple[str, ...]:
    """Return the names of all search spaces, this package's first.

    Raises
    ------
    ValueError
        If an installed package declares a space wrongly; the message names the package.
    """
    return tuple(_all_specs())


def space_spec(name: str) -> SpaceSpec:
    """Return the declaration of a search space.

    Packages that declare further spaces are imported only for a name that is none of this package's.

    Raises
    ------
    ValueError
        If there is no such space; the message lists the valid names.
    """
    spec = _BUILT_IN.get(name) or _all_specs().get(name)
    if spec is None:
        raise ValueError(
            f"Unknown search space {name!r}; expected one of {', '.join(space_names())}, or module:function for your "
            "own."
        )
    return spec


@cache
def _all_specs() -> Mapping[str, SpaceSpec]:
    specs = dict(_BUILT_IN)
    for entry_point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: each.name):
        spec = _load(entry_point)
        if spec.name in specs:
            raise ValueError(
                f"{_package(entry_point)} declares a search space {spec.name!r}, but there is one of that name; "
                "rename it, or uninstall the package."
            )
        specs[spec.name] = spec
    return MappingProxyType(specs)


def _load(entry_point: EntryPoint) -> SpaceSpec:
    where = f"{_package(entry_point)} declares the search space {entry_point.name!r} as {entry_point.value}"
    try:
        spec = entry_point.load()
    except Exception as error:  # another package's code may raise anything
        raise ValueError(f"{where}, which cannot be loaded ({error}); correct or uninstall the package.") from error
    if not isinstance(spec, SpaceSpec):
        raise ValueError(
            f"{where}, which is a {type(spec).__name__}; expected a search_spaces.SpaceSpec (correct or uninstall the "
            "package)."
        )
    return spec


def _package(entry_point: EntryPoint) -> str:
    return f"The package {entry_point.dist.name if entry_point.dist else entry_point.value.partition('.')[0]}"
