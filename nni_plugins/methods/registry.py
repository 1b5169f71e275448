"""Names on the command line and in NNI's parameters: strategies, search spaces, and the parts of a strategy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from search_spaces.genotype import is_own_space
from search_spaces.registry import space_spec

STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "bnas_d": "BNASD",
        "bnas_v2_clr": "BNASv2CLR",
        "bnas_v2_pc": "BNASv2PC",
        "darts": "FirstOrderDARTS",
        "darts_second_order": "SecondOrderDARTS",
        "pc_darts": "PCDARTS",
        "rf_darts": "RFDARTS",
        "rf_pcdarts": "RFPCDARTS",
        "entrannas": "EnTranNAS",
        "entrannas_dst": "EnTranNASDST",
        "relative_nas": "RelativeNAS",
    }
)
"""Strategy names and the classes of :mod:`nni_plugins` that they stand for."""

PARTS = (
    "Softmax",
    "EdgeNormalisation",
    "SparseThreshold",
    "AllChannels",
    "PartialChannels",
    "PerEdge",
    "PerSource",
    "Everything",
    "BatchNormOnly",
    "Constant",
    "Confident",
)
"""Parts of a bilevel search that a setting may name, such as ``arch_lr=Confident(power=2)``."""


def strategy_class(name: str) -> Any:
    """The strategy class called ``name``.

    Raises
    ------
    ValueError
        If there is none; the sentence lists the valid names.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Unknown strategy {name!r}; expected one of {', '.join(STRATEGIES)}.")
    return getattr(importlib.import_module("nni_plugins"), STRATEGIES[name])


def make_space(name: str, **arguments: Any) -> ModelSpace:
    """A fresh model space.

    Parameters
    ----------
    name
        One of :func:`search_spaces.space_names`, or ``module:function`` for your own: a callable that takes at least
        ``num_classes`` and ``in_channels`` and returns an NNI model space.
    **arguments
        Passed on.

    Raises
    ------
    ValueError
        If the name or an argument is not known, or the result is not a model space.
    """
    make: Callable[..., Any]
    if is_own_space(name):
        module, _, function = name.partition(":")
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"The search space {name!r} cannot be imported ({error}); expected module:function on the Python path."
            ) from None
    else:
        make = space_spec(name).load_network()
    try:
        space: Any = make(**arguments)
    except TypeError as error:
        raise ValueError(f"The search space {name!r} does not take these arguments: {error}.") from None
    if not isinstance(space, ModelSpace):
        raise ValueError(f"{name!r} returned {type(space).__name__}; expected an NNI ModelSpace.")
    return space


def make_part(name: str, **arguments: Any) -> Any:
    """A part of a bilevel search, such as ``Confident(power=2)``.

    Raises
    ------
    ValueError
        If the part or an argument is not known.
    """
    if name not in PARTS:
        raise ValueError(f"Unknown part {name!r}; expected one of {', '.join(PARTS)}.")
    try:
        return getattr(importlib.import_module("nni_plugins"), name)(**arguments)
    except TypeError as error:
        raise ValueError(f"The part {name} does not take these arguments: {error}.") from None
