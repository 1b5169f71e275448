"""Weights of one data set as the start on another: what is taken, what is not, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nni_plugins.cli import main
from nni_plugins.run.initial_weights import InitialWeights
from nni_plugins.run.networks import build_net
from nni_plugins.run.result import load_net
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import Stage
from search_spaces import Genotype, published

EXAMPLE = Path(__file__).parents[3] / "exported" / "example"
CELL = Genotype.load(EXAMPLE / "genotype.json")
SETTINGS = Settings.from_dict(json.loads((EXAMPLE / "report.json").read_text())["settings"])


def shape(*, classes: int = 10, channels: int = 1, size: int = 16) -> Any:
    return SimpleNamespace(num_classes=classes, in_channels=channels, image_size=size)


@pytest.mark.parametrize(
    ("data", "anew"),
    [
        (shape(), {"classifier.weight", "classifier.bias"}),  # as many classes, but of other data
        (shape(classes=3, size=32), {"classifier.weight", "classifier.bias"}),
        (shape(classes=7, channels=3), {"classifier.weight", "classifier.bias", "stem0.0.weight"}),
    ],
)
def test_all_is_taken_but_the_classifier_and_what_reads_other_channels(data: Any, anew: set[str]) -> None:
    torch.manual_seed(1)
    net = build_net(CELL, SETTINGS, data)
    fresh = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trained = load_net(EXAMPLE).state_dict()
    InitialWeights.of(EXAMPLE).load_into(net, CELL, data)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in anew else trained[name]), name


def test_one_line_says_what_is_not_taken() -> None:
    initial = InitialWeights.of(EXAMPLE)
    assert initial.sentence(shape(channels=3)) == (
        f"The weights start as in {EXAMPLE}; those of stem0.0 and classifier start anew."
    )
    assert initial.sentence(shape()) == f"The weights start as in {EXAMPLE}; those of classifier start anew."


def test_another_cell_is_refused() -> None:
    other = published("bnas_v2_clr_v1")
    net = build_net(other, SETTINGS, shape())
    with pytest.raises(ValueError, match=r"those of another cell; give a folder of the cell .*--from"):
        InitialWeights.of(EXAMPLE).load_into(net, other, shape())


def test_another_size_is_refused_by_name() -> None:
    wide = Settings.of(strategy="bnas_d", overrides={"net.channels": 16})
    net = build_net(CELL, wide, shape())
    with pytest.raises(ValueError, match=r"another size \(stem0.0.weight is \[24, 1, 3, 3\] there and \[48, 1, 3, 3\]"):
        InitialWeights.of(EXAMPLE).load_into(net, CELL, shape())
    deep = Settings.of(strategy="bnas_d", overrides={"net.enhancement_cells": 2})
    with pytest.raises(ValueError, match=r"another size \(enhancement_cells\.1\..* is missing there"):
        InitialWeights.of(EXAMPLE).load_into(build_net(CELL, deep, shape()), CELL, shape())


def test_a_retraining_from_other_weights_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "retrain").mkdir()
    stages = [Stage.of_retraining(SETTINGS, CELL, "f00d", weights) for weights in (None, "aaaa", "bbbb")]
    assert len({json.dumps(dict(stage.depends_on), sort_keys=True) for stage in stages}) == 3
    assert stages[0].depends_on == Stage.of_retraining(SETTINGS, CELL, "f00d").depends_on


def test_the_command_line_retrains_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8) for split in ("train", "test")}
    labels = {f"y_{split}": np.arange(64) % 3 for split in ("train", "test")}
    np.savez(tmp_path / "own.npz", **arrays, **labels)  # type: ignore[arg-type]
    monkeypatch.chdir(EXAMPLE.parents[1])
    words = ["retrain", "exported/example", "--data", f"npz:{tmp_path / 'own.npz'}", "--out", str(tmp_path / "new")]
    words += ["--set", "retrain.epochs=1", "--set", "retrain.batch_size=32", "--set", "retrain.lr=1e-9"]
    assert main([*words, "--from", "exported/example"]) == 0
    assert "The weights start as in exported/example; those of stem0.0 and classifier start anew." in (
        capsys.readouterr().out
    )
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["initial_weights"] == {
        "folder": "exported/example",
        "weights_sha256": json.loads((EXAMPLE / "report.json").read_text())["weights_sha256"],
        "not_taken": ["stem0.0", "classifier"],
    }
    before, after = load_net(EXAMPLE).state_dict(), load_net(tmp_path / "new").state_dict()
    learnt = "enhancement_cells.0.preprocessor.input0.1.weight"  # so low a learning rate leaves it where it began
    torch.testing.assert_close(after[learnt], before[learnt], atol=1e-5, rtol=0)
    assert main([*words[:5], str(tmp_path / "other"), *words[6:], "--from", str(tmp_path)]) == 2
    assert f"{tmp_path} has no genotype.json; give a folder" in capsys.readouterr().err
    assert not (tmp_path / "other.run").exists()
