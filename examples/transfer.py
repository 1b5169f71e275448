"""A trained network as the backbone of a detector, a segmenter and a finder of key points, on pictures drawn at random.

    python examples/transfer.py detection
    python examples/transfer.py segmentation
    python examples/transfer.py key_points --folder exported/first --out pictures

Each trains the same heads twice, on the backbone as the folder has it and on the same backbone untrained, and
prints what both reach on pictures that were not trained on, beside an answer that does not look at the picture; and
writes a picture of the predictions. Everything is seeded. docs/how-to/transfer.md says what to change for data of your
own.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.ops import box_iou

from nni_plugins.run.genotypes import read_report
from nni_plugins.transfer.backbone import Backbone, load_backbone
from nni_plugins.transfer.heads import DenseHead, ssdlite

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZE = 32
FIGURES = ("circle", "square", "triangle")
COLOURS = ("tab:red", "tab:green", "tab:blue")
KEY_POINTS = ("head", "left hand", "right hand", "left foot", "right foot")
NEAR = 2.0
"""Pixels within which a key point counts as found."""


# Pictures drawn at random


class Pictures(NamedTuple):
    """Grey pictures (N, SIZE, SIZE) from 0 to 1, and what is to be found in each."""

    images: Tensor
    targets: list[Any]


def draw_figures(number: int, seed: int) -> Pictures:
    """Draw up to three figures on every picture.

    Returns
    -------
    Pictures
        Targets: ``boxes`` (n, 4) as x1, y1, x2, y2, ``labels`` (n,) that count :data:`FIGURES` from 1, and ``mask``
        (SIZE, SIZE) with the label of every pixel, 0 for the background.
    """
    rng = np.random.default_rng(seed)
    images, targets = [], []
    for _ in range(number):
        picture = Image.fromarray(_background(rng))
        mask = Image.new("L", picture.size)
        boxes: list[tuple[int, ...]] = []
        labels = []
        for label in rng.integers(1, len(FIGURES) + 1, rng.integers(1, 4)):
            figure = _outline(FIGURES[label - 1], rng)
            alone = Image.new("L", picture.size)
            ImageDraw.Draw(alone).polygon(figure, fill=int(label))
            box = alone.getbbox()
            if box is None or any(_overlap(box, other) for other in boxes):
                continue
            ImageDraw.Draw(picture).polygon(figure, fill=int(rng.integers(130, 256)))
            ImageDraw.Draw(mask).polygon(figure, fill=int(label))
            boxes.append(box)
            labels.append(int(label))
        images.append(_noisy(picture, rng))
        targets.append({
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor(labels),
            "mask": torch.from_numpy(np.array(mask)).long(),
        })  # fmt: skip
    return Pictures(torch.stack(images), targets)


def draw_people(number: int, seed: int) -> Pictures:
    """Draw a person of sticks on every picture, among loose sticks.

    Returns
    -------
    Pictures
        Targets: (5, 2), x and y of :data:`KEY_POINTS` in pixels.
    """
    rng = np.random.default_rng(seed)
    images, targets = [], []
    for _ in range(number):
        picture = Image.fromarray(_background(rng))
        draw = ImageDraw.Draw(picture)
        for _ in range(3):
            x, y = rng.uniform(0, SIZE, 2)
            dx, dy = rng.uniform(-6, 6, 2)
            draw.line([(x, y), (x + dx, y + dy)], fill=int(rng.integers(90, 200)))
        points = _draw_person(draw, rng)
        images.append(_noisy(picture, rng))
        targets.append(torch.tensor(points, dtype=torch.float32))
    return Pictures(torch.stack(images), targets)


def _draw_person(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> list[tuple[float, float]]:
    limb, ink, lean = rng.uniform(6, 8.5), int(rng.integers(180, 256)), rng.uniform(-0.4, 0.4)

    def end_of(start: np.ndarray, angle: float, length: float) -> np.ndarray:
        """Return where a stick ends; the angle is from straight down, to the right of the picture."""
        return start + length * np.array([math.sin(angle + lean), math.cos(angle + lean)])

    hip = np.zeros(2)
    shoulder, head = end_of(hip, math.pi, limb), end_of(hip, math.pi, 1.4 * limb)
    hands = [end_of(shoulder, side * rng.uniform(0.6, 2.4), limb) for side in (-1, 1)]
    feet = [end_of(hip, side * rng.uniform(0.2, 0.9), limb) for side in (-1, 1)]
    points = np.stack([head, *hands, *feet])
    place = rng.uniform(2 - points.min(0), SIZE - 3 - points.max(0))  # inside the picture, with the head's radius

    for start, end in [(hip, shoulder), *((shoulder, hand) for hand in hands), *((hip, foot) for foot in feet)]:
        draw.line([*(start + place), *(end + place)], fill=ink)
    draw.ellipse([*(head + place - 2), *(head + place + 2)], fill=ink)
    return [(float(x), float(y)) for x, y in points + place]


def _background(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    return (70 + 50 * np.sin(rng.uniform(0, 6) + 4 * (x * rng.normal() + y * rng.normal()))).astype(np.uint8)


def _noisy(picture: Image.Image, rng: np.random.Generator) -> Tensor:
    pixels = np.asarray(picture) / 255 + rng.normal(0, 0.08, (SIZE, SIZE))
    return torch.from_numpy(pixels.clip(0, 1)).float()


def _outline(figure: str, rng: np.random.Generator) -> list[tuple[float, float]]:
    corners = {"circle": 24, "square": 4, "triangle": 3}[figure]
    radius, turn = rng.uniform(4, 9), rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(radius, SIZE - radius, 2)
    angles = turn + np.arange(corners) * 2 * math.pi / corners
    return [(float(x + radius * math.cos(a)), float(y + radius * math.sin(a))) for a in angles]


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# How good predictions are


def mean_average_precision(predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> float:
    """Return the mean over the figures of the average precision at an IoU of 0.5, in percent [PASCAL VOC 2010].

    Parameters
    ----------
    predictions
        Of every picture: ``boxes`` (n, 4), ``labels`` (n,) and ``scores`` (n,).
    targets
        Of every picture: ``boxes`` and ``labels``.
    """
    precisions = []
    for label in range(1, len(FIGURES) + 1):
        scores: list[float] = []
        right: list[bool] = []
        wanted = 0
        for found, target in zip(predictions, targets, strict=True):
            boxes = target["boxes"][target["labels"] == label]
            wanted += len(boxes)
            of_label = found["labels"] == label
            order = found["scores"][of_label].argsort(descending=True)
            taken: set[int] = set()
            for box, score in zip(found["boxes"][of_label][order], found["scores"][of_label][order], strict=True):
                overlaps = box_iou(box[None], boxes)[0] if len(boxes) else torch.zeros(1)
                best = int(overlaps.argmax())
                right.append(bool(overlaps[best] >= 0.5) and best not in taken)
                taken |= {best} if right[-1] else set()
                scores.append(float(score))
        hits = torch.tensor(right, dtype=torch.float64)[torch.tensor(scores).argsort(descending=True)].cumsum(0)
        precision = hits / torch.arange(1, len(hits) + 1)
        best_from_here = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
        gained = torch.diff(hits, prepend=torch.zeros(1, dtype=torch.float64))
        precisions.append(float((best_from_here * gained).sum() / wanted) if wanted else math.nan)
    return 100 * float(np.nanmean(precisions))


def mean_iou(masks: list[Tensor], targets: list[dict[str, Tensor]]) -> float:
    """Return the mean intersection over union of the figures and the background, in percent."""
    iou = MulticlassJaccardIndex(len(FIGURES) + 1)
    return 100 * float(iou(torch.stack(masks), torch.stack([target["mask"] for target in targets])))


def found_points(points: list[Tensor], targets: list[Tensor]) -> float:
    """Return the percentage of key points that lie at most :data:`NEAR` pixels from the drawn ones."""
    away = torch.stack(points) - torch.stack(targets)
    return 100 * float((away.norm(dim=-1) <= NEAR).double().mean())


# Tasks


@dataclass(frozen=True)
class Task:
    """What a head has to learn, and how it is trained, asked and shown."""

    metric: str
    draw: Callable[[int, int], Pictures]
    model: Callable[[Backbone, dict[str, Any]], nn.Module]
    loss: Callable[[nn.Module, Tensor, list[Any]], Tensor]
    predict: Callable[[nn.Module, Tensor], list[Any]]
    score: Callable[[list[Any], list[Any]], float]
    without_looking: Callable[[list[Any]], Any]
    """From the training targets the one answer to all pictures."""
    show: Callable[[Any, Any, Any], None]
    """Draw a prediction and its target on matplotlib axes."""


def _detector(backbone: Backbone, data: dict[str, Any]) -> nn.Module:
    sides = [0.2 + 0.2 * level for level in range(len(backbone.taps) + 1)]
    return ssdlite(backbone, len(FIGURES), SIZE, mean=data["mean"], std=data["std"], sides=sides)


def _detection_loss(model: nn.Module, images: Tensor, targets: list[Any]) -> Tensor:
    losses = model(list(images), [{name: target[name] for name in ("boxes", "labels")} for target in targets])
    return losses["classification"] + losses["bbox_regression"]


def _usual_boxes(targets: list[Any]) -> dict[str, Tensor]:
    labels = torch.cat([target["labels"] for target in targets])
    boxes = torch.cat([target["boxes"] for target in targets])
    kinds = labels.unique()
    usual = torch.stack([boxes[labels == kind].mean(0) for kind in kinds])
    return {"boxes": usual, "labels": kinds, "scores": torch.ones(len(kinds))}


def _show_boxes(axes: Any, found: Any, target: Any) -> None:
    for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
        if score >= 0.4:
            x1, y1, x2, y2 = (box - 0.5).tolist()  # matplotlib has the centre of the first pixel at 0
            colour = COLOURS[int(label) - 1]
            axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=2))
            text = f"{FIGURES[int(label) - 1]} {score:.2f}"
            axes.text(x1, max(y1, 2), text, color="white", fontsize=9, bbox={"facecolor": colour, "pad": 1})


def _mask_loss(model: nn.Module, images: Tensor, targets: list[Any]) -> Tensor:
    return F.cross_entropy(model(images), torch.stack([target["mask"] for target in targets]))


def _show_mask(axes: Any, found: Any, target: Any) -> None:
    colours = np.array([(0, 0, 0, 0), *(matplotlib.colors.to_rgba(colour, 0.5) for colour in COLOURS)])
    axes.imshow(colours[found.numpy()])
    axes.contour(target["mask"].numpy() > 0, levels=[0.5], colors="white", linewidths=0.7)


def _heat_loss(model: nn.Module, images: Tensor, targets: list[Any]) -> Tensor:
    """Return the scaled squared error to Gaussians around the points [SimpleBaseline, arXiv 1804.06208]."""
    points = torch.stack(targets)[:, :, :, None, None]
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    heat = torch.exp(-((x - points[:, :, 0]) ** 2 + (y - points[:, :, 1]) ** 2) / (2 * 1.5**2))
    return F.mse_loss(model(images), heat) * SIZE


def _hottest(model: nn.Module, images: Tensor) -> list[Any]:
    at = model(images).flatten(2).argmax(2)
    return list(torch.stack([at % SIZE, at // SIZE], dim=2).float())


def _show_points(axes: Any, found: Any, target: Any) -> None:
    for number, (point, right) in enumerate(zip(found.tolist(), target.tolist(), strict=True)):
        axes.plot(*right, "o", markersize=9, markerfacecolor="none", color="white")
        axes.plot(*point, "x", markersize=7, color=f"C{number}")


TASKS = {
    "detection": Task(
        "mAP at IoU 0.5, %", draw_figures, _detector, _detection_loss, lambda model, images: model(list(images)),
        mean_average_precision, _usual_boxes, _show_boxes,
    ),
    "segmentation": Task(
        "mean IoU, %", draw_figures, lambda backbone, data: _normalising(DenseHead(backbone, len(FIGURES) + 1), data),
        _mask_loss, lambda model, images: list(model(images).argmax(1)),
        mean_iou, lambda targets: torch.zeros(SIZE, SIZE, dtype=torch.long), _show_mask,
    ),
    "key_points": Task(
        f"points within {NEAR:.0f} pixels, %", draw_people,
        lambda backbone, data: _normalising(DenseHead(backbone, len(KEY_POINTS)), data),
        _heat_loss, _hottest, found_points, lambda targets: torch.stack(targets).mean(0), _show_points,
    ),
}  # fmt: skip


def _normalising(model: nn.Module, data: dict[str, Any]) -> nn.Module:
    """Put the normalisation before a model; torchvision's detectors have it inside."""

    class Normalise(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean, std = (torch.tensor(data[name])[:, None, None] for name in ("mean", "std"))
            return (images - mean) / std

    return nn.Sequential(Normalise(), model)


# Training


def train(task: Task, model: nn.Module, pictures: Pictures, *, epochs: int, seed: int = 0) -> None:
    """Train all of ``model``, backbone and heads, with Adam and a cosine over all steps, 16 pictures a step."""
    batch, rng = 16, np.random.default_rng(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = epochs * math.ceil(len(pictures.images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(pictures.images)), steps // epochs):
            loss = task.loss(model, pictures.images[chosen], [pictures.targets[i] for i in chosen])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimiser.step()
            schedule.step()
    model.eval()


def untrained(backbone: Backbone, seed: int = 0) -> Backbone:
    """Return a copy of ``backbone`` with weights as before any training."""
    torch.manual_seed(seed)
    fresh = copy.deepcopy(backbone)
    for module in fresh.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return fresh


def run(name: str, folder: Path, out: Path, *, training: int, test: int, epochs: int) -> dict[str, float]:
    """Train, compare and draw one task.

    Parameters
    ----------
    name
        One of :data:`TASKS`.
    folder
        Result folder whose network is the backbone.
    out
        Folder of the picture.
    training, test
        Numbers of pictures.
    epochs
        Length of each training.

    Returns
    -------
    dict
        The metric with the folder's backbone, with the untrained one, and of one answer to all pictures.
    """
    task = TASKS[name]
    backbone = load_backbone(folder)
    data = read_report(folder)["data"]
    if name == "detection":
        backbone = load_backbone(folder, [tap.stride for tap in backbone.taps][-2:])
    learnt_on, tested_on = (
        Pictures(images[:, None].expand(-1, data["in_channels"], -1, -1), targets)
        for images, targets in (task.draw(training, 1), task.draw(test, 2))
    )
    scores: dict[str, float] = {}
    for start, chosen in (("trained backbone", backbone), ("untrained backbone", untrained(backbone))):
        torch.manual_seed(0)
        model = task.model(copy.deepcopy(chosen), data)
        train(task, model, learnt_on, epochs=epochs)
        with torch.no_grad():
            found = [each for batch in tested_on.images.split(32) for each in task.predict(model, batch)]
        scores[start] = task.score(found, tested_on.targets)
        if start == "trained backbone":
            _draw_predictions(task, tested_on, found, out / f"{name}.png")
    scores["one answer to all"] = task.score([task.without_looking(learnt_on.targets)] * test, tested_on.targets)
    return scores


def _draw_predictions(task: Task, pictures: Pictures, found: list[Any], path: Path) -> None:
    figure, grid = plt.subplots(2, 4, figsize=(12, 6.2), layout="constrained")
    shown = zip(grid.flat, pictures.images, found, pictures.targets, strict=False)
    for axes, image, prediction, target in shown:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        task.show(axes, prediction, target)
    for axes in grid.flat:
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Run the task that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--folder", type=Path, default=Path("exported/example"), help="result folder of the backbone")
    parser.add_argument("--out", type=Path, default=Path("transfer"), help="folder of the picture (transfer)")
    parser.add_argument("--training", type=int, default=320, help="pictures to train on (320)")
    parser.add_argument("--test", type=int, default=200, help="pictures to test on (200)")
    parser.add_argument("--epochs", type=int, default=8, help="length of each training (8)")
    arguments = parser.parse_args()
    try:
        scores = run(
            arguments.task, arguments.folder, arguments.out,
            training=arguments.training, test=arguments.test, epochs=arguments.epochs,
        )  # fmt: skip
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(TASKS[arguments.task].metric)
    for start, score in scores.items():
        print(f"  {start:20} {score:5.1f}")
    print(f"predictions are drawn in {arguments.out / arguments.task}.png")


if __name__ == "__main__":
    main()
