"""How networks are retrained: the papers' recipes, schedules, averaged weights, tests along the way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from nni_plugins.cli import main
from nni_plugins.data import load_data
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.networks import build_net
from nni_plugins.run.recipes import RetrainRecipe
from nni_plugins.run.result import RecordedShape
from nni_plugins.run.retrain import Retrained, build_retraining, retrain, retraining_settings
from nni_plugins.run.settings import Settings
from search_spaces import published

CELL = published("bnas_v2_clr_v1")
SMALL = {
    "net.channels": 4, "net.deep_cells": 0, "net.enhancement_cells": 1, "retrain.epochs": 3, "retrain.batch_size": 16,
    "retrain.cutout": 0, "retrain.lr": 0.05,
}  # fmt: skip


# The papers' recipes

FIELDS = ("epochs", "batch_size", "lr", "schedule", "lr_warmup_epochs", "weight_decay", "label_smoothing", "cutout",
          "drop_path", "auxiliary_weight")  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "stem", "expected"),
    [
        ("bnas_v2_clr_v1", "cifar", (600, 128, 0.025, "cosine", 0, 3e-4, 0.0, 16, 0.3, 0.0)),
        ("bnas_v2_pc_image", "imagenet", (250, 256, 0.1, "cosine", 0, 3e-5, 0.1, 0, 0.0, 0.0)),
        ("darts_v2", "cifar", (600, 96, 0.025, "cosine", 0, 3e-4, 0.0, 16, 0.2, 0.4)),
        ("darts_v2", "imagenet", (250, 128, 0.1, "exponential", 0, 3e-5, 0.1, 0, 0.0, 0.4)),
        ("pc_darts_cifar", "cifar", (600, 96, 0.025, "cosine", 0, 3e-4, 0.0, 16, 0.3, 0.4)),
        ("pc_darts_cifar", "imagenet", (250, 1024, 0.5, "linear", 5, 3e-5, 0.1, 0, 0.0, 0.4)),
        ("relative_nas", "cifar", (600, 128, 0.025, "cosine", 0, 3e-4, 0.0, 16, 0.3, 0.4)),
        ("relative_nas", "imagenet", (250, 1024, 0.5, "linear", 5, 3e-5, 0.1, 0, 0.0, 0.4)),
    ],
)
def test_a_published_cell_knows_its_papers_recipe(cell: str, stem: str, expected: tuple[Any, ...]) -> None:
    data = "cifar10" if stem == "cifar" else "imagefolder:somewhere"
    recipe = retraining_settings(published(cell), result=cell, data=data, stem=stem).retrain
    assert tuple(getattr(recipe, name) for name in FIELDS) == expected


@pytest.mark.parametrize(
    ("strategy", "space", "expected"),
    [
        ("entrannas", "darts", (1024, "linear")),
        ("entrannas_dst", "darts_any", (1024, "linear")),
        ("rf_pcdarts", "darts", (1024, "linear")),
        ("darts", "darts", (128, "exponential")),
        ("bnas_d", "bcnn", (256, "cosine")),
    ],
)
def test_a_found_cell_takes_its_methods_recipe(strategy: str, space: str, expected: tuple[Any, ...]) -> None:
    settings = Settings.of(strategy=strategy, space=space, data="imagefolder:somewhere", stem="imagenet")
    assert (settings.retrain.batch_size, settings.retrain.schedule) == expected


def test_nasbench201_is_trained_as_its_table() -> None:
    recipe = Settings.of(strategy="darts", space="nasbench201", data="cifar10").retrain
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.nesterov) == (200, 256, 0.1, True)
    assert (recipe.weight_decay, recipe.cutout, recipe.drop_path) == (5e-4, 0, 0.0)


def test_another_methods_recipe_is_taken_by_name_where_it_fits_the_space() -> None:
    settings = retraining_settings(published("darts_v2"), result="darts_v2", data="cifar10", recipe="pc_darts")
    assert (settings.strategy, settings.retrain.drop_path) == ("pc_darts", 0.3)
    message = (
        "The recipe of bnas_d is for the bcnn space, but the genotype is a cell of the darts space; expected one of"
    )
    with pytest.raises(ValueError, match=message):
        retraining_settings(published("darts_v2"), result="darts_v2", data="cifar10", recipe="bnas_d")


def test_relative_nas_is_wider_on_imagenet() -> None:
    cell = published("relative_nas")
    settings = retraining_settings(cell, result="relative_nas", data="imagefolder:somewhere", stem="imagenet")
    net = build_net(cell, settings, RecordedShape(1000, 3, 224))
    head: Any = net.auxiliary_head
    counted = sum(parameter.numel() for parameter in net.parameters())
    assert counted - sum(parameter.numel() for parameter in head.parameters()) == 5_050_029


# Schedules


def rates(**recipe: Any) -> list[float]:
    """Return the learning rate of every epoch."""
    module: Any = ImageClassifier(RetrainRecipe(**recipe), 2)
    module.set_model(torch.nn.Linear(1, 2))
    [optimizer], [schedule] = module.configure_optimizers()
    found = []
    for _ in range(recipe["epochs"]):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_linear() -> None:
    assert rates(epochs=4, lr=0.8, schedule="linear") == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert rates(epochs=2, lr=0.8, lr_min=0.4, schedule="linear") == pytest.approx([0.8, 0.6])


def test_linear_after_a_warmup() -> None:
    found = rates(epochs=6, lr=0.8, schedule="linear", lr_warmup_epochs=2)
    assert found == pytest.approx([0.8 / 3, 1.6 / 3, 0.8, 0.6, 0.4, 0.2])


def test_exponential() -> None:
    found = rates(epochs=3, lr=0.1, schedule="exponential", lr_decay=0.97)
    assert found == pytest.approx([0.1, 0.097, 0.09409])


def test_cosine() -> None:
    assert rates(epochs=4, lr=1.0) == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


# Averaged weights


def settings_with(data: str, **overrides: Any) -> Settings:
    return retraining_settings(CELL, data=data, overrides={**SMALL, **overrides})


def test_the_average_of_the_weights_is_what_is_kept(tiny_data: str, tmp_path: Path) -> None:
    """An independent average, taken by hooks on the optimiser's steps, is what the retraining returns."""
    data, decay = load_data(tiny_data), 0.8
    settings = settings_with(tiny_data, **{"retrain.ema_decay": decay})
    plain = settings_with(tiny_data)
    parts = build_retraining(CELL, plain, data)
    averaged: dict[str, torch.Tensor] = {}

    class Average(EMAWeightAveraging):
        def __init__(self) -> None:
            super().__init__(decay=0.0)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            for name, value in parts.net.named_parameters():
                before = averaged.get(name)
                averaged[name] = (
                    value.detach().clone() if before is None else decay * before + (1 - decay) * value.detach()
                )

        def on_train_end(self, trainer: Any, pl_module: Any) -> None: ...

    from nni_plugins.run.epoch_report import EpochReport
    from nni_plugins.run.training import make_trainer

    report = EpochReport("by_hand", lambda trainer, *_: EpochRecord(trainer.current_epoch, {}))
    trainer = make_trainer(
        plain.retrain, tmp_path / "by_hand", report, callbacks=[Average()],
        gradient_clip_val=plain.retrain.gradient_clip_val,
    )  # fmt: skip
    trainer.fit(parts.module, parts.batches)
    kept = retrain(CELL, settings, data, tmp_path / "kept").net
    for name, value in kept.named_parameters():
        torch.testing.assert_close(value.detach(), averaged[name].detach(), rtol=1e-5, atol=1e-7)
    assert any(
        not torch.equal(value, dict(parts.net.named_parameters())[name]) for name, value in kept.named_parameters()
    )


def test_an_interrupted_average_resumes_to_the_last_bit(tiny_data: str, tmp_path: Path) -> None:
    data = load_data(tiny_data)
    settings = settings_with(tiny_data, **{"retrain.ema_decay": 0.8, "retrain.test_every": 2})
    whole = retrain(CELL, settings, data, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        retrain(CELL, settings, data, tmp_path / "killed", kill)
    resumed = retrain(CELL, settings, data, tmp_path / "killed")
    assert resumed.test_accuracy == whole.test_accuracy and resumed.best_of_tests() == whole.best_of_tests()
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name


# Tests along the way


def test_tests_along_the_way_change_nothing(tiny_data: str, tmp_path: Path) -> None:
    data = load_data(tiny_data)
    once = retrain(CELL, settings_with(tiny_data), data, tmp_path / "once")
    often = retrain(CELL, settings_with(tiny_data, **{"retrain.test_every": 1}), data, tmp_path / "often")
    assert once.best_of_tests() is None
    assert often.test_accuracy == once.test_accuracy == often.history[-1]["test_accuracy"]
    best = often.best_of_tests()
    assert best is not None and best["tests"] == 3 and best["accuracy"] >= often.test_accuracy
    for name, value in once.net.state_dict().items():
        assert torch.equal(value, often.net.state_dict()[name]), name


def test_the_best_of_tests_is_the_first_of_the_highest() -> None:
    history = [
        {"epoch": e, **({"test_accuracy": a} if a else {})} for e, a in enumerate([90.0, None, 95.0, 95.0, 94.0])
    ]
    found = Retrained(torch.nn.Identity(), 94.0, history).best_of_tests()
    assert found == {"accuracy": 95.0, "epoch": 3, "tests": 4}


def test_the_optimistic_figure_is_named_so(tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    words += ["--set", "retrain.test_every=1", "--data", tiny_data, "--out", str(out)]
    assert main(["retrain", "bnas_v2_clr_v1", *words]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["strategy"] == "bnas_v2_clr"
    assert report["best_of_tests"]["tests"] == 3
    assert "optimistic, since it is chosen on the test set" in capsys.readouterr().out
    assert report["test_accuracy"] == report["retrain_history"][-1]["test_accuracy"]
