"""Random crop, mirroring and cutout of whole batches, by indexing, on whatever device the batch is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(x: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, *, padding: int) -> Tensor:
    """Crop every image at its own place out of its zero-padded self, then mirror those that are marked.

    ``out[b, c, i, j] = padded[b, c, top_b + i, left_b + j']`` with ``j' = W - 1 - j`` where ``mirrored_b``, else ``j``.

    Parameters
    ----------
    x
        Images, (B, C, H, W), any dtype.
    top, left
        Corner of each crop in the padded image, (B,) int64 in 0 .. 2 * ``padding``.
    mirrored
        (B,), nonzero where the crop is flipped left to right.
    padding
        Rows and columns of zeros on each side.

    Returns
    -------
    Tensor
        (B, C, H, W), the dtype of ``x``.
    """
    channels, height, width = x.shape[1:]
    i, j = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = top[:, None] + i
    columns = left[:, None] + torch.where(mirrored[:, None] != 0, width - 1 - j, j)
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = F.pad(x, (padding,) * 4).flatten(2)
    return padded.gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).view(x.shape)


def cut_out_(x: Tensor, row: Tensor, column: Tensor, *, side: int) -> Tensor:
    """Set a square of every image to zero, in place (Cutout, arXiv 1708.04552); what lies over the border is lost.

    Parameters
    ----------
    x
        Normalised images, (B, C, H, W).
    row, column
        Centre of each square, (B,) int64; the square spans ``row - side // 2 .. row - side // 2 + side - 1``.
    side
        Side of the square in pixels.

    Returns
    -------
    Tensor
        ``x``, changed.
    """
    height, width = x.shape[2:]
    i = torch.arange(height, device=x.device) - row[:, None] + side // 2
    j = torch.arange(width, device=x.device) - column[:, None] + side // 2
    inside = ((i >= 0) & (i < side))[:, :, None] & ((j >= 0) & (j < side))[:, None, :]
    return x.masked_fill_(inside[:, None], 0.0)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image, as in DARTS: crop out of a padded image, mirror, cut out a square.

    Parameters
    ----------
    crop_padding
        Zeros added on each side, in pixel space (before normalisation), before a crop of the image's own size.
    flip
        Mirror left to right with probability 1/2.
    cutout
        Side of the square set to zero after normalisation; 0 for none.

    Raises
    ------
    ValueError
        If ``crop_padding`` or ``cutout`` is negative.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (off) or a number of pixels, but is {getattr(self, name)}.")

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw what ``count`` images of ``size`` (H, W) undergo.

        Returns
        -------
        Tensor
            (count, 5) int64 on the CPU: crop top and left, mirrored or not, cutout row and column. Every column is
            drawn, whatever is switched on, so that switching cutout on leaves the crops as they were.
        """
        crop, (height, width) = 2 * self.crop_padding + 1, size
        ends = (crop, crop, 2, height, width)
        return torch.stack([torch.randint(end, (count,), generator=generator) for end in ends], dim=1)

    def move(self, x: Tensor, draws: Tensor) -> Tensor:
        """Crop and mirror pixels (B, C, H, W) by ``draws`` (B, 5) on the same device."""
        if not (self.crop_padding or self.flip):
            return x
        top, left, mirrored = draws[:, :3].unbind(1)
        mirrored = mirrored if self.flip else torch.zeros_like(mirrored)
        return crop_and_flip(x, top, left, mirrored, padding=self.crop_padding)

    def erase_(self, x: Tensor, draws: Tensor) -> Tensor:
        """Cut squares out of normalised images (B, C, H, W), in place, by ``draws`` (B, 5) on the same device."""
        return cut_out_(x, draws[:, 3], draws[:, 4], side=self.cutout) if self.cutout else x
