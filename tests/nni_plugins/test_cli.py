"""The command line: what it prints for programs, and one sentence with the fix for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_plugins.cli import build_parser, main
from nni_plugins.run.genotypes import load_genotype
from search_spaces import published

EXAMPLE = Path(__file__).parents[2] / "exported" / "example"


def test_describe_a_published_genotype(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "bnas_v2_clr_v1", "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["parameters"] == 3_338_074
    assert description["cells"]["convolution"]["2"] == [["sep_conv_3x3", 1], ["sep_conv_3x3", 0]]
    assert main(["describe", "bnas_v2_clr_v1", "--set", "net.channels=24"]) == 0
    assert "sep_conv_3x3(1)" in capsys.readouterr().out


def test_describe_a_supernet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--space", "bcnn", "--strategy", "bnas_v2_pc", "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["weights"] == 289_242
    assert description["architecture_parameters"] == {"convolution": 14 * 8 + 14, "enhancement": 14 * 8 + 14}


def test_describe_a_weight_set(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "space.channels=4", "--set", "space.cells=1"]
    assert main(["describe", "--space", "nasbench201", "--strategy", "relative_nas", "--json", *words]) == 0
    weight_set = json.loads(capsys.readouterr().out)
    assert main(["describe", "--space", "nasbench201", "--strategy", "darts", "--json", *words]) == 0
    mixture = json.loads(capsys.readouterr().out)
    assert weight_set["architecture_parameters"] == {} and mixture["architecture_parameters"] == {"cell": 30}
    # two affine BatchNorms an edge more, over one cell of 4, 8 and 16 channels, and one candidate in place of five
    assert weight_set["weights"] == mixture["weights"] + 6 * 2 * 2 * (4 + 8 + 16)
    assert weight_set["trainable_weights"] == weight_set["weights"]
    assert weight_set["multiply_adds"] < mixture["multiply_adds"]


def test_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "cells.svg"
    assert main(["draw", "bnas_v2_pc_v1", "--out", str(target)]) == 0
    assert target.read_text().startswith("<")
    assert main(["draw", "bnas_v2_pc_v1", "--out", str(target)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_every_command_has_help_that_says_what_it_does() -> None:
    parser = build_parser()
    commands: Any = next(action for action in parser._actions if action.dest == "command").choices
    assert set(commands) >= {"search", "retrain", "export", "check", "draw", "describe", "doctor", "leftovers"}
    for name, command in commands.items():
        assert command.description, name
        for action in command._actions:
            assert action.help, (name, action.dest)


def test_check_imports_neither_torch_nor_nni(tmp_path: Path) -> None:
    code = (
        "import sys; from nni_plugins.cli import main; status = main(['check', sys.argv[1]]); "
        "assert not {'torch', 'nni'} & set(sys.modules), 'heavy imports'; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "model.onnx" in done.stdout


@pytest.fixture
def bad_arrays(tmp_path: Path) -> Path:
    good: dict[str, Any] = {
        "x_train": np.zeros((8, 8, 8), np.uint8), "y_train": np.arange(8) % 2,
        "x_test": np.zeros((4, 8, 8), np.uint8), "y_test": np.arange(4) % 2,
    }  # fmt: skip
    np.savez(tmp_path / "missing.npz", **{k: v for k, v in good.items() if k != "y_test"})
    np.savez(tmp_path / "float.npz", **{**good, "x_train": good["x_train"].astype(np.float32)})
    np.savez(tmp_path / "labels.npz", **{**good, "y_test": np.array([0, 1, 2, 5])})
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--strategy", "dart"], "Unknown strategy 'dart'; expected one of bnas_d"),
        (["--space", "bcn"], "Unknown search space 'bcn'; expected one of bcnn"),
        (["--space", "no.such:thing"], "there is no module 'no.such'"),
        (["--data", "digit"], "digits"),
        (["--data", "cifar10"], "--download"),
        (["--data", "npz:{arrays}/missing.npz"], "y_test"),
        (["--data", "npz:{arrays}/float.npz"], "uint8"),
        (["--data", "npz:{arrays}/labels.npz"], "label"),
        (["--set", "epoch=3"], "has no setting 'epoch'; expected one of"),
        (["--set", "channels=PartialChannels(fraction=3)"], "K=3 do not divide"),
        (["--set", "space.layers=3"], "choose a multiple of 2"),
        (["--set", "space.depth=3"], "There is no argument 'space.depth'; expected one of space.num_classes"),
        (["--set", "batch_size=100000"], "batch"),
        (["--set", "epochs"], "write --set NAME=VALUE"),
        (
            ["--set", "retrain.batch_size=99999"],
            "The settings retrain.* do not fit the data: batch_size 99999 exceeds",
        ),
        (["--set", "retrain.cutout=16"], "The settings retrain.* do not fit the data: cutout 16 covers whole"),
        (["--set", "net.foo=1"], "There is no argument 'net.foo'; expected one of net.num_classes"),
        (["--set", "table=none.npz"], "There is no table at none.npz"),
        (["--set", "table={arrays}/missing.npz"], "missing.npz lacks the columns"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    words: list[str], expected: str, tmp_path: Path, bad_arrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result"
    words = [word.format(arrays=bad_arrays) for word in words]
    assert main(["search", "--out", str(out), "--data-root", str(tmp_path / "none"), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("nni-plugins: ") and expected in error and "\n" not in error
    assert not out.exists() and not Path(f"{out}.run").exists()


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    for words in (["search"], ["retrain", "bnas_v2_clr_v1"], ["export", str(tmp_path)]):
        for more in ([], ["--force"]):
            assert main([*words, "--out", str(tmp_path), *more]) == 2
            assert f"{tmp_path} holds kept.txt and no report.json" in capsys.readouterr().err
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_a_device_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["search"], ["retrain", "darts_v2"], ["export", "none"], ["draw", "darts_v2"]):
        assert main([*words, "--out", "/dev/null", "--force"]) == 2
        assert "/dev/null is a device, pipe or socket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"format": 9}', "format version 9"),
        ('{"format": 1, "space": "bcnn", "inputs": 2, "cells": {"convolution": {"2": [["conv_9x9", 0], ["none", 1]]}}}',
         "bcnn"),
        ("cells", "is not a genotype file"),
    ],
)  # fmt: skip
def test_a_bad_genotype_file(content: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(content)
    assert main(["describe", str(path)]) == 2
    error = capsys.readouterr().err
    assert expected in error and str(path) in error


def test_describe_lists_published_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "nothing"]) == 2
    assert "bnas_v2_clr_v1, bnas_v2_clr_v2" in capsys.readouterr().err


def test_the_cell_of_an_earlier_epoch_is_taken_from_a_result_folder(tmp_path: Path) -> None:
    first, last = published("darts_v2"), published("pc_darts_cifar")
    last.save(tmp_path / "genotype.json")
    history = [{"epoch": n, "genotype": genotype.to_json()} for n, genotype in enumerate((first, last))]
    (tmp_path / "report.json").write_text(json.dumps({"search_history": history, "settings": {}}))
    assert load_genotype(str(tmp_path)) == load_genotype(str(tmp_path), 2) == last
    assert load_genotype(str(tmp_path), 1) == first
    with pytest.raises(ValueError, match="has the epochs 1 to 2, not 0"):
        load_genotype(str(tmp_path), 0)
    with pytest.raises(ValueError, match="but there is no darts_v2"):
        load_genotype("darts_v2", 1)


@pytest.mark.parametrize("words", [["list"], ["compare", str(EXAMPLE), "--json"]], ids=["a table", "JSON"])
def test_a_reader_who_has_seen_enough_is_no_mistake(words: list[str]) -> None:
    command = [sys.executable, "-m", "nni_plugins.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 1
