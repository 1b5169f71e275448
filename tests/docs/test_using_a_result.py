"""The code of docs/how-to/using_a_result.md, run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nni_plugins.data import load_data

ROOT = Path(__file__).parents[2]
STANDALONE, CLASSIFY, FINE_TUNE, WRITE_PROGRAM, RUN_PROGRAM = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "using_a_result.md").read_text(), flags=re.DOTALL
)
OURS = ("nni", "nni_plugins", "search_spaces")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the repository's root, but is none of its own to write to."""
    for name in ("docs", "exported"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(code: str, folder: Path, *missing: str) -> str:
    """Run code in a process of its own in which some packages cannot be imported; return what it prints."""
    without = f"import sys\nsys.modules.update(dict.fromkeys({missing!r}))\n"
    process = subprocess.run(
        [sys.executable, "-c", without + code],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout


def prepared(picture: Image.Image, **data: Any) -> np.ndarray:
    """What the document's ``prepare`` makes of a picture."""
    names: dict[str, Any] = {}
    exec(CLASSIFY.partition("folder = ")[0], names)
    return names["prepare"](picture, data)


def test_a_picture_is_classified_without_torch_and_without_this_package(folder: Path) -> None:
    assert run(CLASSIFY, folder, "torch", *OURS).split() == ["class", "4"]


def test_a_picture_is_classified_by_the_stand_alone_graph(folder: Path) -> None:
    name, _, _, probability = run(STANDALONE, folder, "torch", *OURS).split()
    assert name == "4" and float(probability) > 0.9


def test_the_weights_are_trained_further(folder: Path) -> None:
    accuracy = re.match(r"([\d.]+) % of 359 test images", run(FINE_TUNE, folder))
    assert accuracy and float(accuracy[1]) > 90  # with a new classifier, after two epochs


def test_the_network_runs_and_trains_where_there_is_torch_alone(folder: Path) -> None:
    run(WRITE_PROGRAM, folder)
    compare = """
reference = __import__("numpy").load("exported/example/reference.npz")
net = torch.export.load("example.pt2").module()
found = net(torch.from_numpy(reference["images"][:5])).detach().numpy()
assert abs(found - reference["logits"][:5]).max() < 1e-4
"""
    run(RUN_PROGRAM + compare, folder, *OURS)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_prepared_as_the_images_of_an_array(channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 12, 12, channels), dtype=np.uint8)
    labels = np.arange(6) % 2
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = load_data(f"npz:{tmp_path / 'own.npz'}")
    batch, _ = next(iter(data.loader("test", training=False, batch_size=6, seed=0)))
    for image, wanted in zip(images, batch.numpy(), strict=True):
        picture = Image.fromarray(image.squeeze())
        found = prepared(picture, name=data.name, in_channels=channels, image_size=12, mean=data.mean, std=data.std)
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_a_picture_is_prepared_as_the_images_of_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (2, 3, 3, 3), dtype=np.uint8)
    sizes = [(300, 420), (260, 233)]
    for split in ("train", "val"):
        for kind, pixels, size in zip(("cat", "dog"), smooth, sizes, strict=True):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(pixels).resize(size).save(tmp_path / split / kind / "one.png")
    data = load_data(f"imagefolder:{tmp_path}")
    batch, labels = next(iter(data.loader("test", training=False, batch_size=2, seed=0)))
    assert labels.tolist() == [0, 1]
    for kind, wanted in zip(("cat", "dog"), batch.numpy(), strict=True):
        picture = Image.open(tmp_path / "val" / kind / "one.png")
        found = prepared(
            picture, name=data.name, in_channels=3, image_size=data.image_size, mean=data.mean, std=data.std
        )
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)
