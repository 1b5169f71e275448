"""Methods by name: those of this folder, those of other packages, and a class that the command line names.

A package of this folder is a method's by having ``SPECS``, so that adding a method is adding a folder. Another package
offers :class:`~nni_plugins.methods.spec.MethodSpec` objects under the entry point group ``nni_plugins.methods``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nni_plugins.methods.spec import MethodSpec
from nni_plugins.tools.own_code import is_own, own

GROUP = "nni_plugins.methods"

_OF_A_STRATEGY = (
    "setting_names", "fitted", "mutate_model", "make_evaluator", "epoch_metrics", "too_short", "undecided",
)  # fmt: skip


@functools.cache
def built_in_specs() -> Mapping[str, MethodSpec]:
    """Return the methods of this folder by name; this imports neither torch nor NNI."""
    package = importlib.import_module("nni_plugins.methods")
    folders = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)
    return MappingProxyType(
        {
            spec.name: spec
            for folder in folders
            for spec in getattr(importlib.import_module(f"nni_plugins.methods.{folder}"), "SPECS", ())
        }
    )


@functools.cache
def method_specs() -> Mapping[str, MethodSpec]:
    """Return every registered method by its name.

    Raises
    ------
    ValueError
        If an entry point of another package cannot be loaded, is no :class:`MethodSpec`, or takes a name twice.
    """
    found = dict(built_in_specs())
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            spec = point.load()
        except Exception as error:
            raise ValueError(
                f"The method {point.name!r} of the installed package {_package(point)} cannot be loaded "
                f"({type(error).__name__}: {error}); repair or uninstall that package."
            ) from error
        if not isinstance(spec, MethodSpec):
            raise ValueError(
                f"The method {point.name!r} of the installed package {_package(point)} is a {type(spec).__name__}; its "
                f"entry point in the group {GROUP} must name a MethodSpec."
            )
        if spec.name in found:
            raise ValueError(
                f"The installed package {_package(point)} offers a method {spec.name!r}, but that name is taken; "
                "rename it there, or uninstall that package."
            )
        found[spec.name] = spec
    return MappingProxyType(found)


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def method_spec(name: str) -> MethodSpec:
    """Return the method called ``name``; ``module:Class`` is one that the command line has named.

    Raises
    ------
    ValueError
        If there is none; the message lists the valid names.
    """
    specs = method_specs()
    if isinstance(name, str) and name in specs:
        return specs[name]
    if not isinstance(name, str) or not is_own(name):
        raise ValueError(
            f"Unknown strategy {name!r}; expected one of {', '.join(specs)}, or module:Class for your own."
        )
    found = own(name, "strategy", "--strategy")
    if isinstance(found, MethodSpec):
        return found
    missing = [wanted for wanted in _OF_A_STRATEGY if not callable(getattr(found, wanted, None))]
    if not isinstance(found, type) or missing:
        raise ValueError(
            f"{name!r} is no strategy: expected a class such as nni_plugins.BilevelSearch, an NNI one-shot strategy "
            f"with nni_plugins.methods.spec.SearchMethod before it, or a MethodSpec"
            f"{', but it has no ' + missing[0] if isinstance(found, type) else f', got {type(found).__name__}'}."
        )
    return MethodSpec(name, found, summary=(found.__doc__ or name).strip().splitlines()[0], papers=())


def public_names() -> dict[str, Any]:
    """Return the classes that :mod:`nni_plugins` offers by name: strategies, their relatives, and parts."""
    from nni_plugins.methods.bilevel.choices import PARTS
    from nni_plugins.methods.bilevel.strategy import BilevelSearch
    from nni_plugins.methods.relative_nas.multi_trial import SlowFastEvolution
    from nni_plugins.methods.relative_nas.tuner import RelativeNASTuner

    strategies = [spec.load_strategy() for spec in method_specs().values()]
    ours: tuple[type, ...] = (BilevelSearch, *strategies, RelativeNASTuner, SlowFastEvolution, *PARTS)
    return {each.__name__: each for each in ours if each.__module__.startswith("nni_plugins.")}
