"""A labelled image set that fits in memory, checked when it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nni_plugins.data.augmentation import Augmentation
from nni_plugins.data.image_set import named_classes
from nni_plugins.data.loaders import DeviceLoader

SMALLEST_IMAGE = 8
"""Side of the smallest images, in pixels: networks halve it twice, and auxiliary heads need two pixels after that."""
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Square images with class labels, in a training and a test part.

    Parameters
    ----------
    name
        What messages and reports call the set.
    x_train, x_test
        (N, C, H, W) uint8, H = W.
    y_train, y_test
        (N,) int64 in 0 .. ``num_classes`` - 1.
    num_classes
        Number of classes, at least 2.
    flip
        Whether a mirrored image still belongs to its class (it does not for digits).
    class_names
        A name for each class, in the order of the labels; the numbers of the classes if there are none.

    Raises
    ------
    ValueError
        If a tensor has another dtype or shape, if lengths or the two parts do not match, if a label lies outside the
        classes, or if there are more or fewer names than classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    flip: bool = True
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"{self.name}: there must be at least 2 classes, but there is {self.num_classes}.")
        for part in ("train", "test"):
            _check_part(self.name, part, getattr(self, f"x_{part}"), getattr(self, f"y_{part}"), self.num_classes)
        train, test = tuple(self.x_train.shape[1:]), tuple(self.x_test.shape[1:])
        if train != test:
            raise ValueError(
                f"{self.name}: training and test images must be alike, but have the shapes (C, H, W) = {train} and "
                f"{test}; bring them to one size and number of channels."
            )
        object.__setattr__(self, "class_names", named_classes(self.name, self.class_names, self.num_classes))

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, Any], *, flip: bool = True) -> ImageData:
        """Make a set of NumPy arrays with channels last, the classes being those of the training labels.

        Parameters
        ----------
        name
            What messages and reports call the set.
        arrays
            ``x_train`` and ``x_test`` uint8 of shape (N, H, W) for grey images or (N, H, W, C); ``y_train`` and
            ``y_test`` integers 0 .. K-1 of shape (N,); ``class_names``, K texts, may be missing.
        flip
            Whether a mirrored image still belongs to its class.

        Raises
        ------
        ValueError
            If an array is missing, or has a wrong dtype, shape, length or label, or the names do not fit the classes.
        """
        if missing := [key for key in ARRAYS if key not in arrays]:
            raise ValueError(
                f"{name} has no {' and no '.join(missing)}; it must hold x_train, y_train, x_test and y_test, "
                f"and holds {', '.join(arrays) or 'nothing'}."
            )
        tensors = {key: _to_tensor(name, key, np.asarray(arrays[key])) for key in ARRAYS}
        num_classes = len(tensors["y_train"].unique())
        class_names = tuple(map(str, np.ravel(arrays.get("class_names", ()))))
        return cls(name=name, **tensors, num_classes=num_classes, flip=flip, class_names=class_names)

    @property
    def in_channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colour."""
        return self.x_train.shape[1]

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        return self.x_train.shape[2]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, in units of the full range [0, 1]."""
        return self._statistics[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over all training pixels, in the same units, at least one grey level."""
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        levels = torch.arange(256, dtype=torch.float64) / 255
        # Counting the 256 grey levels is exact and needs no float copy of the set.
        counts = [torch.bincount(channel.flatten(), minlength=256).cpu() for channel in self.x_train.unbind(1)]
        shares = torch.stack(counts).to(torch.float64) * self.in_channels / self.x_train.numel()
        mean = shares @ levels
        variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
        # A constant channel has no deviation to divide by.
        return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1 / 255).tolist())

    def augmentation(self, *, cutout: int = 0) -> Augmentation:
        """Return the usual augmentation: padding of an eighth of the image, mirroring only if classes survive it.

        32x32 gives the published padding of 4, 16x16 a padding of 2.

        Raises
        ------
        ValueError
            If ``cutout`` would cover whole images.
        """
        if cutout >= self.image_size:
            raise ValueError(
                f"cutout {cutout} covers whole {self.image_size}x{self.image_size} images of {self.name}; choose a "
                f"side below {self.image_size}, or 0 for none."
            )
        return Augmentation(crop_padding=self.image_size // 8, flip=self.flip, cutout=cutout)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of all images and labels, the number of classes and the mirroring."""
        digest = hashlib.sha256(repr((self.num_classes, self.flip)).encode())
        for key in ARRAYS:
            tensor = getattr(self, key).cpu().contiguous()
            digest.update(repr((key, tuple(tensor.shape))).encode())
            digest.update(tensor.view(-1).numpy())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> ImageData:
        """Return the same set on ``device``, from where its loaders give their batches."""
        return replace(self, **{key: getattr(self, key).to(device) for key in ARRAYS})

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
    ) -> DeviceLoader:
        """Batches of one part of the set, on the device where the set lies.

        Parameters
        ----------
        part
            ``"train"`` or ``"test"``.
        training
            Augmented, shuffled and in full batches only; otherwise every image once, as it is, in order.
        batch_size, seed, indices, batches, channels_last
            As in :class:`DeviceLoader`.
        cutout
            Side of the square cut out of augmented images.
        augmented
            Whether images are augmented; None for those of training alone.
        """
        augmented = training if augmented is None else augmented
        return DeviceLoader(
            getattr(self, f"x_{part}"),
            getattr(self, f"y_{part}"),
            batch_size=batch_size,
            mean=self.mean,
            std=self.std,
            indices=indices,
            augmentation=self.augmentation(cutout=cutout) if augmented else None,
            shuffle=training,
            drop_last=training,
            seed=seed,
            device=self.x_train.device,
            channels_last=channels_last,
            batches=batches,
        )


def _to_tensor(name: str, key: str, array: np.ndarray) -> Tensor:
    """Images to (N, C, H, W) uint8, labels to (N,) int64."""
    if key.startswith("y"):
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise ValueError(
                f"{name}: {key} must be integer labels of shape (N,), but is {array.dtype} of shape {array.shape}; "
                "give one class number per image."
            )
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype != np.uint8:
        raise ValueError(
            f"{name}: {key} must be uint8 images with values 0 to 255, but is {array.dtype}; scale to 0 to 255 and "
            "convert with .astype('uint8')."
        )
    if array.ndim not in (3, 4):
        raise ValueError(
            f"{name}: {key} must have the shape (N, H, W) for grey or (N, H, W, C) for colour images, but has "
            f"{array.shape}; reshape it."
        )
    array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def _check_part(name: str, part: str, x: Tensor, y: Tensor, num_classes: int) -> None:
    """Refuse one part of a set with the reason."""
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(
            f"{name}: x_{part} must be a uint8 tensor of shape (N, C, H, W), but is {x.dtype} of shape "
            f"{tuple(x.shape)}; convert it."
        )
    if y.dtype != torch.int64 or y.ndim != 1:
        raise ValueError(
            f"{name}: y_{part} must be an int64 tensor of shape (N,), but is {y.dtype} of shape {tuple(y.shape)}; "
            "convert it."
        )
    if len(x) != len(y) or not len(x):
        raise ValueError(
            f"{name}: every image needs its label, but x_{part} has {len(x)} images and y_{part} has {len(y)} labels; "
            "make both equally long and not empty."
        )
    channels, height, width = x.shape[1:]
    if height != width:
        raise ValueError(
            f"{name}: images must be square, but those of x_{part} have {channels} channels of height {height} and "
            f"width {width}; crop or pad them (arrays are (N, H, W, C), channels last)."
        )
    if height < SMALLEST_IMAGE:
        raise ValueError(
            f"{name}: images must be at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE}, but those of x_{part} are "
            f"{height}x{width}; enlarge them."
        )
    outside = y[(y < 0) | (y >= num_classes)]
    if len(outside):
        raise ValueError(
            f"{name}: y_{part} has labels outside the classes 0 to {num_classes - 1} of its training labels (such as "
            f"{int(outside[0])}); number the classes from 0 without gaps, each with training images."
        )
