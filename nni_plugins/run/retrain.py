"""Retrain: from a genotype to trained weights, on the whole training set, tested once at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from nni_plugins.data import EpochLoader, ImageSet, retrain_loaders
from nni_plugins.methods.metric import DEFAULT, TEST_ACCURACY, TRAINING_ACCURACY, VALIDATION_ACCURACY
from nni_plugins.methods.registry import method_spec, method_specs
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.devices import OnEpoch, on_devices
from nni_plugins.run.epoch_report import EpochRecord, EpochReport, History
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.initial_weights import InitialWeights
from nni_plugins.run.networks import build_net, classifier_of
from nni_plugins.run.out_of_memory import advising_a_smaller_batch
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import channels_last, device, make_trainer, resume_arguments
from search_spaces import Genotype
from search_spaces.published import published_by, published_names


@dataclass(frozen=True)
class Retrained:
    """A trained network, its test accuracy after the last epoch in percent, and the metrics of every epoch."""

    net: nn.Module
    test_accuracy: float
    history: History

    def best_of_tests(self) -> dict[str, Any] | None:
        """Return the best of the tests along the way: ``accuracy``, ``epoch`` (from 1) and the number of ``tests``.

        It is chosen on the test set and therefore optimistic; papers often print this figure. None without such tests.
        """
        name = TEST_ACCURACY.name
        tests = [(epoch[name], epoch["epoch"] + 1) for epoch in self.history if name in epoch]
        if not tests:
            return None
        accuracy, epoch = max(tests, key=lambda test: test[0])
        return {"accuracy": accuracy, "epoch": epoch, "tests": len(tests)}


def retraining_settings(
    genotype: Genotype,
    *,
    result: str | Path | None = None,
    data: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    stem: str = "cifar",
) -> Settings:
    """Return the settings that retrain ``genotype``: the given ones over those of the run that it comes from.

    Parameters
    ----------
    genotype
        The architecture.
    result
        The result folder that it comes from, whose report gives the data, the method, the arguments of the space and
        the sizes of the network; or the name of a published genotype, which gives the method. Anything else gives
        nothing.
    data
        Name of the data; by default that of the result, or else ``digits``.
    recipe
        Name of the method by whose paper the network is evaluated; by default the one that found the cell.
    seed, overrides, stem
        As in :meth:`Settings.of`.

    Raises
    ------
    ValueError
        As :meth:`Settings.of`; if the folder's report is damaged, or the recipe is for other spaces.
    """
    before: dict[str, Any] = {}
    method: dict[str, str] = {}
    if result in published_names():
        method = {"strategy": published_by(str(result))}
    elif result is not None and (Path(result) / "report.json").is_file():
        origin = Settings.from_dict(read_report(result)["settings"])
        if origin.space == genotype.space:
            arguments = {"space": origin.space_arguments, "net": origin.net_arguments}
            before = {
                f"{section}.{name}": value for section, values in arguments.items() for name, value in values.items()
            }
        if origin.strategy in method_specs():  # code that a file names is not imported
            method = {"strategy": origin.strategy}
        data = data or origin.data
    if recipe is not None:
        refuse_foreign_recipe(recipe, genotype.space)
        method = {"strategy": recipe}
    return Settings.of(
        **method,
        space=genotype.space,
        data=data or "digits",
        seed=seed,
        overrides={**before, **(overrides or {})},
        stem=stem,
    )


def refuse_foreign_recipe(recipe: str, space: str) -> None:
    """Refuse the recipe of a method whose paper does not evaluate cells of ``space``.

    Raises
    ------
    ValueError
        With the methods whose papers do.
    """
    spaces = method_spec(recipe).spaces
    if space not in spaces:
        fitting = [name for name, spec in method_specs().items() if space in spec.spaces]
        raise ValueError(
            f"The recipe of {recipe} is for the {', '.join(spaces)} space, but the genotype is a cell of the {space} "
            f"space; expected one of {', '.join(fitting) or 'none: leave the recipe out'}."
        )


class RetrainParts(NamedTuple):
    """What a retraining trains and tests, and on what."""

    net: nn.Module
    module: ImageClassifier
    batches: EpochLoader
    test_batches: EpochLoader


def build_retraining(
    genotype: Genotype,
    settings: Settings,
    data: ImageSet,
    sample: Mapping[str, Any] | None = None,
    initial: InitialWeights | None = None,
) -> RetrainParts:
    """Return the parts of a retraining, its network initialised from the settings' seed and, if given, ``initial``.

    Parameters
    ----------
    genotype, settings, data, sample, initial
        As in :func:`retrain`.

    Raises
    ------
    ValueError
        If a setting of the retraining or a size of the network is not valid, or does not fit the data; if ``initial``
        belongs to another network.
    """
    recipe = settings.retrain
    pl.seed_everything(settings.seed, verbose=False)
    net = build_net(genotype, settings, data, sample)
    if initial is not None:
        initial.load_into(net, genotype, data)
    module = classifier_of(net, settings, data)
    try:
        batches, test_batches = retrain_loaders(
            data,
            batch_size=recipe.batch_size,
            seed=settings.seed,
            device=device(),
            cutout=recipe.cutout,
            channels_last=channels_last(recipe),
        )
    except ValueError as error:
        raise ValueError(f"The settings retrain.* do not fit the data: {error}") from None
    return RetrainParts(net, module, batches, test_batches)


def retrain(
    genotype: Genotype,
    settings: Settings,
    data: ImageSet,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    sample: Mapping[str, Any] | None = None,
    initial: InitialWeights | None = None,
) -> Retrained:
    """Train the evaluation network of ``genotype``, or resume its training where ``folder`` says it was interrupted.

    Parameters
    ----------
    genotype, sample
        The architecture; ``sample`` is NNI's form of it, for a user's own space.
    settings
        Recipe, network sizes, seed.
    data
        Trains on all its training images; the test images are used once, after the last epoch, unless the recipe asks
        for more tests.
    folder
        Checkpoints and logs.
    on_epoch
        Called with the record of every finished epoch.
    initial
        Weights to begin with; by default those of the settings' seed.

    Raises
    ------
    ValueError
        As :func:`build_retraining`; if there are not as many devices as the recipe says.
    Diverged
        If a loss is not finite.
    MemoryError
        If memory does not hold the batches.
    ChildProcessError
        If the process of one of several devices has died.
    """
    parts = (genotype, settings, data, folder, sample, initial)
    recipe = settings.retrain
    with advising_a_smaller_batch("retraining", "retrain.batch_size", recipe.batch_size):
        trained = on_devices(recipe.devices, _retrain, *parts, on_epoch=on_epoch, what="retraining")
    net = classifier_of(build_net(genotype, settings, data, sample), settings, data).model
    net.load_state_dict(trained.weights)
    return Retrained(net.eval(), trained.test_accuracy, trained.history)


class _Trained(NamedTuple):
    weights: dict[str, torch.Tensor]
    test_accuracy: float
    history: History


def _retrain(
    genotype: Genotype,
    settings: Settings,
    data: ImageSet,
    folder: Path,
    sample: Mapping[str, Any] | None,
    initial: InitialWeights | None,
    on_epoch: OnEpoch | None,
) -> _Trained:
    recipe = settings.retrain
    net, module, batches, test_batches = build_retraining(genotype, settings, data, sample, initial)

    def measure(trainer: pl.Trainer, *_: object) -> EpochRecord:
        tested = module.epoch_metrics("validation").get(VALIDATION_ACCURACY)
        training = module.epoch_metrics("training")
        test = {} if tested is None else {TEST_ACCURACY: tested}
        return EpochRecord(trainer.current_epoch, {DEFAULT: training[TRAINING_ACCURACY], **training, **test})

    report = EpochReport("retrain", measure, on_epoch)
    trainer = make_trainer(
        recipe,
        folder,
        report,
        callbacks=[] if recipe.ema_decay is None else [EMAWeightAveraging(decay=recipe.ema_decay)],
        check_val_every_n_epoch=recipe.test_every or 1,
        gradient_clip_val=recipe.gradient_clip_val,
    )
    trainer.fit(module, batches, test_batches if recipe.test_every else None, **resume_arguments(folder / "retrain"))
    trainer.validate(module, test_batches, verbose=False)
    accuracy = module.epoch_metrics("validation")[VALIDATION_ACCURACY]
    assert accuracy is not None, "there is a test image"
    return _Trained(net.cpu().state_dict(), accuracy, report.history)
