"""Everything that defines a run, checked before any work is done.

What is not set is what the papers set, in this order, the later winning: the method's search, the space's search and
evaluation, the method's on this space; then, for the small embedded set ``digits``, quick settings. Papers evaluate on
small images and on ImageNet differently: the stem, which follows from the size of the images, says which is meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nni_plugins.methods.registry import method_spec
from nni_plugins.methods.spec import MethodSpec, Strategy
from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
from nni_plugins.run.values import parse_value, plain_value
from nni_plugins.tools.own_code import is_own
from search_spaces.registry import space_names, space_spec

SECTIONS = ("search", "retrain", "space", "net")
"""Kinds of settings; those of all but the first have the section's name as a prefix."""
_WITH_PREFIX = SECTIONS[1:]

QUICK: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "search": MappingProxyType({"epochs": 5, "batch_size": 32, "lr": 0.1}),
        "retrain": MappingProxyType(
            {"epochs": 10, "batch_size": 64, "lr": 0.1, "label_smoothing": 0.1, "cutout": 0, "drop_path": 0.0}
        ),
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
        sections: Sequence[str] = SECTIONS,
        stem: str = "cifar",
    ) -> Settings:
        """Make settings from names and single values, every one checked.

        Parameters
        ----------
        overrides
            Single settings by name: fields of :class:`SearchRecipe` or of the strategy as they are (``epochs``,
            ``warmup_epochs``), those of :class:`RetrainRecipe` with the prefix ``retrain.``, arguments of the space
            with ``space.`` and of the evaluation network with ``net.``. Texts are read as
            :func:`~nni_plugins.run.values.parse_value` says.
        sections
            Those of :data:`SECTIONS` that mean something to the caller; settings of the others are refused.
        stem
            That of the data's images, :func:`search_spaces.image_shapes.stem_of`, where they are known.

        Raises
        ------
        ValueError
            If a name or a value is not valid; the message says what is.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}.")
        method = method_spec(strategy)
        if not is_own(space):
            space_spec(space)
        elif "space" in sections:
            sections = [section for section in sections if section != "net"]  # its own freeze() makes its network
        given = by_section(overrides or {}, sections)
        quick = data == "digits"
        values = published(method, space, stem=stem, quick=quick)
        for section in _WITH_PREFIX:
            values[section] |= given[section]
        kind, choices = method.load_strategy(), {}
        of_the_strategy = kind.setting_names()
        of_the_search = [name for name in SearchRecipe.names() if name not in kind.unused_settings]
        for name, value in {**by_section(method.quick if quick else {})["search"], **given["search"]}.items():
            if name in of_the_strategy:
                choices[name] = value
            elif name in of_the_search:
                values["search"][name] = value
            else:
                raise ValueError(
                    f"The strategy {strategy} has no setting {name!r}; expected one of "
                    f"{', '.join(dict.fromkeys([*of_the_strategy, *of_the_search]))}, or one with the prefix "
                    f"{_prefixes(sections)}."
                )
        _check_arguments(space, values["space"], values["net"])
        search = SearchRecipe.of(values["search"])
        values["retrain"].setdefault("devices", search.devices)
        return cls(
            strategy,
            space,
            data,
            seed,
            kind.fitted(choices, search.epochs),
            search,
            RetrainRecipe.of(values["retrain"], prefix="retrain."),
            values["space"],
            values["net"],
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
            _check_arguments(values["space"], values["space_arguments"], values["net_arguments"])
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
        return method_spec(self.strategy).load_strategy()(**self.choices)

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


def by_section(settings: Mapping[str, Any], sections: Sequence[str] = SECTIONS) -> dict[str, dict[str, Any]]:
    """Return single settings by their section and without its prefix, texts read as values.

    Parameters
    ----------
    settings
        Values or texts by name, as :meth:`Settings.of` takes them.
    sections
        Those that may be set.

    Raises
    ------
    ValueError
        If a setting belongs to another section; the message says how it might be meant.
    """
    found: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in settings.items():
        prefix, _, rest = name.partition(".")
        section, rest = (prefix, rest) if rest and prefix in _WITH_PREFIX else ("search", name)
        if section not in sections:
            fits = [each for each in sections if each != "retrain" or rest in RetrainRecipe.names()]
            example = next((f", such as {each}.{rest}" for each in fits if each in _WITH_PREFIX), "")
            without = "none or " if "search" in sections else ""
            raise ValueError(
                f"There is no setting {name!r} here; expected {without}the prefix {_prefixes(sections)}{example}."
            )
        found[section][rest] = parse_value(value)
    return found


def _prefixes(sections: Sequence[str]) -> str:
    *others, last = [f"{section}." for section in sections if section != "search"]
    return f"{', '.join(others)} or {last}" if others else last


def _check_arguments(space: str, of_the_space: Mapping[str, Any], of_the_net: Mapping[str, Any]) -> None:
    """Refuse arguments that a registered space does not take; a user's own space says itself what it takes."""
    if space in space_names():
        space_spec(space).check_arguments(of_the_space, prefix="space.")
        space_spec(space).check_arguments(of_the_net, prefix="net.")


def published(method: MethodSpec, space: str, *, stem: str = "cifar", quick: bool = False) -> dict[str, dict[str, Any]]:
    """Return what the papers set for a method on a space, by section.

    Parameters
    ----------
    stem
        ``cifar`` or ``imagenet``: which of the papers' evaluations.
    quick
        With the quick settings of the embedded digits over it, other than the method's own.
    """
    layers: list[Mapping[str, Mapping[str, Any]]] = [{"search": method.search}]
    known = space_spec(space) if space in space_names() else None
    if known is not None:
        evaluation = known.evaluation.get(stem, known.evaluation.get("cifar", {}))
        layers.append({"search": known.search, "retrain": evaluation})
    own = method.on(space)
    layers.append({"space": own.arguments, "retrain": own.evaluation.get(stem, {}), "net": own.sizes.get(stem, {})})
    if quick:
        layers.append(QUICK)
        if known is not None:
            layers.append({"space": known.quick_search_sizes, "net": known.quick_evaluation_sizes})
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for layer in layers:
        for section, values in layer.items():
            sections[section] |= values
    return sections
