"""Folders of images too large for memory: decoded and augmented by worker processes, normalised on the device.

The augmentation is BNAS-v2's on ImageNet: a random resized crop to 224, mirroring, colour jitter 0.4/0.4/0.4/0.2; for
evaluation the shorter side is resized to 8/7 of the size (256) and the centre is cut out.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nni_plugins.data.augmentation import Augmentation
from nni_plugins.data.images import SMALLEST_IMAGE
from nni_plugins.data.loaders import EpochLoader, Normalise
from nni_plugins.data.pictures import UnreadablePicture, opened
from nni_plugins.data.preparation import evaluation_transform

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """A training and a test folder with one sub-folder per class; colour images, read when they are needed.

    Parameters
    ----------
    name
        What messages and reports call the set.
    train, test
        The folders as torchvision sees them, with the same classes.
    image_size
        Side of the images that are given out, in pixels.
    workers
        Worker processes per loader that is being read; 0 for none. It has no influence on the images.
    device
        Where the batches come out.
    mean, std
        Of each channel, in units of the full range [0, 1]; ImageNet's by default.

    Raises
    ------
    ValueError
        If the two folders do not have the same classes, or fewer than two, or the images would be too small.
    """

    name: str
    train: ImageFolder
    test: ImageFolder
    image_size: int = 224
    workers: int = field(default_factory=available_cpus)
    device: torch.device | str = "cpu"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if odd := sorted(set(self.train.classes) ^ set(self.test.classes)):
            raise ValueError(
                f"{self.name}: the training and test folders must have the same class folders, but only one of them "
                f"has {', '.join(odd[:5])}; add or remove these."
            )
        if self.image_size < SMALLEST_IMAGE:
            raise ValueError(
                f"{self.name}: images must be at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE}, got the size "
                f"{self.image_size}; add a larger one to the name, such as {self.name}@32."
            )
        if self.num_classes < 2:
            raise ValueError(f"{self.name}: there must be at least 2 class folders, but there is {self.num_classes}.")

    @property
    def num_classes(self) -> int:
        """Number of class folders."""
        return len(self.train.classes)

    @property
    def in_channels(self) -> int:
        """3: images are converted to RGB."""
        return 3

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders, in the order of the labels."""
        return tuple(self.train.classes)

    @property
    def shorter_side(self) -> int:
        """Pixels to which the shorter side of a test image is resized before its centre is cut out."""
        return self.image_size * 8 // 7

    @property
    def y_train(self) -> Tensor:
        """Labels of the training images, (N,) int64."""
        return torch.tensor(self.train.targets)

    @property
    def y_test(self) -> Tensor:
        """Labels of the test images, (N,) int64."""
        return torch.tensor(self.test.targets)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of every image's name, size in bytes and label, and of the normalisation.

        The images themselves are not read, for that would take as long as an epoch.
        """
        digest = hashlib.sha256(repr((self.image_size, self.mean, self.std)).encode())
        for folder in (self.train, self.test):
            files = [
                (Path(path).relative_to(folder.root).as_posix(), os.path.getsize(path), label)
                for path, label in folder.samples
            ]
            digest.update(repr(sorted(files)).encode())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> StreamedImages:
        """Return the same set with batches that come out on ``device``."""
        return replace(self, device=device)

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
    ) -> StreamLoader:
        """Batches of one part of the set; the parameters are those of :meth:`ImageData.loader`."""
        from torchvision.transforms import v2

        folder = self.train if part == "train" else self.test
        transform = evaluation_transform(self.shorter_side, self.image_size)
        if training if augmented is None else augmented:
            transform = v2.Compose(
                [
                    v2.RandomResizedCrop(self.image_size, antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
                    v2.PILToTensor(),
                ]
            )
        return StreamLoader(
            _Transformed(folder, transform),
            size=self.image_size,
            indices=torch.arange(len(folder)) if indices is None else indices,
            batch_size=batch_size,
            training=training,
            seed=seed,
            batches=batches,
            cutout=cutout,
            workers=self.workers,
            normalise=Normalise(self.mean, self.std, device=self.device, channels_last=channels_last),
            device=self.device,
        )


def refuse_unreadable(files: Iterable[str]) -> None:
    """Decode every file, so that a damaged picture is known before days of training.

    Raises
    ------
    UnreadablePicture
        For the first one; the message names the file.
    """
    with ThreadPoolExecutor(available_cpus()) as pool:
        deque(pool.map(_decode, files), maxlen=0)


def _decode(file: str) -> None:
    with opened(file) as picture:
        picture.load()


def _in_one_line(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; the error of a worker process comes without its traceback."""
    try:
        yield from batches
    except UnreadablePicture as error:
        raise UnreadablePicture(str(error).rpartition(f"{UnreadablePicture.__name__}: ")[2].strip()) from None


class _Transformed(Dataset[tuple[Tensor, int]]):
    """Decoded images, transformed with the random numbers that a seed of their own gives."""

    def __init__(self, folder: ImageFolder, transform: Callable[[Any], Tensor]) -> None:
        self._folder = folder
        self._transform = transform

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        file, label = self._folder.samples[index]
        with opened(file) as picture:
            image = picture.convert("RGB")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._transform(image), label


class StreamLoader(EpochLoader):
    """Batches of a folder, made by worker processes; see :class:`EpochLoader` for the meaning of a pass.

    Each image of a pass is transformed with a seed of its own, so the batches do not depend on the number of workers.
    """

    def __init__(
        self,
        dataset: _Transformed,
        *,
        size: int,
        indices: Tensor,
        batch_size: int,
        training: bool,
        seed: int,
        batches: int | None,
        cutout: int,
        workers: int,
        normalise: Normalise,
        device: torch.device | str,
    ) -> None:
        super().__init__(
            len(indices), batch_size=batch_size, seed=seed, shuffle=training, drop_last=training, batches=batches
        )
        self._dataset = dataset
        self._size = (size, size)
        self._indices = indices.cpu()
        self._workers = workers
        self._cutout = Augmentation(crop_padding=0, flip=False, cutout=cutout)
        self._normalise = normalise
        self._device = torch.device(device)

    def _pass(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        images = self._indices[self._order(generator)]
        seeds = torch.randint(2**62, (len(images),), generator=generator)
        draws = self._own_share(self._cutout.draw(len(images), self._size, generator))
        chunks = zip(self._own_share(images), self._own_share(seeds), strict=True)
        batches = DataLoader(
            self._dataset,
            batch_sampler=[list(zip(rows.tolist(), own.tolist(), strict=True)) for rows, own in chunks],
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=generator,
        )
        for (pixels, labels), drawn in zip(_in_one_line(batches), draws, strict=True):
            x = self._normalise(pixels.to(self._device, non_blocking=True))
            yield self._cutout.erase_(x, drawn.to(self._device)), labels.to(self._device, non_blocking=True)
