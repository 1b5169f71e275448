"""Everything that defines a run, checked before any work is done.

What is not set is what the papers set, in this order, the later winning: the method's search, the space's search and
evaluation, the method's on this space; then, for the small embedded set ``digits``, quick settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nni_plugins.methods.registry import method_spec
from nni_plugins.methods.spec import MethodSpec, Strategy
from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
from nni_plugins.run.values import parse_value, plain_value
from search_spaces.registry import space_names, space_spec

SECTIONS = ("search", "retrain", "space", "net")
"""Kinds of settings; those of all but the first have the section's name as a prefix."""

QUICK: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "search": MappingProxyType({"epochs": 5, "batch_size": 128, "lr": 0.1}),
        "retrain": MappingProxyType({"epochs": 4, "batch_size": 64, "lr": 0.05, "cutout": 4, "drop_path": 0.0}),
    }
)
"""For ``digits``, by section: minutes on two cores."""


@dataclass(frozen=True)
class Settings:
    """One run: search, retraining, export.

    Parameters
    ----------
    strategy, space, data
        Names, as :mod:`nni_plugins.methods.registry`, :mod:`search_spaces.registry` and
        :func:`nni_plugins.data.load_data` know them.
    seed
        Of initialisation, data split and data order.
    choices
        Settings of the strategy that differ from its preset.
    search, retrain
        Recipes.
    space_arguments, net_arguments
        Arguments of the search space, and sizes of the evaluation network.
    """

    strategy: str = "bnas_v2_pc"
    space: str = "bcnn"
    data: str = "digits"
    seed: int = 0
    choices: Mapping[str, Any] = field(default_factory=dict)
    search: SearchRecipe = field(default_factory=SearchRecipe)
    retrain: RetrainRecipe = field(default_factory=RetrainRecipe)
    space_arguments: Mapping[str, Any] = field(default_factory=dict)
    net_arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        strategy: str = "bnas_v2_pc",
        space: str = "bcnn",
        data: str = "digits",
        seed: int = 0,
        overrides: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Make settings from names and single values, every one checked.

        Parameters
        ----------
        overrides
            Single settings by name: fields of :class:`SearchRecipe` or of the strategy as they are (``epochs``,
            ``warmup_epochs``), those of :class:`RetrainRecipe` with the prefix ``retrain.``, arguments of the space
            with ``space.`` and of the evaluation network with ``net.``. Texts are read as
            :func:`~nni_plugins.run.values.parse_value` says.

        Raises
        ------
        ValueError
            If a name or a value is not valid; the message says what is.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}.")
        method = method_spec(strategy)
        quick = data == "digits"
        sections = published(method, space, quick=quick)
        choices: dict[str, Any] = {}
        of_the_strategy = method.strategy.setting_names()
        of_the_search = [name for name in SearchRecipe.names() if name not in method.strategy.unused_settings]
        for name, text in {**(method.quick if quick else {}), **(overrides or {})}.items():
            section, _, rest = name.partition(".")
            if rest and section in SECTIONS[1:]:
                sections[section][rest] = parse_value(text)
            elif name in of_the_strategy:
                choices[name] = parse_value(text)
            elif name in of_the_search:
                sections["search"][name] = parse_value(text)
            else:
                raise ValueError(
                    f"The strategy {strategy} has no setting {name!r}; expected one of "
                    f"{', '.join(dict.fromkeys([*of_the_strategy, *of_the_search]))}, or one with the prefix "
                    "retrain., space. or net."
                )
        search = SearchRecipe.of(sections["search"])
        return cls(
            strategy,
            space,
            data,
            seed,
            method.strategy.fitted(choices, search.epochs),
            search,
            RetrainRecipe.of(sections["retrain"], prefix="retrain."),
            sections["space"],
            sections["net"],
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Make settings from what :meth:`to_dict` returned, after a trip through JSON.

        Raises
        ------
        ValueError
            If a key is missing, or a value is not valid.
        """
        try:
            return cls(
                values["strategy"],
                values["space"],
                values["data"],
                values["seed"],
                {name: parse_value(value) for name, value in values["choices"].items()},
                SearchRecipe.of(values["search"]),
                RetrainRecipe.of(values["retrain"], prefix="retrain."),
                values["space_arguments"],
                values["net_arguments"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"These are not the settings of a run ({type(error).__name__}: {error}).") from None

    def make_strategy(self) -> Strategy:
        """Return a fresh strategy with these choices."""
        return method_spec(self.strategy).strategy(**self.choices)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; parts of the strategy as the text that names them."""
        return {
            "strategy": self.strategy,
            "space": self.space,
            "data": self.data,
            "seed": self.seed,
            "choices": {name: plain_value(value) for name, value in vars(self.make_strategy().choices).items()},
            "search": vars(self.search).copy(),
            "retrain": vars(self.retrain).copy(),
            "space_arguments": dict(self.space_arguments),
            "net_arguments": dict(self.net_arguments),
        }


def published(method: MethodSpec, space: str, *, quick: bool = False) -> dict[str, dict[str, Any]]:
    """Return what the papers set for a method on a space, by section.

    Parameters
    ----------
    quick
        With the quick settings of the embedded digits over it, other than the method's own.
    """
    layers: list[Mapping[str, Mapping[str, Any]]] = [{"search": method.search}]
    known = space_spec(space) if space in space_names() else None
    if known is not None:
        layers.append({"search": known.search, "retrain": known.evaluation})
    layers.append({"space": method.on(space).arguments, "retrain": method.on(space).evaluation})
    if quick:
        layers.append(QUICK)
        if known is not None:
            layers.append({"space": known.quick_search_sizes, "net": known.quick_evaluation_sizes})
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for layer in layers:
        for section, values in layer.items():
            sections[section] |= values
    return sections
