"""Which images train the weights, which the architecture, and the loaders of a search and of a retraining.

BNAS-v2 (arXiv 2009.08886), as released: half of the training set trains the weights and half the architecture, both
cropped with padding 4 and mirrored; on ImageNet 10 % and 2.5 % of each class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nni_plugins.data.image_set import ImageSet
from nni_plugins.data.loaders import EpochLoader, seeded


class SearchLoaders(NamedTuple):
    """Batches of a search; the test set is not among them."""

    weights: EpochLoader
    """The weights' part of the training set, augmented and shuffled, full batches only."""
    architecture: EpochLoader
    """The architecture's part, likewise, for the steps on alpha. It has exactly as many batches as ``weights``, passing
    through its part more than once (in a new order each time) if that is smaller."""
    validation: EpochLoader
    """The architecture's part, every image once, as it is unless asked otherwise; in batches of training's size, for
    what depends on the batch: BatchNorm with its statistics, second derivatives, the noise of its loss."""
    evaluation: EpochLoader
    """The same images in batches of :func:`evaluation_batch_size`, for the accuracy and loss of a network in evaluation
    mode."""


LARGER, ENOUGH = 4, 512
"""Batches of training that make one of evaluation on a GPU, and images that keep a GPU busy."""


def evaluation_batch_size(batch_size: int, device: torch.device | str) -> int:
    """Return how many images a network in evaluation mode is given at once, where training has ``batch_size``.

    BatchNorm normalises with running statistics then, so that an image's logits do not depend on its batch, and without
    a backward pass even :data:`LARGER` times as many images take a fraction of training's memory. A GPU waits for the
    launches of a small batch. On a CPU larger ones leave the caches: 256 images instead of 64 took 14 % more time an
    image with the DARTS supernet and 15 % less with BNAS-v2-PC's (C = 16, 32x32).
    """
    if torch.device(device).type == "cpu":
        return batch_size
    return max(batch_size, min(LARGER * batch_size, ENOUGH))


def split_halves(y: Tensor, *, seed: int, fractions: tuple[float, float] = (0.5, 0.5)) -> tuple[Tensor, Tensor]:
    """Split a training set into two disjoint parts that hold the same share of every class.

    Of the n images of a class, in a random order fixed by ``seed``, the first part gets the first
    ``round(fractions[0] * n)`` and the second those that follow, up to ``round(sum(fractions) * n)``.

    Parameters
    ----------
    y
        Labels, (N,) int64.
    seed
        Non-negative seed of the split.
    fractions
        Share of each class in the two parts; (0.5, 0.5) for CIFAR, (0.10, 0.025) for ImageNet.

    Returns
    -------
    tuple of Tensor
        Indices for the weights and for the architecture, each sorted, int64 on the CPU.

    Raises
    ------
    ValueError
        If a fraction is not positive, if they sum to more than 1, or if a class is too small to be in both parts.
    """
    if min(fractions) <= 0 or sum(fractions) > 1:
        raise ValueError(
            f"fractions must be positive with a sum of at most 1, but are {fractions}; use (0.5, 0.5), say."
        )
    generator = seeded(seed)
    y = y.cpu()
    first, second = [], []
    for label in y.unique().tolist():
        members = (y == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        middle, end = (round(share * len(members)) for share in (fractions[0], sum(fractions)))
        if not 0 < middle < end:
            raise ValueError(
                f"class {label} has too few training images ({len(members)}) for both parts of the split "
                f"{fractions}; give it more images or raise the fractions."
            )
        first.append(members[:middle])
        second.append(members[middle:end])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def search_loaders(
    data: ImageSet,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    fractions: tuple[float, float] = (0.5, 0.5),
    cutout: int = 0,
    augment_validation: bool = False,
    channels_last: bool = False,
) -> SearchLoaders:
    """Return the loaders of a search; the test set is not touched.

    Parameters
    ----------
    data
        The set to search on.
    batch_size
        Images per batch of training.
    seed
        Seed of the split, of the order and of the augmentation.
    device
        Where the batches come out.
    fractions
        Share of the training set for the weights and for the architecture.
    cutout
        Side of the square cut out of augmented images; 0 for none.
    augment_validation
        Whether the validation images are augmented as well.
    channels_last
        Memory format of the batches.

    Raises
    ------
    ValueError
        If ``batch_size`` exceeds a part or ``cutout`` covers whole images, or as :func:`split_halves`.
    """
    parts = split_halves(data.y_train, seed=seed, fractions=fractions)
    for purpose, part in zip(("weights", "architecture"), parts, strict=True):
        _check_batch_size(batch_size, len(part), f"the {purpose} part of {data.name}'s training set")
    data = data.to(device)
    weights, architecture = parts
    train = data.loader(
        "train",
        training=True,
        indices=weights,
        batch_size=batch_size,
        seed=seed,
        cutout=cutout,
        channels_last=channels_last,
    )
    val_arch = data.loader(
        "train",
        training=True,
        indices=architecture,
        batch_size=batch_size,
        seed=seed + 1,  # not the draws of the weights' part
        batches=len(train),
        cutout=cutout,
        channels_last=channels_last,
    )
    val_eval, val_large = (
        data.loader(
            "train",
            training=False,
            augmented=augment_validation,
            indices=architecture,
            batch_size=size,
            seed=seed + 1,
            cutout=cutout,
            channels_last=channels_last,
        )
        for size in (batch_size, evaluation_batch_size(batch_size, device))
    )
    return SearchLoaders(train, val_arch, val_eval, val_large)


def retrain_loaders(
    data: ImageSet,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    cutout: int = 0,
    channels_last: bool = False,
) -> tuple[EpochLoader, EpochLoader]:
    """Return loaders for training a found net on the whole training set and testing it.

    Parameters
    ----------
    data, batch_size, seed, device, channels_last
        As in :func:`search_loaders`.
    cutout
        Side of the square cut out of training images (16 on CIFAR-10); 0 for none.

    Returns
    -------
    train
        The training set, augmented and shuffled, full batches only (a rest of one image would break batch
        normalisation).
    test
        The test set, every image once and as it is, in batches of :func:`evaluation_batch_size`.

    Raises
    ------
    ValueError
        If ``batch_size`` exceeds the training set or ``cutout`` covers whole images.
    """
    _check_batch_size(batch_size, len(data.y_train), f"{data.name}'s training set")
    data = data.to(device)
    train = data.loader(
        "train", training=True, batch_size=batch_size, seed=seed, cutout=cutout, channels_last=channels_last
    )
    test = data.loader(
        "test",
        training=False,
        batch_size=evaluation_batch_size(batch_size, device),
        seed=seed,
        channels_last=channels_last,
    )
    return train, test


def _check_batch_size(batch_size: int, images: int, part: str) -> None:
    if batch_size > images:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {images} images of {part}; lower it to {images} or less."
        )
