"""Settings: defaults of the papers, single values, and one clear sentence for each mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nni_plugins import BatchNormOnly, Confident, PartialChannels
from nni_plugins.run.recipes import RetrainRecipe
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments, parse_value


def test_defaults_on_cifar10_are_the_papers() -> None:
    pc = Settings.of(strategy="bnas_v2_pc", data="cifar10")
    assert (pc.search.epochs, pc.search.batch_size, pc.search.lr, pc.search.lr_min) == (50, 512, 0.2, 0.0)
    assert (pc.search.momentum, pc.search.weight_decay) == (0.9, 3e-4)
    choices: Any = pc.make_strategy().choices
    assert (choices.arch_learning_rate, choices.arch_betas, choices.arch_weight_decay) == (6e-4, (0.5, 0.999), 1e-3)
    assert (choices.warmup_epochs, choices.gradient_clip_val, choices.channels) == (15, 5.0, PartialChannels(4))
    plain = Settings.of(strategy="bnas_d", data="cifar10")
    assert (plain.search.batch_size, plain.search.lr) == (256, 0.1)
    choices = plain.make_strategy().choices
    assert choices.arch_learning_rate == 3e-4
    retrain = RetrainRecipe()
    assert (retrain.epochs, retrain.batch_size, retrain.lr) == (600, 128, 0.025)
    assert (retrain.cutout, retrain.drop_path, retrain.gradient_clip_val) == (16, 0.3, 5.0)


def test_overrides_reach_their_section() -> None:
    settings = Settings.of(
        data="cifar10",
        overrides={
            "epochs": "20", "warmup_epochs": "3", "arch_lr": "Confident(power=3)", "retrain.epochs": "7",
            "space.channels": "8", "net.channels": "12", "precision": "bf16-mixed", "unrolled": "true",
        },
    )  # fmt: skip
    choices: Any = settings.make_strategy().choices
    assert (settings.search.epochs, settings.search.precision, settings.retrain.epochs) == (20, "bf16-mixed", 7)
    assert (choices.warmup_epochs, choices.arch_lr, choices.unrolled) == (3, Confident(power=3), True)
    assert settings.space_arguments == {"channels": 8} and settings.net_arguments == {"channels": 12}


def test_warmup_keeps_the_papers_share_of_a_shorter_search() -> None:
    settings = Settings.of(data="cifar10", overrides={"epochs": 10})
    choices: Any = settings.make_strategy().choices
    assert choices.warmup_epochs == 3


def test_quick_settings_of_a_method_reach_recipe_and_strategy_on_digits_alone() -> None:
    def rate(data: str, **overrides: Any) -> float:
        settings = Settings.of(strategy="entrannas_dst", space="darts_any", data=data, overrides=overrides)
        choices: Any = settings.make_strategy().choices
        return choices.arch_learning_rate

    assert rate("digits") == 0.25
    assert rate("digits", arch_learning_rate="0.01") == 0.01
    assert rate("cifar10") == 6e-4
    assert Settings.of(strategy="relative_nas", space="darts", data="digits").search.epochs == 24
    assert Settings.of(strategy="relative_nas", space="darts", data="cifar10").search.epochs == 50
    found: Any = Settings.of(strategy="rf_darts", space="darts", data="digits").make_strategy().choices
    assert found.trains == BatchNormOnly(train_classifier=True)
    assert Settings.of(strategy="rf_darts", space="darts", data="cifar10").choices == {}


def test_settings_survive_json() -> None:
    settings = Settings.of(overrides={"arch_lr": "Confident(power=3)", "arch_gradient_clip_val": "none"})
    again = Settings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again.to_dict() == settings.to_dict()
    assert again.make_strategy().choices == settings.make_strategy().choices


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3e-4", 3e-4), ("true", True), ("None", None), ("(0.5, 0.9)", (0.5, 0.9)), ("bf16-mixed", "bf16-mixed"),
     ("PartialChannels(fraction=2)", PartialChannels(2)), (7, 7)],
)  # fmt: skip
def test_values(text: object, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"strategy": "bnas"}, "Unknown strategy 'bnas'; expected one of bnas_d, bnas_v2_clr, bnas_v2_pc"),
        ({"overrides": {"momentun": 1}}, "The strategy bnas_v2_pc has no setting 'momentun'; expected one of relax"),
        ({"overrides": {"epochs": "many"}}, "epochs must be a whole number of at least 1, got 'many'."),
        ({"overrides": {"epochs": 0}}, "epochs must be a whole number of at least 1, got 0."),
        ({"overrides": {"retrain.epoch": 3}}, "There is no setting 'retrain.epoch'; expected one of retrain.epochs"),
        ({"overrides": {"warmup_epochs": 5}}, "leaves none of the 5 epochs to the architecture"),
        ({"overrides": {"warmup_epochs": "two"}}, "warmup_epochs"),
        ({"overrides": {"unrolled": "perhaps"}}, "unrolled must be true or false, got 'perhaps'."),
        ({"overrides": {"retrain.lr": "-1"}}, "retrain.lr must be positive, got -1."),
        ({"overrides": {"lr_min": 1}}, "lr_min must be at most lr, where the schedule starts, got lr_min=1.0 and"),
        ({"overrides": {"epochs": "true"}}, "epochs must be a whole number of at least 1, got True."),
        ({"overrides": {"arch_lr": "0.1"}}, "arch_lr"),
        ({"overrides": {"arch_lr": "Confident(pow=2)"}}, "no setting 'Confident.pow'; expected one of Confident.pow"),
        ({"overrides": {"arch_lr": "Confident(2)"}}, "with their names"),
        ({"overrides": {"arch_lr": "Cosine()"}}, "Unknown part 'Cosine'"),
        ({"overrides": {"weights_fraction": 0.8}}, "add up to at most 1"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(arguments: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        Settings.of(**arguments)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_assignments() -> None:
    assert parse_assignments(["epochs=8", "a.b = x=y"]) == {"epochs": "8", "a.b": "x=y"}
    with pytest.raises(ValueError, match="write --set NAME=VALUE"):
        parse_assignments(["epochs"])


@pytest.mark.parametrize("strategy", ["entrannas", "relative_nas"])
def test_papers_without_none_search_the_darts_space_without_it(strategy: str) -> None:
    operations = Settings.of(strategy=strategy, space="darts").space_arguments["operations"]
    assert len(operations) == 7 and "none" not in operations
    assert "operations" not in Settings.of(strategy="darts", space="darts").space_arguments
    changed = Settings.of(strategy=strategy, space="darts", overrides={"space.operations": "('skip_connect',)"})
    assert changed.space_arguments["operations"] == ("skip_connect",)
    again = Settings.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert json.dumps(again.to_dict()) == json.dumps(changed.to_dict())
