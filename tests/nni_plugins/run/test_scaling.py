"""Published settings on small data of one's own: hand-computed batches, rates and squares."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nni_plugins.data import ImageData
from nni_plugins.run.scaling import advice_on_deciding, scaled_to
from nni_plugins.run.settings import Settings


def images(count: int, side: int) -> ImageData:
    y = torch.arange(count) % 2
    x = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    return ImageData("mine", x, y, x[:2], y[:2], num_classes=2)


def test_a_small_set_of_small_images() -> None:
    settings = Settings.of(strategy="bnas_v2_pc", data="npz:mine.npz")
    found, sentence = scaled_to(images(120, 16), settings, given=())
    # 60 images a half, 7 per step at the most: 4; 120 images, 15 per step: 8
    assert (found.search.batch_size, found.retrain.batch_size) == (4, 8)
    assert found.search.lr == pytest.approx(0.2 * 4 / 512) and found.retrain.lr == pytest.approx(0.025 * 8 / 128)
    assert (found.search.cutout, found.retrain.cutout) == (0, 8)
    assert sentence.startswith("mine has 120 training images of 16x16, fewer or smaller than the published settings")
    assert "batch_size is 4 (published 512)" in sentence and "retrain.cutout is 8 (published 16)" in sentence
    assert "\n" not in sentence


def test_what_is_given_stays() -> None:
    overrides = {"batch_size": 16, "retrain.lr": 0.3, "retrain.cutout": 2, "lr_min": 0.01}
    settings = Settings.of(strategy="bnas_v2_pc", data="npz:mine.npz", overrides=overrides)
    found, _ = scaled_to(images(120, 16), settings, given=overrides)
    assert (found.search.batch_size, found.search.lr) == (16, 0.2)
    assert (found.retrain.batch_size, found.retrain.lr, found.retrain.cutout) == (8, 0.3, 2)
    few = Settings.of(data="npz:mine.npz", overrides={"lr_min": 0.01})
    assert scaled_to(images(120, 16), few, given={"lr_min"})[0].search.lr == 0.01, "the cosine still falls"


def test_large_sets_and_named_ones_keep_what_was_published() -> None:
    settings = Settings.of(strategy="bnas_v2_pc", data="npz:mine.npz")
    assert scaled_to(images(8192, 32), settings, given=()) == (settings, "")
    assert scaled_to(images(8190, 32), settings, given=())[0].search.batch_size == 256
    named = Settings.of(strategy="bnas_v2_pc", data="cifar10")
    assert scaled_to(images(120, 16), named, given=()) == (named, "")


def test_a_handful_of_images_still_makes_steps() -> None:
    found, _ = scaled_to(images(10, 8), Settings.of(data="npz:mine.npz"), given=())
    assert (found.search.batch_size, found.retrain.batch_size) == (2, 2)


@pytest.mark.parametrize(
    ("strategy", "path", "steps", "fix"),
    [
        # 60 images a half, 4 a step: 15 steps an epoch; a rate of 3e-4 in 50 epochs of them
        ("bnas_d", "0.22", 750, "--set arch_learning_rate=0.014"),
        # sum of ((e + 1) / 50)^2 over 50 epochs is 17.17
        ("bnas_v2_clr", "0.077", 750, "--set arch_learning_rate=0.039"),
        # 6e-4 in 35 epochs, after 15 of warm-up; partial channels, whose alpha its decay would hold back
        ("bnas_v2_pc", "0.31", 525, "--set arch_learning_rate=0.02 --set arch_weight_decay=0"),
    ],
)
def test_a_small_set_is_told_with_what_it_decides(strategy: str, path: str, steps: int, fix: str) -> None:
    few, published = images(120, 32), Settings.of(strategy=strategy, data="npz:mine.npz")
    settings, _ = scaled_to(few, published, given=())
    advice = advice_on_deciding(few, settings, given=())
    assert f"moves alpha by {path} at the most in the {steps} steps" in advice
    assert f"the search decides with {fix} (our own estimate" in advice and "\n" not in advice


def test_no_advice_where_it_is_not_needed() -> None:
    def advice(count: int, given: tuple[str, ...] = (), **named: Any) -> str:
        return advice_on_deciding(images(count, 32), Settings.of(**{"data": "npz:mine.npz", **named}), given)

    assert advice(8192) and not advice(8192, given=("arch_learning_rate",))
    assert not advice(25_000), "half of CIFAR-10"
    assert not advice(120, data="cifar10")
    assert not advice(120, strategy="relative_nas", space="darts"), "it has no such rate"
    assert not advice(8192, overrides={"arch_learning_rate": 0.1})
