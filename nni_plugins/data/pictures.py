"""Picture files: opened with one sentence for each that cannot be read. Imports neither torch nor NNI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from PIL import Image


class UnreadablePicture(ValueError):
    """A file that should be a picture and is none, or is damaged."""


@contextlib.contextmanager
def opened(file: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a picture inside the block.

    Raises
    ------
    UnreadablePicture
        If it cannot be read, in the block too; the message names the file.
    """
    try:
        with Image.open(file) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UnreadablePicture(f"The picture {file} cannot be read ({reason}); replace or remove it.") from None


def colour_mode(channels: int) -> str:
    """Return Pillow's name of pictures with 1 or 3 channels.

    Raises
    ------
    ValueError
        For any other number of channels, which a picture file does not have.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"Picture files have 1 channel (grey) or 3 (colour), but the network takes {channels}; feed arrays to the "
            "model with onnxruntime instead."
        )
    return "L" if channels == 1 else "RGB"
