"""examples/transfer.py at toy size, its metrics by hand, and the code of docs/how-to/transfer.md as it stands there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "exported" / "example"
DOCUMENT = (ROOT / "docs" / "how-to" / "transfer.md").read_text()
BACKBONE, TIMM = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transfer_example", ROOT / "examples" / "transfer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", ["detection", "segmentation", "key_points"])
def test_a_task_runs_and_draws_its_predictions(transfer: Any, task: str, tmp_path: Path) -> None:
    scores = transfer.run(task, EXAMPLE, tmp_path / "out", training=8, test=4, epochs=1)
    assert list(scores) == ["trained backbone", "untrained backbone", "one answer to all"]
    assert all(0 <= score <= 100 for score in scores.values())
    assert (tmp_path / "out" / f"{task}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["detection", "segmentation", "key_points"])
def test_training_lowers_the_loss(transfer: Any, name: str) -> None:
    torch.manual_seed(0)
    task = transfer.TASKS[name]
    model = task.model(transfer.load_backbone(EXAMPLE, [2, 4]), {"mean": [0.3], "std": [0.3]}).train()
    images, targets = task.draw(16, 0)
    pictures = transfer.Pictures(images[:, None], targets)
    before = float(task.loss(model, *pictures))
    transfer.train(task, model, pictures, epochs=20)
    assert float(task.loss(model.train(), *pictures)) < 0.8 * before


def test_a_missing_folder_is_one_sentence(
    transfer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["transfer.py", "detection", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        transfer.main()
    assert "give a folder that search or retrain has made" in capsys.readouterr().err


def test_an_untrained_backbone_shares_no_weight_with_the_trained(transfer: Any) -> None:
    backbone = transfer.load_backbone(EXAMPLE)
    fresh = transfer.untrained(backbone).state_dict()
    weights = backbone.state_dict()
    assert not [n for n, w in weights.items() if w.ndim == 4 and torch.equal(w, fresh[n])]
    means = [w for name, w in fresh.items() if name.endswith("running_mean")]
    assert means and not any(mean.any() for mean in means)


# What is drawn


def test_figures_fill_their_boxes(transfer: Any) -> None:
    pictures = transfer.draw_figures(20, seed=0)
    assert pictures.images.shape == (20, 32, 32) and pictures.images.min() >= 0 and pictures.images.max() <= 1
    for target in pictures.targets:
        for (x1, y1, x2, y2), label in zip(target["boxes"].int().tolist(), target["labels"], strict=True):
            inside = target["mask"][y1:y2, x1:x2] == label
            assert inside.any(0).all() and inside.any(1).all()  # the box is tight
        assert set(target["mask"].unique().tolist()) == {0, *target["labels"].tolist()}


def test_people_are_drawn_where_their_points_are(transfer: Any) -> None:
    pictures = transfer.draw_people(200, seed=2)
    for image, points in zip(pictures.images, pictures.targets, strict=True):
        assert points.shape == (5, 2) and points.min() >= 2 and points.max() <= 29
        head = points[0].round().long()
        assert image[head[1], head[0]] > 0.4  # ink of at least 180 / 255, with noise of 0.08


# Metrics


def detections(*found: tuple[list[float], int, float]) -> dict[str, torch.Tensor]:
    boxes, labels, scores = zip(*found, strict=True) if found else ([], [], [])
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "scores": torch.tensor(scores, dtype=torch.float32),
    }


HERE, THERE, ELSEWHERE = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 20.0, 10.0, 30.0]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([(HERE, 1, 0.9), (THERE, 1, 0.8)], 100.0),
        ([(HERE, 1, 0.9)], 50.0),  # one of two
        ([(HERE, 1, 0.9), (HERE, 1, 0.8), (THERE, 1, 0.7)], 100 * (1 + 2 / 3) / 2),  # the second time is wrong
        ([(ELSEWHERE, 1, 0.9), (HERE, 1, 0.8)], 25.0),  # a wrong one first
        ([(HERE, 2, 0.9)], 0.0),
        ([([0.0, 0.0, 10.0, 5.0], 1, 0.9)], 50.0),  # an IoU of just 0.5
        ([([0.0, 0.0, 10.0, 4.9], 1, 0.9)], 0.0),
        ([], 0.0),
    ],
)
def test_average_precision(transfer: Any, found: list[Any], wanted: float) -> None:
    targets = [{"boxes": torch.tensor([HERE, THERE]), "labels": torch.tensor([1, 1])}]
    assert transfer.mean_average_precision([detections(*found)], targets) == pytest.approx(wanted)


def test_precision_ranks_over_all_pictures(transfer: Any) -> None:
    one = {"boxes": torch.tensor([HERE]), "labels": torch.tensor([1])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    found = [detections((HERE, 1, 0.5)), detections((HERE, 1, 0.9))]
    assert transfer.mean_average_precision(found, [one, none]) == pytest.approx(50)


def test_intersection_over_union(transfer: Any) -> None:
    right, found = torch.zeros(4, 4, dtype=torch.long), torch.zeros(4, 4, dtype=torch.long)
    right[:2] = 1
    found[:1] = 1  # background 8 of 12 pixels, figure 4 of 8; the other figures are not there
    assert transfer.mean_iou([found], [{"mask": right}]) == pytest.approx(100 * (8 / 12 + 4 / 8) / 2)


def test_points_count_up_to_two_pixels_away(transfer: Any) -> None:
    right = torch.zeros(5, 2)
    found = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.1], [1.5, 1.5], [1.0, 1.0]])
    assert transfer.found_points([found], [right]) == pytest.approx(60)


# The document


def test_the_backbone_of_the_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    exec(BACKBONE, {})
    assert capsys.readouterr().out.splitlines() == [
        "stride 1: 32 channels",
        "stride 2: 64 channels",
        "stride 4: 128 channels",
    ]


def test_the_timm_model_of_the_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra: pip install nni-plugins[timm]")
    monkeypatch.chdir(ROOT)
    exec(TIMM, {})
    assert capsys.readouterr().out.splitlines() == ["[64, 128] [2, 4]", "[(2, 64, 16, 16), (2, 128, 8, 8)]"]
