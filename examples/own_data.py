"""A data set of your own: a function without arguments that returns four arrays.

From this folder, on one of the spaces of this package:

    nni-plugins search --strategy bnas_v2_clr --space bcnn --data own_data:stripes --out /tmp/own \
        --set space.channels=4 --set epochs=2 --set batch_size=32 --set lr=0.05 \
        --set net.channels=4 --set net.deep_cells=0 --set net.enhancement_cells=1 --set retrain.epochs=8 \
        --set retrain.batch_size=32 --set retrain.lr=0.05 --set retrain.cutout=0 --set retrain.drop_path=0

What is not set is what the papers set for CIFAR-10: large networks and hundreds of epochs.
"""

from __future__ import annotations

import numpy as np

TRAINING_IMAGES, TEST_IMAGES = 240, 90
CLASSES = ("horizontal", "vertical", "diagonal")
"""What the labels 0, 1 and 2 mean."""


def stripes() -> dict[str, np.ndarray]:
    """Return noisy grey images of 16x16 pixels with stripes in one of three directions.

    Read yours from disk here. Images are uint8, (N, height, width) or (N, height, width, channels), square and all of
    one size; labels are integers from 0. The search splits the training images itself, and the test images are used
    once, at the end.
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, number in (("train", TRAINING_IMAGES), ("test", TEST_IMAGES)):
        labels = np.arange(number) % len(CLASSES)
        arrays[f"x_{split}"] = np.stack([_image(CLASSES[label], rng) for label in labels])
        arrays[f"y_{split}"] = labels
    return arrays


def _image(direction: str, rng: np.random.Generator) -> np.ndarray:
    row, column = np.mgrid[:16, :16]
    across = {"horizontal": row, "vertical": column, "diagonal": row + column}[direction]
    wave = np.sin(2 * np.pi * (across / rng.uniform(3.5, 6) + rng.uniform()))
    return np.clip(128 + 80 * wave + rng.normal(0, 30, wave.shape), 0, 255).astype(np.uint8)
