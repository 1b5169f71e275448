"""One cell as an evolution sees it: trained for a short time on one half of the training set, validated on the other.

The test set takes no part, so that what an evolution picks by this can be tested afterwards. For NAS-Bench-201 a table
may stand in for the training; then its validation accuracy is what the evolution sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from nni.mutable import CategoricalMultiple, SampleValidationError

from nni_plugins.data import ImageSet, search_loaders
from nni_plugins.methods.metric import DEFAULT, VALIDATION_ACCURACY
from nni_plugins.report.complexity import count_multiply_adds, count_parameters
from nni_plugins.report.nasbench201_table import TABLE_DATA_SETS, Table, score
from nni_plugins.run.devices import OnEpoch, on_devices
from nni_plugins.run.epoch_report import EpochRecord, EpochReport, History
from nni_plugins.run.latency import latency_report, load_table, penalty_of
from nni_plugins.run.networks import build_net, build_space, classifier_of
from nni_plugins.run.out_of_memory import advising_a_smaller_batch
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import channels_last, device, make_trainer, resume_arguments
from nni_plugins.run.work_folder import Stage, claim, leave
from nni_plugins.tools.atomic_files import atomic_write
from search_spaces import Genotype


def sample_of(parameters: Mapping[str, Any], settings: Settings, data: ImageSet) -> dict[str, Any]:
    """Return NNI's sample of the settings' space from the parameters of a trial.

    Raises
    ------
    ValueError
        If the parameters do not describe an architecture of the space.
    """
    space = build_space(settings, data)
    choices = space.simplify()
    sample = {
        label: [value] if isinstance(choices.get(label), CategoricalMultiple) and not isinstance(value, list) else value
        for label, value in parameters.items()
    }
    unknown = [label for label in sample if label not in choices]
    try:
        if unknown:
            raise SampleValidationError(f"{unknown[0]!r} is not a choice of the space")
        space.validate(sample)
    except SampleValidationError as error:
        raise ValueError(
            f"NNI's parameters are no architecture of the {settings.space} space ({error}); make the experiment's "
            f"search space with nni-plugins space {settings.space} --json."
        ) from None
    return sample


def evaluate_candidate(
    sample: Mapping[str, Any],
    settings: Settings,
    data: ImageSet,
    *,
    out: Path,
    work: Path,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train the evaluation network of ``sample`` by the settings' retraining recipe and validate it every epoch.

    Parameters
    ----------
    sample
        NNI's sample of the architecture.
    settings, data
        Recipe, network sizes, seed; only training images are used, split as for a search.
    out
        Folder for ``genotype.json``, which ``nni-plugins retrain`` takes.
    work
        Folder of checkpoints and logs; an interrupted evaluation resumes there.
    on_epoch
        Called with the record of every finished epoch.

    Returns
    -------
    dict
        Flat numbers and texts; ``default`` is the validation accuracy after the last epoch, in percent, less what
        latency takes where the settings let it count. With a latency table, what it predicts and what was measured.

    Raises
    ------
    ValueError
        If a setting does not fit the data or the space, or ``work`` holds the evaluation of another cell.
    BlockingIOError
        If another process works in ``work``.
    Diverged
        If a loss is not finite.
    MemoryError
        If memory does not hold the batches.
    """
    genotype = Genotype.from_sample(sample, settings.space)
    table = load_table(settings, data)
    penalty = penalty_of(table, settings)
    lost = 0.0 if penalty is None else 100 * penalty.of(penalty.profile(dict(sample)))
    with claim(work):
        Stage.of_evaluation(settings, genotype, data.fingerprint()).enter(work)
        parts = (genotype, sample, settings, data, work, lost)
        with advising_a_smaller_batch("evaluation", "retrain.batch_size", settings.retrain.batch_size):
            history = on_devices(settings.retrain.devices, _train, *parts, on_epoch=on_epoch, what="evaluation")
        leave(work)
    atomic_write(out / "genotype.json", genotype.to_json())
    net, last = classifier_of(build_net(genotype, settings, data, sample), settings, data).model, history[-1]
    return {
        "default": last["default"],
        "validation_accuracy": last["validation_accuracy"],
        "seed": settings.seed,
        "parameters": count_parameters(net),
        "multiply_adds": count_multiply_adds(net, data.in_channels, data.image_size),
        **({} if table is None else latency_report(genotype, net, table, data)),
        "genotype": genotype.to_json(),
        "folder": str(out),
    }


def _train(
    genotype: Genotype,
    sample: Mapping[str, Any],
    settings: Settings,
    data: ImageSet,
    work: Path,
    lost: float,
    on_epoch: OnEpoch | None,
) -> History:
    recipe = settings.retrain
    pl.seed_everything(settings.seed, verbose=False)
    module = classifier_of(build_net(genotype, settings, data, sample), settings, data)
    loaders = search_loaders(
        data,
        batch_size=recipe.batch_size,
        seed=settings.seed,
        device=device(),
        fractions=(settings.search.weights_fraction, settings.search.architecture_fraction),
        cutout=recipe.cutout,
        channels_last=channels_last(recipe),
    )

    def measure(trainer: pl.Trainer, *_: object) -> EpochRecord:
        validation = module.epoch_metrics("validation")
        accuracy = validation[VALIDATION_ACCURACY]
        default = {DEFAULT: None if accuracy is None else accuracy - lost}
        return EpochRecord(trainer.current_epoch, {**default, **validation, **module.epoch_metrics("training")})

    report = EpochReport("evaluate", measure, on_epoch)
    trainer = make_trainer(recipe, work, report, gradient_clip_val=recipe.gradient_clip_val)
    trainer.fit(module, loaders.weights, loaders.evaluation, **resume_arguments(work / "evaluate"))
    return report.history


def look_up_candidate(sample: Mapping[str, Any], settings: Settings, *, out: Path) -> dict[str, Any]:
    """Look ``sample`` up in the settings' table; parameters and result as :func:`evaluate_candidate`.

    ``default`` is the table's validation accuracy on the settings' data set, or on CIFAR-10 if it has not that set;
    the test accuracies are for people.

    Raises
    ------
    ValueError
        If the space is not NAS-Bench-201, or the table has no validation accuracies.
    """
    genotype = Genotype.from_sample(sample, settings.space)
    found = score(genotype, Table.load(str(settings.search.table)))
    dataset = settings.data if settings.data in TABLE_DATA_SETS else TABLE_DATA_SETS[0]
    if dataset not in found.validation:
        raise ValueError(
            f"{settings.search.table} has no column valid_{dataset}; a search may not see test accuracies, so take a "
            "table with validation accuracies or leave the table out."
        )
    atomic_write(out / "genotype.json", genotype.to_json())
    return {
        "default": found.validation[dataset],
        "validation_accuracy": found.validation[dataset],
        **{f"table_{name}": accuracy for name, accuracy in found.accuracy.items()},
        "genotype": genotype.to_json(),
        "folder": str(out),
    }
