"""Build all that a run will need, before anything is claimed or trained: a wrong setting must not cost a search."""

from __future__ import annotations

from typing import Any

import torch
from nni.mutable import SampleValidationError
from numpy.random import RandomState

from nni_plugins.data import ImageSet
from nni_plugins.run.compiled import refuse_without_compiler
from nni_plugins.run.devices import refuse_missing_devices
from nni_plugins.run.initial_weights import InitialWeights
from nni_plugins.run.networks import build_space
from nni_plugins.run.retrain import build_retraining
from nni_plugins.run.search import build_search
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import device
from search_spaces import Genotype


def rehearse(settings: Settings, data: ImageSet) -> None:
    """Build the search of ``settings``, and the retraining of any one architecture of its space.

    Raises
    ------
    ValueError
        If a setting is not valid, or does not fit the machine, the data or the space; if a file such as a table is not
        what it is to be; if the evaluation network does not return logits for all classes.
    FileNotFoundError
        If there is no such file.
    """
    refuse_missing_devices(settings.search.devices)
    if settings.search.compile:
        refuse_without_compiler(device())
    build_search(settings, data)
    sample = _any_sample(settings, data)
    if sample is not None:
        rehearse_retraining(Genotype.from_sample(sample, settings.space), settings, data, sample)


def rehearse_retraining(
    genotype: Genotype,
    settings: Settings,
    data: ImageSet,
    sample: dict[str, Any] | None = None,
    initial: InitialWeights | None = None,
) -> None:
    """Build the retraining of ``genotype``, and send two black images through its network.

    Parameters
    ----------
    genotype, settings, data, sample, initial
        As in :func:`nni_plugins.run.retrain.retrain`.

    Raises
    ------
    ValueError
        As :func:`rehearse`.
    """
    refuse_missing_devices(settings.retrain.devices)
    net = build_retraining(genotype, settings, data, sample, initial).net.eval()
    images = torch.zeros(2, data.in_channels, data.image_size, data.image_size)
    try:
        with torch.no_grad():
            logits = net(images)
    except RuntimeError as error:
        raise ValueError(
            f"The evaluation network cannot take {data.image_size}x{data.image_size} images ({_first_line(error)}); "
            "choose other sizes, net.* or space.*."
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, data.num_classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f"In evaluation mode the network of the {genotype.space} space must return logits (N, classes), for two "
            f"images and {data.num_classes} classes it gave {got}."
        )


def _any_sample(settings: Settings, data: ImageSet) -> dict[str, Any] | None:
    """Return NNI's sample of some architecture; None if the space's own choices cannot be drawn at random."""
    sample: dict[str, Any] = {}
    random = RandomState(settings.seed)
    try:
        for choice in build_space(settings, data).simplify().values():
            choice.random(sample, random)
    except (NotImplementedError, SampleValidationError):
        return None
    return sample


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
