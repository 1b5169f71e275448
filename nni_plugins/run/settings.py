"""Everything that defines a run, from names and ``key=value`` texts to checked values.

What is not set is the paper's CIFAR-10 setting of the strategy; the small embedded set ``digits`` has quick settings of
its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nni_plugins.methods.registry import make_part, strategy_class
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE


class Recipe(BaseModel):
    """How weights are trained: SGD with a cosine per epoch.

    Parameters
    ----------
    epochs, batch_size
        Length of the training and images per step.
    lr, lr_min, lr_warmup_epochs
        Learning rate at the start and at the end of the cosine, and epochs of linear warm-up before it.
    momentum, nesterov, weight_decay
        SGD.
    label_smoothing
        Share of the target spread over all classes.
    precision
        ``32-true``, or ``bf16-mixed`` for bfloat16 autocast.
    channels_last
        Memory layout; faster on most GPUs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(256, ge=2)
    lr: float = Field(0.1, gt=0)
    lr_min: float = Field(0.0, ge=0)
    lr_warmup_epochs: int = Field(0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(3e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False


class SearchRecipe(Recipe):
    """A :class:`Recipe` for the supernet.

    Parameters
    ----------
    weights_fraction, architecture_fraction
        Shares of every class of the training set for the weights and for the architecture; the paper takes halves on
        CIFAR-10, 10 % and 2.5 % on ImageNet.
    cutout
        Side of the square cut out of augmented images, in pixels.
    augment_validation
        Validate on augmented images, as RelativeNAS's released code does.
    consistency_batches
        Validation batches per epoch on which the supernet is compared with its derived sub-graph; 0 for none.
    hessian, hessian_stop
        Measure the dominant eigenvalue of the validation loss's Hessian every epoch, and stop when it grows.
    table
        NAS-Bench-201 table (.npz) in which every epoch's cell is looked up, for plots only.
    """

    weights_fraction: float = Field(0.5, gt=0, lt=1)
    architecture_fraction: float = Field(0.5, gt=0, lt=1)
    cutout: int = Field(0, ge=0)
    augment_validation: bool = False
    consistency_batches: int = Field(4, ge=0)
    hessian: bool = False
    hessian_stop: bool = False
    table: str | None = None


class RetrainRecipe(Recipe):
    """A :class:`Recipe` for the derived network; defaults are BNAS-v2's on CIFAR-10.

    Parameters
    ----------
    gradient_clip_val
        Largest norm of the gradient.
    cutout
        Side of the square cut out of every training image, in pixels.
    drop_path
        Drop-path probability at the last epoch, growing linearly.
    auxiliary_weight
        Weight of the auxiliary head's loss, where the network has such a head.
    """

    epochs: int = Field(600, ge=1)
    batch_size: int = Field(128, ge=2)
    lr: float = Field(0.025, gt=0)
    gradient_clip_val: float | None = Field(5.0, gt=0)
    cutout: int = Field(16, ge=0)
    drop_path: float = Field(0.3, ge=0, lt=1)
    auxiliary_weight: float = Field(0.0, ge=0)


_DARTS = MappingProxyType({"batch_size": 64, "lr": 0.025, "lr_min": 0.001})

SEARCH_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "bnas_d": {},
        "bnas_v2_clr": {},
        "bnas_v2_pc": {"batch_size": 512, "lr": 0.2},
        "darts": _DARTS,
        "darts_second_order": _DARTS,
        "rf_darts": _DARTS,
        "entrannas": {"lr_min": 0.001},
        "entrannas_dst": {"lr_min": 0.001},
        "relative_nas": {"lr_min": 0.001, "cutout": 16, "augment_validation": True},
    }
)
"""What each strategy's paper sets differently from :class:`SearchRecipe`, on CIFAR-10."""

_DARTS_SPACES = ("darts", "darts_any", "s1", "s2", "s3", "s4")

SPACE_DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "nasbench201": {
            "search": {"nesterov": True, "weight_decay": 5e-4},
            "retrain": {"epochs": 200, "batch_size": 256, "lr": 0.1, "weight_decay": 5e-4, "nesterov": True,
                        "cutout": 0, "drop_path": 0.0, "gradient_clip_val": None},
        },
        **{
            space: {"retrain": {"batch_size": 96, "drop_path": 0.2, "auxiliary_weight": 0.4}}
            for space in _DARTS_SPACES
        },
    }
)  # fmt: skip
"""What the papers set differently on each space, by section."""

PAPER_SPACES: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        (strategy, "darts"): {"space": {"operations": DARTS_OPERATIONS_WITHOUT_NONE}}
        for strategy in ("entrannas", "relative_nas")
    }
)
"""Where a strategy's paper takes another form of a space, by strategy and space."""

DIGITS_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "search": {"epochs": 5, "batch_size": 128, "lr": 0.1},
        "retrain": {"epochs": 4, "batch_size": 64, "lr": 0.05, "cutout": 4, "drop_path": 0.0},
    }
)
"""Quick settings for the embedded set, by section."""

DIGITS_STRATEGIES: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"relative_nas": {"search": {"epochs": 6, "batch_size": 32, "lr": 0.05, "cutout": 0, "augment_validation": False}}}
)
"""What a strategy's paper sets and small images do not bear."""

DIGITS_SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "bcnn": {"space": {"channels": 4}, "net": {"channels": 8, "deep_cells": 1, "enhancement_cells": 1}},
        "nasbench201": {"space": {"channels": 4, "cells": 1}, "net": {"channels": 8, "cells": 1}},
        **{
            space: {"space": {"channels": 4, "layers": 3}, "net": {"channels": 8, "layers": 5, "auxiliary": False}}
            for space in _DARTS_SPACES
        },
    }
)
"""Small networks for the embedded set, by space and section."""

PUBLISHED_EPOCHS = 50
SECTIONS = ("search", "retrain", "space", "net")


@dataclass(frozen=True)
class Settings:
    """One run: search, retraining, export.

    Parameters
    ----------
    strategy, space, data
        Names, as :mod:`nni_plugins.methods.registry` and :func:`nni_plugins.data.load_data` know them.
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
        """Settings from names and single values, every one checked before any work is done.

        Parameters
        ----------
        overrides
            Single settings by name: fields of :class:`SearchRecipe` or of the strategy as they are (``epochs``,
            ``warmup_epochs``), those of :class:`RetrainRecipe` with the prefix ``retrain.``, arguments of the space
            with ``space.`` and of the evaluation network with ``net.``. Texts are read as :func:`parse_value` says.

        Raises
        ------
        ValueError
            If a name or a value is not valid; the sentence says what is.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}.")
        strategy_type = strategy_class(strategy)
        sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        sections["search"] |= SEARCH_DEFAULTS.get(strategy, {})
        layers = [SPACE_DEFAULTS.get(space, {}), PAPER_SPACES.get((strategy, space), {})]
        if data == "digits":
            layers += [DIGITS_DEFAULTS, DIGITS_SIZES.get(space, {}), DIGITS_STRATEGIES.get(strategy, {})]
        for layer in layers:
            for section, values in layer.items():
                sections[section] |= values
        choices: dict[str, Any] = {}
        valid_choices = strategy_type.setting_names()
        recipe_names = [name for name in SearchRecipe.model_fields if name not in strategy_type.unused_settings]
        for name, text in (overrides or {}).items():
            value = parse_value(text)
            section, _, rest = name.partition(".")
            if rest and section in SECTIONS[1:]:
                sections[section][rest] = value
            elif name in valid_choices:
                choices[name] = value
            elif name in recipe_names:
                sections["search"][name] = value
            else:
                raise ValueError(
                    f"The strategy {strategy} has no setting {name!r}; expected one of "
                    f"{', '.join(dict.fromkeys([*valid_choices, *recipe_names]))}, or one with the prefix "
                    "retrain., space. or net."
                )
        search = validated(SearchRecipe, sections["search"])
        warmup = strategy_type.preset.get("warmup_epochs", 0)
        if warmup and "warmup_epochs" not in choices and search.epochs != PUBLISHED_EPOCHS:
            choices["warmup_epochs"] = round(warmup * search.epochs / PUBLISHED_EPOCHS)
        if search.weights_fraction + search.architecture_fraction > 1:
            raise ValueError(
                f"weights_fraction={search.weights_fraction} and architecture_fraction={search.architecture_fraction} "
                "share one training set; lower one so that they add up to at most 1."
            )
        chosen = strategy_type(**choices).choices
        if getattr(chosen, "warmup_epochs", 0) >= search.epochs:
            raise ValueError(
                f"warmup_epochs={chosen.warmup_epochs} leaves none of the {search.epochs} epochs to the architecture; "
                "lower it or raise epochs."
            )
        return cls(
            strategy, space, data, seed, choices, search, validated(RetrainRecipe, sections["retrain"]),
            sections["space"], sections["net"],
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from what :meth:`to_dict` returned, after a trip through JSON."""
        return cls(
            values["strategy"], values["space"], values["data"], values["seed"],
            {name: parse_value(value) for name, value in values["choices"].items()},
            validated(SearchRecipe, values["search"]), validated(RetrainRecipe, values["retrain"]),
            values["space_arguments"], values["net_arguments"],
        )  # fmt: skip

    def make_strategy(self) -> Any:
        """A fresh strategy with these choices."""
        return strategy_class(self.strategy)(**self.choices)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; parts of the strategy as the text that names them."""
        return {
            "strategy": self.strategy,
            "space": self.space,
            "data": self.data,
            "seed": self.seed,
            "choices": {name: _plain(value) for name, value in vars(self.make_strategy().choices).items()},
            "search": self.search.model_dump(),
            "retrain": self.retrain.model_dump(),
            "space_arguments": dict(self.space_arguments),
            "net_arguments": dict(self.net_arguments),
        }


def parse_value(text: Any) -> Any:
    """Read a setting's text: a Python literal, ``true``/``false``/``none``, a part such as ``Confident(power=2)``.

    Anything else stays a text, and what is not a text stays as it is.

    Raises
    ------
    ValueError
        If a part or its arguments are not valid.
    """
    if not isinstance(text, str):
        return text
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    if re.fullmatch(r"\w+\(.*\)", text):
        try:
            call = ast.parse(text, mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                raise SyntaxError
            if call.args:
                raise ValueError(f"Write the arguments of {call.func.id} with their names: {call.func.id}(name=value).")
            arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        except SyntaxError:
            raise ValueError(f"{text!r} is not a part; expected something like Confident(power=2).") from None
        return make_part(call.func.id, **arguments)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def validated(recipe: type[Any], values: Mapping[str, Any]) -> Any:
    """``recipe(**values)``, with the first complaint as one sentence.

    Raises
    ------
    ValueError
        If a field does not exist or its value is not valid.
    """
    try:
        return recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValueError(
                f"There is no setting {name!r}; expected one of {', '.join(recipe.model_fields)}."
            ) from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"The setting {name}={first['input']!r} is not valid: {message}.") from None


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str, list, tuple)) else repr(value)


def parse_assignments(texts: Iterable[str]) -> dict[str, str]:
    """``["epochs=8", "lr=0.1"]`` as a dict of texts.

    Raises
    ------
    ValueError
        If a text has no ``=``.
    """
    assignments = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {text!r} is not an assignment; write --set NAME=VALUE, such as --set epochs=8.")
        assignments[name.strip()] = value.strip()
    return assignments
