"""What the rest of the package asks of a labelled image set, in memory or streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from nni_plugins.data.loaders import EpochLoader

Self = TypeVar("Self", bound="ImageSet")


@runtime_checkable
class ImageSet(Protocol):
    """Square images with class labels, in a training and a test part.

    A set may have ``class_names``, a sequence of texts; see :func:`class_names_of`.
    """

    @property
    def name(self) -> str:
        """What messages and reports call the set."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def in_channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colour."""

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in units of the full range [0, 1]."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in the same units."""

    @property
    def y_train(self) -> Tensor:
        """Labels of the training images, (N,) int64."""

    @property
    def y_test(self) -> Tensor:
        """Labels of the test images, (N,) int64."""

    def fingerprint(self) -> str:
        """Return a SHA-256, in hexadecimal, that changes with the images and labels."""

    def to(self: Self, device: torch.device | str) -> Self:
        """Return the same set, with batches that come out on ``device``."""

    def loader(
        self,
        part: Literal["train", "test"],
        *,
        training: bool,
        batch_size: int,
        seed: int,
        indices: Tensor | None = None,
        batches: int | None = None,
        cutout: int = 0,
        augmented: bool | None = None,
        channels_last: bool = False,
    ) -> EpochLoader:
        """Return the batches of one part; see :meth:`nni_plugins.data.images.ImageData.loader`."""


def class_names_of(data: ImageSet) -> tuple[str, ...]:
    """Return a name for each class of ``data``, in the order of the labels: its own, or else the numbers from 0.

    Raises
    ------
    ValueError
        As :func:`named_classes`.
    """
    return named_classes(data.name, getattr(data, "class_names", ()), data.num_classes)


def named_classes(source: str, names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return ``names``, or the numbers of the classes if there are none.

    Parameters
    ----------
    source
        Where the names come from, for messages.
    names
        One for each class, in the order of the labels, or none at all.
    num_classes
        Number of classes.

    Raises
    ------
    ValueError
        If there are more or fewer names than classes, or one of them is empty or given twice.
    """
    if not len(names):
        return tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise ValueError(
            f"{source}: there must be one class name for each of the {num_classes} classes, but there are "
            f"{len(names)}: {_shortened(names)}."
        )
    if odd := sorted({name for name in names if not name.strip() or list(names).count(name) > 1}):
        raise ValueError(
            f"{source}: class names must differ from each other and not be empty, but {', '.join(map(repr, odd))} is "
            "empty or given twice."
        )
    return tuple(names)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
