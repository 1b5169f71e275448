"""What the rest of the package asks of a labelled image set, in memory or streamed."""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from nni_plugins.data.loaders import EpochLoader

Self = TypeVar("Self", bound="ImageSet")


@runtime_checkable
class ImageSet(Protocol):
    """Square images with class labels, in a training and a test part."""

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
        """Return the batches of one part; see :meth:`nni_plugins.data.ImageData.loader`."""
