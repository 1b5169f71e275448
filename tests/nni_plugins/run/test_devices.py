"""Trainings on two devices: two real processes on the CPU, compared with each other and with a single process."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from nni_plugins.data.streamed import available_cpus
from nni_plugins.deploy.export import measure_accuracy
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.devices import OnEpoch, on_devices, refuse_missing_devices
from nni_plugins.run.epoch_report import EpochRecord, EpochReport
from nni_plugins.run.networks import build_space
from nni_plugins.run.recipes import SearchRecipe
from nni_plugins.run.rehearsal import rehearse
from nni_plugins.run.retrain import retrain
from nni_plugins.run.search import build_search, search
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import make_trainer
from nni_plugins.tools.ranks import average_, averaged, number_of_ranks, own_rank, summed
from search_spaces import from_architecture_string
from tests.nni_plugins.methods.conformance import Case, data, final_state, timeless
from tests.nni_plugins.methods.searching import of_architecture, weights_of

pytestmark = pytest.mark.skipif(available_cpus() < 2, reason="two processes need two cores")

BATCHES = ("batch_size", "retrain.batch_size")
FIRST_ORDER, SECOND_ORDER, SPARSE, EVOLVED = "darts", "darts_second_order", "entrannas_dst", "relative_nas"


@pytest.fixture(autouse=True, scope="module")
def without_code_of_other_tests() -> Iterator[None]:
    """The ranks import what this process has allowed, and other tests' modules are not where the ranks look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nni_plugins.tools.own_code._allowed", {})
        yield


def settings_of(strategy: str, devices: int = 2, **more: Any) -> Settings:
    return Case(strategy, "darts_any" if strategy == SPARSE else "nasbench201").settings(devices=devices, **more)


class Step(NamedTuple):
    """One rank's view of the first step of a search: what it started from and saw, and what came of it."""

    before: dict[str, torch.Tensor]
    batch: Any
    gradients: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]


class Watch(pl.Callback):
    """Keep the first step, and a checksum of parameters and buffers after every step."""

    def __init__(self) -> None:
        self.checksums: list[str] = []
        self.first: Step | None = None
        self._before: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.first is None:
            self._before = state_of(pl_module.model)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        after = state_of(pl_module.model)
        self.checksums.append(checksum(after))
        if self.first is None:
            gradients = {n: p.grad.clone() for n, p in pl_module.model.named_parameters() if p.grad is not None}
            self.first = Step(self._before, batch, gradients, after)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def checksum(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


class Seen(NamedTuple):
    """What all ranks saw of one search, each in its turn."""

    checksums: list[list[str]]
    steps: list[Step]
    validation_images: list[torch.Tensor]
    records: list[list[dict[str, Any]]]


def watched_searches(settings: Mapping[str, Settings], folder: Path, on_epoch: OnEpoch | None) -> dict[str, Seen]:
    return {name: watched(each, folder / name) for name, each in settings.items()}


def watched(settings: Settings, folder: Path) -> Seen:
    parts, watch, images = build_search(settings, data()), Watch(), data()
    report = EpochReport("search", parts.measure)
    trainer: Any = make_trainer(settings.search, folder, report, extra_epochs=parts.strategy.extra_epochs)
    trainer.callbacks.append(watch)
    evaluator = parts.strategy.make_evaluator(
        ImageClassifier(settings.search, images.num_classes), trainer, parts.loaders
    )
    evaluator.evaluate(parts.supernet)
    validation = torch.cat([x for x, _ in parts.loaders.validation])
    return Seen(*(gathered(each) for each in (watch.checksums, watch.first, validation, timeless(report.history))))


def gathered(value: Any) -> list[Any]:
    everyones: list[Any] = [None] * number_of_ranks()
    dist.all_gather_object(everyones, value)
    return everyones


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    unclipped: dict[str, Any] = {"gradient_clip_val": None}
    settings = {
        FIRST_ORDER: settings_of(FIRST_ORDER, hessian=True, **unclipped),
        SECOND_ORDER: settings_of(SECOND_ORDER, epochs=1, **unclipped),
        SPARSE: settings_of(SPARSE, epochs=1, **unclipped),
        EVOLVED: settings_of(EVOLVED, epochs=1),
    }
    return on_devices(
        2, watched_searches, settings, tmp_path_factory.mktemp("watched"), on_epoch=None, what="watched search"
    )


@pytest.mark.parametrize("strategy", [FIRST_ORDER, SECOND_ORDER, SPARSE, EVOLVED])
def test_ranks_are_alike_after_every_step(seen: dict[str, Seen], strategy: str) -> None:
    first, second = seen[strategy].checksums
    assert first == second
    assert len(set(first)) > 1, "nothing was trained"
    one, other = seen[strategy].records
    assert one == other, "metrics are those of all ranks"


def test_shares_are_the_batches_of_one_process(seen: dict[str, Seen]) -> None:
    parts = build_search(settings_of(FIRST_ORDER, devices=1), data())
    shares = [step.batch for step in seen[FIRST_ORDER].steps]
    for half, loader in (("train", parts.loaders.weights), ("val", parts.loaders.architecture)):
        images, labels = next(iter(loader))
        assert torch.equal(torch.cat([share[half][0] for share in shares]), images)
        assert torch.equal(torch.cat([share[half][1] for share in shares]), labels)
    validated = torch.cat(seen[FIRST_ORDER].validation_images)
    whole = torch.cat([images for images, _ in parts.loaders.validation])
    assert sorted(map(checksum_of_image, validated)) == sorted(map(checksum_of_image, whole))


def checksum_of_image(image: torch.Tensor) -> str:
    return checksum({"": image})


@pytest.mark.parametrize("strategy", [FIRST_ORDER, SPARSE])
def test_gradients_and_running_statistics_are_means_over_shares(seen: dict[str, Seen], strategy: str) -> None:
    steps = seen[strategy].steps
    settings = settings_of(strategy, devices=1)
    supernet: nn.Module = settings.make_strategy().mutate_model(build_space(settings, data()))
    alpha, weights = of_architecture(supernet), weights_of(supernet)

    by_alpha, by_weights, after = [], [], []
    for step in steps:
        state = dict(step.before)
        supernet.load_state_dict(state)
        by_alpha.append(gradients(supernet, step.batch["val"], alpha))
        with torch.no_grad():
            for name, parameter in alpha.items():
                parameter.copy_(step.after[name])  # the architecture's step comes first
        by_weights.append(gradients(supernet, step.batch["train"], weights))
        after.append(state_of(supernet))
    first, second = steps
    for expected in (by_alpha, by_weights):
        for name in expected[0]:
            mean = (expected[0][name] + expected[1][name]) / 2
            torch.testing.assert_close(first.gradients[name], mean, rtol=1e-4, atol=1e-6)
            assert torch.equal(first.gradients[name], second.gradients[name])
    assert any(not torch.allclose(by_alpha[0][name], by_alpha[1][name]) for name in by_alpha[0])
    statistics = [name for name in after[0] if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(first.after[name], (after[0][name] + after[1][name]) / 2, rtol=1e-4, atol=1e-6)


def gradients(supernet: nn.Module, batch: Any, by: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    images, labels = batch
    loss = F.cross_entropy(supernet.train()(images), labels)
    found = torch.autograd.grad(loss, list(by.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(by, found, strict=True) if gradient is not None}


def test_a_killed_rank_ends_the_search_with_a_sentence_and_the_rerun_ends_as_if_it_had_not(tmp_path: Path) -> None:
    settings = settings_of(FIRST_ORDER, epochs=3)
    reported: list[int] = []
    whole = search(settings, data(), tmp_path / "whole", lambda record: reported.append(record.epoch))
    assert reported == [0, 1, 2], "one report an epoch"

    def kill_a_rank(record: EpochRecord) -> None:
        if record.epoch == 1:
            ranks = [each for each in psutil.Process().children() if "nni_plugins.run.rank" in each.cmdline()]
            assert len(ranks) == 2
            os.kill(max(ranks, key=lambda each: int(each.environ()["RANK"])).pid, signal.SIGKILL)

    message = (
        r"The search on 2 devices has stopped, because rank 1 \(process \d+\) was ended by SIGKILL .* run the same"
    )
    with pytest.raises(ChildProcessError, match=message):
        search(settings, data(), tmp_path / "killed", kill_a_rank)
    assert not [each for each in psutil.Process().children() if "nni_plugins.run.rank" in each.cmdline()]

    resumed: list[int] = []
    again = search(settings, data(), tmp_path / "killed", lambda record: resumed.append(record.epoch))
    assert resumed in ([1, 2], [2])  # rank 0 may have saved the epoch before it was ended
    assert again.genotype == whole.genotype and timeless(again.history) == timeless(whole.history)
    before, after = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_retraining_on_two_devices_is_tested_on_all_images(tmp_path: Path) -> None:
    genotype = from_architecture_string(
        "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|"
    )
    overrides = {
        "retrain.epochs": 2, "retrain.batch_size": 8, "retrain.cutout": 0, "retrain.devices": 2, "net.channels": 4,
        "net.cells": 1,
    }  # fmt: skip
    settings = Settings.of(strategy=FIRST_ORDER, space="nasbench201", data="none", overrides=overrides)
    odd = replace(data(), x_test=data().x_train[:7], y_test=data().y_train[:7])
    trained = retrain(genotype, settings, odd, tmp_path)
    assert len(trained.history) == 2
    assert trained.test_accuracy == pytest.approx(measure_accuracy(trained.net, odd))


def fails_on(rank: int, on_epoch: OnEpoch | None) -> None:
    average_([torch.ones(3)])
    if own_rank() == rank:
        raise ValueError("this rank cannot")
    average_([torch.ones(3)])


def test_what_a_rank_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match="this rank cannot") as raised:
        on_devices(2, fails_on, 1, on_epoch=None, what="test")
    assert "in rank 1" in str(raised.value.__cause__) and "fails_on" in str(raised.value.__cause__)


def test_more_devices_than_there_are_are_refused() -> None:
    number = (torch.cuda.device_count() if torch.cuda.is_available() else available_cpus()) + 1
    message = rf"devices must be at most {number - 1}, the number of (cores|GPUs) that .* got {number}; lower it"
    with pytest.raises(ValueError, match=message):
        refuse_missing_devices(number)
    with pytest.raises(ValueError, match=message):
        rehearse(settings_of(FIRST_ORDER, devices=number, **dict.fromkeys(BATCHES, 2 * number)), data())


@pytest.mark.parametrize(("batch_size", "devices"), [(9, 2), (2, 2)])
def test_batches_that_cannot_be_shared_are_refused(batch_size: int, devices: int) -> None:
    message = f"batch_size must be a multiple of devices .* got batch_size={batch_size} and devices={devices}"
    with pytest.raises(ValueError, match=message):
        SearchRecipe(batch_size=batch_size, devices=devices)


def test_a_retraining_takes_as_many_devices_as_its_search_unless_it_is_set() -> None:
    assert settings_of(FIRST_ORDER).retrain.devices == 2
    assert settings_of(FIRST_ORDER, **{"retrain.devices": 1}).retrain.devices == 1


def test_a_single_process_is_all_there_is() -> None:
    tensor = torch.arange(3.0)
    average_([tensor])
    assert tensor.tolist() == [0, 1, 2] and averaged([1.5]) == [1.5] and summed([2, 3]) == [2, 3]
    assert (own_rank(), number_of_ranks()) == (0, 1)
