"""The stand-alone graph against the pipeline that tested the network, on picture files of mixed sizes.

    python benchmarks/standalone_parity.py exported/example

Files are made of random test images: enlarged or reduced to sides of 0.6 to 6 times the network's, with Pillow's
bicubic filter, and saved as PNG or, every other, as JPEG, so that there is detail finer than the network's pixels. Each
goes from the file through `nni-plugins predict`'s way, and through torchvision's transforms and PyTorch. Prints the
figures as one JSON object; the exit status is 1 if a class differs or a probability differs by more than 1e-3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL
import torch
import torchvision
from PIL import Image

from nni_plugins.data import ImageSet, load_data
from nni_plugins.data.preparation import Preparation
from nni_plugins.deploy.predict import Predictor
from nni_plugins.deploy.standalone import TOLERANCE
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.result import load_net

RELATIVE_SIDES = (0.6, 6.0)


def write_pictures(data: ImageSet, folder: Path, count: int, seed: int) -> list[Path]:
    """Write ``count`` picture files of random test images in random sizes; return them in order."""
    rng = np.random.default_rng(seed)
    indices = torch.from_numpy(rng.choice(len(data.y_test), count, replace=len(data.y_test) < count))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    batches = data.loader("test", training=False, batch_size=64, seed=0, indices=indices)
    images = torch.cat([(255 * (batch * std + mean)).round().clamp(0, 255).to(torch.uint8) for batch, _ in batches])
    files = []
    for number, image in enumerate(images):
        width, height = (int(side) for side in data.image_size * rng.uniform(*RELATIVE_SIDES, 2))
        picture = Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())
        file = folder / f"{number}.{'png' if number % 2 else 'jpg'}"
        picture.resize((width, height), Image.Resampling.BICUBIC).save(file)
        files.append(file)
    return files


def compare(folder: Path, data: ImageSet, count: int, seed: int) -> dict[str, Any]:
    """Return how far the two ways are apart on ``count`` pictures."""
    net, prepare, predictor = load_net(folder), Preparation.of(data), Predictor(folder)
    classes = len(predictor.class_names)
    differences, equal, shapes = [], 0, []
    with tempfile.TemporaryDirectory() as place:
        for file in write_pictures(data, Path(place), count, seed):
            pixels = np.asarray(Image.open(file).convert("L" if data.in_channels == 1 else "RGB"))
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            with torch.no_grad():
                expected = net(prepare(pixels)[None]).softmax(1)[0].numpy()
            found = np.empty(classes)
            for each in predictor(file, top=classes):
                found[each.number] = each.probability
            differences.append(float(np.abs(found - expected).max()))
            equal += int(found.argmax() == expected.argmax())
            shapes.append(pixels.shape[:2])
    return {
        "pictures": count,
        "smallest": min(shapes, key=lambda shape: shape[0] * shape[1]),
        "largest": max(shapes, key=lambda shape: shape[0] * shape[1]),
        "more_than_twice_as_high_as_wide": sum(height > 2 * width for height, width in shapes),
        "same_class": equal,
        "largest_difference": max(differences),
        "median_difference": float(np.median(differences)),
        "versions": {
            "pillow": PIL.__version__,
            "torchvision": torchvision.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def main() -> int:
    """Compare, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description="Compare standalone.onnx with the pipeline that tested the network.")
    parser.add_argument("folder", type=Path, help="result folder with standalone.onnx")
    parser.add_argument("--data", help="data set to make pictures of (default: what the folder's report names)")
    parser.add_argument("--data-root", default="data", help="folder of torchvision's sets (default: %(default)s)")
    parser.add_argument("--count", type=int, default=200, help="number of pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures (default: %(default)s)")
    arguments = parser.parse_args()
    name = arguments.data or read_report(arguments.folder)["settings"]["data"]
    figures = compare(arguments.folder, load_data(name, root=arguments.data_root), arguments.count, arguments.seed)
    print(json.dumps(figures, indent=2))
    good = figures["same_class"] == figures["pictures"] and figures["largest_difference"] <= TOLERANCE
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
