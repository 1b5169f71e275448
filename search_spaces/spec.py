"""What a search space declares: everything that is said of it by name, without importing torch or NNI."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .arguments import check_arguments
from .cell_graph import Layout

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace


@dataclass(frozen=True, eq=False, kw_only=True)
class SpaceSpec:
    """The declaration of a search space, unchangeable.

    Parameters
    ----------
    name
        What the command line, NNI's parameters and genotype files call the space.
    layout
        Its kinds of cell; the genotype is validated against them.
    network
        The class (or function) of the network, ``package.module:Class``. It takes ``num_classes``, ``in_channels``,
        ``stem`` and sizes and returns an NNI ``ModelSpace``, which is the supernet to be or, made inside
        ``model_context``, the evaluation network.
    network_arguments
        What tells this space's network from others of the same class.
    published_sizes
        Sizes of the papers' evaluation networks by stem, ``cifar`` and ``imagenet``.
    search
        What papers set differently for a search on this space: fields of
        :class:`nni_plugins.run.recipes.SearchRecipe`.
    evaluation
        What papers set for a retraining, by stem: fields of :class:`nni_plugins.run.recipes.RetrainRecipe`. A stem that
        is not there is evaluated as ``cifar``.
    quick_search_sizes, quick_evaluation_sizes
        Sizes of a small supernet and of a small evaluation network, for the embedded digits.

    Raises
    ------
    ValueError
        If the name or the reference to the network cannot be one, or the layout has no cells or cells with different
        numbers of inputs.
    """

    name: str
    layout: Layout
    network: str
    network_arguments: Mapping[str, Any] = field(default_factory=dict)
    published_sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quick_search_sizes: Mapping[str, Any] = field(default_factory=dict)
    quick_evaluation_sizes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name:
            raise ValueError(f"The name of a search space is a word without a colon, got {self.name!r}.")
        module, _, attribute = self.network.partition(":")
        if not module or not attribute:
            raise ValueError(
                f"The network of the {self.name} space is {self.network!r}; expected package.module:Class."
            )
        inputs = {kind: graph.num_inputs for kind, graph in self.layout.items()}
        if len(set(inputs.values())) != 1:
            raise ValueError(
                f"All cells of a space have the same number of inputs, and there is at least one kind of them; the "
                f"{self.name} space has {inputs or 'none'}."
            )
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Mapping):
                object.__setattr__(self, each.name, _frozen(value))

    @property
    def num_inputs(self) -> int:
        """Number of inputs of every cell."""
        return next(iter(self.layout.values())).num_inputs

    def load_network(self) -> Callable[..., ModelSpace]:
        """Return what makes the network; this imports torch and NNI.

        Raises
        ------
        ImportError, AttributeError
            If :attr:`network` does not exist.
        """
        module, _, attribute = self.network.partition(":")
        return partial(getattr(importlib.import_module(module), attribute), **self.network_arguments)

    def check_arguments(self, values: Mapping[str, Any], *, prefix: str = "") -> None:
        """Refuse arguments by name that the network does not take, or bad values of them; this imports torch and NNI.

        Parameters
        ----------
        prefix
            How the caller writes their names, such as ``space.``; messages do the same.

        Raises
        ------
        ValueError
            With the argument, what is expected and what was given.
        """
        check_arguments(self.load_network(), values, prefix=prefix)


def _frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType({k: _frozen(v) if isinstance(v, Mapping) else v for k, v in values.items()})
