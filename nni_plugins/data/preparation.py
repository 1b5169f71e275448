"""How a picture becomes the input of a network when it is tested: resized, cut to a square, normalised.

shorter side -> shorter_side   (Pillow's bilinear filter, antialiased)
centre       -> size x size
pixel        -> (pixel - 255 mean) / (255 std)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nni_plugins.data.image_set import ImageSet
from nni_plugins.data.loaders import Normalise


def evaluation_transform(shorter_side: int, size: int) -> Callable[[Image.Image], Tensor]:
    """Return the function from a picture to its uint8 square (C, ``size``, ``size``), not normalised."""
    from torchvision.transforms import v2

    compose: Callable[[Any], Any] = v2.Compose(
        [v2.Resize(shorter_side, antialias=True), v2.CenterCrop(size), v2.PILToTensor()]
    )
    return compose


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture of any size before the network sees it.

    Parameters
    ----------
    size
        Side of the network's input in pixels.
    shorter_side
        Length to which the shorter side of a picture is resized; the centre is cut out of the rest.
    mean, std
        Of each channel, in units of the full range [0, 1].
    """

    size: int
    shorter_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: ImageSet, size: int | None = None) -> Preparation:
        """Return what ``data`` does to its test images, for a network input of another ``size`` if one is given.

        A set whose images have their size already leaves out nothing of a picture but what is not square; one that
        reads pictures says by ``shorter_side`` how much it leaves out.
        """
        size = size or data.image_size
        shorter_side = getattr(data, "shorter_side", data.image_size)
        return cls(size, shorter_side * size // data.image_size, tuple(data.mean), tuple(data.std))

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Return the network's input, float32 (C, ``size``, ``size``), of a picture, uint8 (height, width, C)."""
        transform = evaluation_transform(self.shorter_side, self.size)
        planes = [transform(Image.fromarray(np.ascontiguousarray(plane))) for plane in np.moveaxis(pixels, 2, 0)]
        return Normalise(self.mean, self.std, device="cpu")(torch.cat(planes))
