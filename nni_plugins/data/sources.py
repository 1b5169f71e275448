"""Data sets by name: the built-in one, torchvision's, and the user's own files and functions."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nni_plugins.data.image_set import ImageSet
from nni_plugins.data.images import ImageData
from nni_plugins.data.names import refuse_unknown_data
from nni_plugins.data.pictures import opened
from nni_plugins.data.splits import split_halves
from nni_plugins.data.streamed import StreamedImages, refuse_unreadable
from nni_plugins.tools.own_code import in_short, own

LARGEST_DEFAULT = 224
"""Images of a folder are given out at this side, or at the size that they have if that is smaller."""
LOOKED_AT = 100
"""Images of a folder that tell how large its images are."""


def load_data(spec: str, *, root: str | Path = "data", download: bool = False) -> ImageSet:
    """Load a data set; class count, channels and image size follow from it.

    Parameters
    ----------
    spec
        ``digits`` (embedded: scikit-learn's, 16x16 grey); ``cifar10``, ``cifar100``, ``svhn``, ``mnist`` or
        ``fashion_mnist`` (torchvision's); ``npz:FILE`` with the arrays x_train, y_train, x_test and y_test (uint8
        images (N, H, W) or (N, H, W, C), integer labels 0 .. K-1) and, if wanted, class_names (K texts);
        ``imagefolder:PATH`` with PATH/train/CLASS/* and PATH/val or PATH/test (not held in memory),
        ``imagefolder:PATH@96`` for images of 96x96;
        ``module:function``, a function without arguments that returns an :class:`ImageData` or a dict of the four
        arrays, once the command line has named it (:mod:`nni_plugins.tools.own_code`).
    root
        Where torchvision's sets lie or are put.
    download
        Fetch a torchvision set that is not in ``root``.

    Raises
    ------
    ValueError
        If the name is unknown or the data is not as described above.
    FileNotFoundError
        If a file or folder is missing, or the set is not in ``root`` and ``download`` is not set.
    OSError
        If the download fails.
    """
    refuse_unknown_data(spec)
    if spec in DATA_SETS:
        return DATA_SETS[spec](Path(root), download)
    kind, _, place = spec.partition(":")
    if kind == "npz":
        return _npz(Path(place).expanduser())
    if kind == "imagefolder":
        return _image_folder(place)
    return _from_function(spec)


def _digits(root: Path, download: bool) -> ImageData:
    """Return the 1797 digits of 8x8 pixels and 17 grey levels, enlarged to 16x16, four fifths to train on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).to(torch.float32)[:, None] * (255 / 16)
    x = F.interpolate(grey, size=(16, 16), mode="bilinear").round().to(torch.uint8)
    y = torch.from_numpy(digits.target).to(torch.int64)
    train, test = split_halves(y, seed=0, fractions=(0.8, 0.2))
    return ImageData("digits", x[train], y[train], x[test], y[test], num_classes=10, flip=False)


def _torchvision(name: str, class_name: str, *, flip: bool) -> Callable[[Path, bool], ImageData]:
    """Return a loader of one of torchvision's sets, which keep their images as arrays under ``data``."""

    def load(root: Path, download: bool) -> ImageData:
        from torchvision import datasets

        make = getattr(datasets, class_name)
        choices = [{"split": part} if name == "svhn" else {"train": part == "train"} for part in ("train", "test")]
        try:
            train, test = (make(str(root), download=download, **choice) for choice in choices)
        except (RuntimeError, OSError) as error:
            if download:
                raise OSError(
                    f"data set {name!r} could not be downloaded to {root} ({error}); check the network, or put the "
                    "files there by hand."
                ) from error
            raise FileNotFoundError(
                f"data set {name!r} is not in {root}; pass --download to fetch it, or point to the folder that has it."
            ) from error
        arrays = {}
        for part, found in (("train", train), ("test", test)):
            images = np.asarray(found.data)
            # SVHN alone has its channels first and calls its targets labels.
            arrays[f"x_{part}"] = images.transpose(0, 2, 3, 1) if name == "svhn" else images
            arrays[f"y_{part}"] = np.asarray(found.labels if name == "svhn" else found.targets)
        data = ImageData.from_arrays(name, arrays, flip=flip)
        # SVHN has no names. A set cut to its first classes keeps theirs.
        return replace(data, class_names=tuple(getattr(train, "classes", data.class_names))[: data.num_classes])

    return load


DATA_SETS: dict[str, Callable[[Path, bool], ImageData]] = {
    "digits": _digits,
    "cifar10": _torchvision("cifar10", "CIFAR10", flip=True),
    "cifar100": _torchvision("cifar100", "CIFAR100", flip=True),
    "svhn": _torchvision("svhn", "SVHN", flip=False),
    "mnist": _torchvision("mnist", "MNIST", flip=False),
    "fashion_mnist": _torchvision("fashion_mnist", "FashionMNIST", flip=True),
}


def _npz(file: Path) -> ImageData:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; npz:FILE needs one made with numpy.savez.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} is not an archive of plain arrays ({error}); make it with numpy.savez from uint8 images and "
            "integer labels."
        ) from error
    return ImageData.from_arrays(f"npz:{file}", arrays)


def _image_folder(place: str) -> StreamedImages:
    from torchvision.datasets import ImageFolder

    folder, at, side = place.rpartition("@")
    path = Path(folder if at and side.isdecimal() else place).expanduser()
    test = next((path / part for part in ("val", "test") if (path / part).is_dir()), None)
    if test is None or not (path / "train").is_dir():
        raise FileNotFoundError(
            f"imagefolder:{path} needs the folders {path / 'train'} and {path / 'val'} (or {path / 'test'}), each with "
            "one sub-folder of images per class."
        )
    parts = ImageFolder(str(path / "train")), ImageFolder(str(test))
    size = int(side) if at and side.isdecimal() else min(LARGEST_DEFAULT, typical_size(parts[0].imgs))
    refuse_unreadable(file for file, _ in parts[1].imgs)
    return StreamedImages(f"imagefolder:{path}", *parts, image_size=size)


def typical_size(images: Sequence[tuple[str, int]]) -> int:
    """Return the median of the shorter sides of some images, given as (file, label), in pixels."""
    sides = []
    for file, _ in images[:: max(1, len(images) // LOOKED_AT)]:
        with opened(file) as picture:
            sides.append(min(picture.size))
    return sorted(sides)[len(sides) // 2]


def _from_function(spec: str) -> ImageSet:
    function = own(spec, "data set", "--data")
    wanted = "a function without arguments that returns an ImageData or a dict of x_train, y_train, x_test and y_test"
    if not callable(function):
        raise ValueError(f"data set {spec!r} is a {type(function).__name__}; expected {wanted}.")
    try:
        data: Any = function()
    except Exception as error:
        raise ValueError(f"data set {spec!r} fails: {in_short(error)}; expected {wanted}.") from error
    if isinstance(data, Mapping):
        return ImageData.from_arrays(spec, data)
    if isinstance(data, ImageSet):
        return data
    raise ValueError(f"data set {spec!r} returned {type(data).__name__}; expected {wanted}.")
