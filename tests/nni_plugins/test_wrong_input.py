"""Wrong input is refused in one sentence that says what was expected, before any work is done.

Every table row is an input and a part of its sentence; a new setting needs one more row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nni_plugins.cli import main
from nni_plugins.tools import own_code

OWN_MODULE = """
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
def raises(**_): raise RuntimeError("no\\nluck")
def needs(x, **_): return x
def wrong(**_): return 3
def broken(num_classes, in_channels):
    len(5)
def data_raises(): return 1 / 0
def data_wrong(): return [1, 2]
def data_needs(folder): return folder
value = 3
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wrong files, and some right ones."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("wrong")
    (folder / "own_module.py").write_text(OWN_MODULE)
    (folder / "fails.py").write_text("x = 1\nraise RuntimeError('at once')\n")
    (folder / "needs.py").write_text("import a_package_that_is_missing\n")
    rng = np.random.default_rng(0)
    good: dict[str, Any] = {
        "x_train": rng.integers(0, 255, (40, 8, 8), dtype=np.uint8), "y_train": np.arange(40) % 2,
        "x_test": rng.integers(0, 255, (8, 8, 8), dtype=np.uint8), "y_test": np.arange(8) % 2,
    }  # fmt: skip
    changed: dict[str, dict[str, Any]] = {
        "good": {},
        "float": {"x_train": good["x_train"] / 255},
        "labels": {"y_test": np.arange(8)},
        "one_class": {"y_train": np.zeros(40, np.int64), "y_test": np.zeros(8, np.int64)},
        "oblong": {"x_train": np.zeros((40, 8, 9), np.uint8)},
        "flat": {"x_train": np.zeros((40, 64), np.uint8)},
        "tiny": {"x_train": np.zeros((40, 1, 1), np.uint8), "x_test": np.zeros((8, 1, 1), np.uint8)},
        "short": {"y_train": np.arange(39) % 2},
        "two_sizes": {"x_test": np.zeros((8, 9, 9), np.uint8)},
        "text_labels": {"y_train": np.array(["cat", "dog"] * 20)},
        "objects": {"x_train": np.array([None, "x"], dtype=object)},
    }
    for name, arrays in changed.items():
        np.savez(folder / f"{name}.npz", **{**good, **arrays})
    np.savez(folder / "missing.npz", **{key: value for key, value in good.items() if key != "y_test"})
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:200])
    (folder / "text.npz").write_text("no archive")
    for name in ("pictures", "cut_pictures", "tiny_pictures"):
        for part, label, i in ((p, c, i) for p in ("train", "val") for c in ("ant", "bee") for i in range(3)):
            path = folder / name / part / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            side = 1 if name == "tiny_pictures" else 12
            Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    broken = folder / "cut_pictures/val/bee/1.png"
    broken.write_bytes(broken.read_bytes()[:150])
    (folder / "one_class_pictures/train/ant").mkdir(parents=True)
    for name, text in {
        "text": "cells", "empty": "", "list": "[]", "number": "5", "future": '{"format": 9}',
        "deep": "[" * 100_000, "no_cells": '{"format": 1, "space": "bcnn", "inputs": 2}',
        "unknown_space": '{"format": 1, "space": "moon", "inputs": 2, "cells": {}}',
        "evil": '{"format": 1, "space": "os:system", "inputs": 2, "cells": {}}',
        "operation": json.dumps({
            "format": 1, "space": "nasbench201", "inputs": 1,
            "cells": {"cell": {"1": [["conv_9x9", 0]], "2": [["none", 0], ["none", 1]],
                               "3": [["none", 0], ["none", 1], ["none", 2]]}},
        }),
    }.items():  # fmt: skip
        (folder / f"{name}.json").write_text(text)
    columns: dict[str, Any] = {
        "op_names": np.array(["none", "skip_connect"]), "ops": np.zeros((3, 6), np.int64),
        **{f"test_{name}": np.full(3, 50.0) for name in ("cifar10", "cifar100", "imagenet16")},
    }  # fmt: skip
    for name, values in {
        "table": {}, "nan": {"test_cifar10": np.full(3, np.nan)}, "share": {"test_cifar100": np.full(3, 120.0)},
        "negative": {"test_imagenet16": np.full(3, -1.0)}, "names": {"op_names": np.array(["none", "moon"])},
        "numbers": {"ops": np.full((3, 6), 7)}, "shape": {"ops": np.zeros((3, 5), np.int64)},
    }.items():  # fmt: skip
        np.savez(folder / f"table_{name}.npz", **{**columns, **values})
    np.savez(folder / "table_columns.npz", ops=columns["ops"])
    for name, report in {
        "cut": '{"settings": {', "no_object": "[]", "no_keys": "{}",
        "no_search": '{"settings": {}, "search_history": []}', "deep_report": '{"a":' * 100_000,
    }.items():  # fmt: skip
        (folder / name).mkdir()
        (folder / name / "report.json").write_text(report)
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty output folder; modules of ``files`` are found, and nothing is allowed yet."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    monkeypatch.setattr(own_code, "_allowed", {})
    yield tmp_path
    for name in ("own_module", "fails", "needs"):
        sys.modules.pop(name, None)


COMMANDS = [
    # words of the command line; {out} is an empty folder
    ("", "the following arguments are required: COMMAND; see nni-plugins --help"),
    ("serch", "invalid choice: 'serch'"),
    ("search", "the following arguments are required: --out"),
    ("search --out {out}/r --seed x", "argument --seed: invalid int value: 'x'"),
    ("search --out {out}/r --nonsense", "unrecognized arguments: --nonsense"),
    ("search --out {out}/r --epochs 3", "unrecognized arguments: --epochs 3"),
    ("search --out {out}", "{out} exists already; choose another output folder"),
    ("search --out {out}/r --seed -1", "seed must be a whole number of at least 0, got -1"),
    ("search --out {out}/r --strategy dart", "Unknown strategy 'dart'; expected one of bnas_d, bnas_v2_clr"),
    ("search --out {out}/r --strategy no.such:Class", "there is no module 'no.such'"),
    ("search --out {out}/r --strategy own_module:value", "is no strategy: expected a class"),
    ("search --out {out}/r --strategy own_module:raises", "is no strategy: expected a class"),
    ("search --out {out}/r --space bcn", "Unknown search space 'bcn'; expected one of bcnn, darts"),
    ("search --out {out}/r --space no.such:thing", "there is no module 'no.such'"),
    ("search --out {out}/r --space own_module:nothing", "own_module has no 'nothing'; define it there"),
    ("search --out {out}/r --space fails:x", "fails when it is imported: RuntimeError: at once (fails.py, line 2)"),
    ("search --out {out}/r --space needs:x", "needs needs 'a_package_that_is_missing', which is not installed"),
    ("search --out {out}/r --data digit", "Unknown data set 'digit'; expected one of digits, cifar10"),
    ("search --out {out}/r --data npz:", "Unknown data set 'npz:'"),
    ("search --out {out}/r --data cifar10 --data-root {out}/none", "pass --download to fetch it"),
    ("retrain darts_v2 --out {out}/r --data digit", "Unknown data set 'digit'"),
    ("retrain nothing --out {out}/r", "'nothing' is neither a genotype file nor a published genotype"),
    ("retrain darts_v2 --out {out}/r --epoch 1", "--epoch takes a cell from a search's result folder"),
    ("retrain no_search --out {out}/r --epoch 1", "There was no search, so that there is no cell of an earlier epoch"),
    ("retrain cut --out {out}/r --epoch 1", "cut/report.json is damaged"),
    ("retrain deep_report --out {out}/r --epoch 1", "deep_report/report.json is damaged"),
    ("retrain no_object --out {out}/r --epoch 1", "no_object/report.json is not the report of a run"),
    ("retrain no_keys --out {out}/r --epoch 1", "no_keys/report.json is not the report of a run"),
    ("retrain no_keys --out {out}/r", "There is no genotype file at no_keys/genotype.json"),
    ("retrain darts_v2 --out {out}/r --set epochs=7", "no setting 'epochs' here; expected the prefix retrain. or net."),
    ("retrain darts_v2 --out {out}/r --set epochs=7", "such as retrain.epochs"),
    ("retrain darts_v2 --out {out}/r --set warmup_epochs=1", "no setting 'warmup_epochs' here"),
    ("retrain darts_v2 --out {out}/r --set space.channels=4", "no setting 'space.channels' here"),
    ("retrain darts_v2 --out {out}/r --set retrain.epoch=4", "There is no setting 'retrain.epoch'; expected one of"),
    ("retrain darts_v2 --out {out}/r --set net.width=4", "There is no argument 'net.width'; expected one of net.num_"),
    ("retrain evil.json --out {out}/r", "only the command line may name; pass --space os:system"),
    ("retrain unknown_space.json --out {out}/r", "Unknown search space 'moon'"),
    ("export nowhere --out {out}/r", "nowhere has no genotype.json"),
    ("export no_keys --out {out}/r --data digit", "Unknown data set 'digit'"),
    ("draw nothing --out {out}/c.svg", "'nothing' is neither a genotype file nor a published genotype"),
    ("draw darts_v2 --out {out}", "{out} is a folder, not a file; choose another file to write"),
    ("draw '|none~0|' --out {out}/c.svg", "|none~0|"),
    ("draw text.json --out {out}/c.svg", "text.json is not a genotype file"),
    ("draw empty.json --out {out}/c.svg", "empty.json is not a genotype file"),
    ("draw list.json --out {out}/c.svg", "list.json is not a genotype file"),
    ("draw number.json --out {out}/c.svg", "number.json is not a genotype file"),
    ("draw deep.json --out {out}/c.svg", "deep.json is not a genotype file"),
    ("draw future.json --out {out}/c.svg", "future.json has format version 9"),
    ("draw no_cells.json --out {out}/c.svg", "no_cells.json is not a valid genotype"),
    ("draw operation.json --out {out}/c.svg", "Unknown operation 'conv_9x9'"),
    ("describe", "Give a genotype (a file or a published name), or --strategy for a supernet."),
    ("describe darts_v2 --strategy darts", "Give a genotype for its network, or --strategy and --space for a supernet"),
    ("describe darts_v2 --space darts", "not both"),
    ("describe darts_v2 --dataset moon", "Unknown data set 'moon'; expected one of cifar10"),
    ("describe --strategy darts --dataset moon", "Unknown data set 'moon'"),
    (
        "describe darts_v2 --set channels=8",
        "There is no setting 'channels' here; expected the prefix net., such as net",
    ),
    ("describe darts_v2 --set net.channels=abc", "net.channels must be an even number of at least 2, got 'abc'"),
    ("describe darts_v2 --set net.layers=2", "net.layers must be a whole number of at least 3, got 2"),
    (
        "describe --strategy darts --set net.channels=8",
        "no setting 'net.channels' here; expected none or the prefix sp",
    ),
    ("describe --strategy darts --set retrain.lr=8", "There is no setting 'retrain.lr' here"),
    ("describe --strategy dart", "Unknown strategy 'dart'"),
    ("describe --strategy darts --space dart", "Unknown search space 'dart'"),
    ("space dart", "Unknown search space 'dart'"),
    (
        "space darts --set layers=3",
        "There is no setting 'layers' here; expected the prefix space., such as space.layers",
    ),
    ("space darts --set epochs=3", "There is no setting 'epochs' here"),
    ("space darts --set space.layers=1", "space.layers must be a whole number of at least 3, got 1"),
    ("space darts --set space.layers", "write --set NAME=VALUE"),
    ("space own_module:raises", "fails: RuntimeError: no luck (own_module.py, line 4)"),
    ("space own_module:needs", "missing 1 required positional argument"),
    ("space own_module:wrong", "returned int; expected a function or class"),
    ("space own_module:broken", "fails: TypeError: object of type 'int' has no len() (own_module.py, line 8)"),
    ("space own_module:broken --set net.channels=3", "no setting 'net.channels' here"),
    ("score darts_v2 --table table_table.npz", "nasbench201"),
    ("score nothing --table table_table.npz", "is neither a genotype file"),
    ("score darts_v2 --table nowhere.npz", "There is no table at nowhere.npz"),
    ("score darts_v2 --table text.npz", "text.npz is not an .npz file"),
    ("score darts_v2 --table table_nan.npz", "values in test_cifar10 that are no accuracies"),
    ("score darts_v2 --table table_share.npz", "values in test_cifar100 that are no accuracies"),
    ("score darts_v2 --table table_negative.npz", "values in test_imagenet16 that are no accuracies"),
    ("score darts_v2 --table table_names.npz", "has the operation 'moon'"),
    ("score darts_v2 --table table_numbers.npz", "operation numbers from 7 to 7"),
    ("score darts_v2 --table table_shape.npz", "has ops of shape (3, 5)"),
    ("score darts_v2 --table table_columns.npz", "lacks the columns op_names"),
    ("latency moon --out {out}/t.json", "Unknown search space 'moon'"),
    ("latency bcnn --out {out}/t.json --set epochs=3", "There is no setting 'epochs' here"),
    ("latency bcnn --out {out}/t.json --networks 1", "--networks must be a whole number of at least 2, got 1"),
    ("latency bcnn --out {out}/t.json --runs 0", "--runs must be a whole number of at least 1, got 0"),
    ("latency bcnn --out text.json", "text.json exists already"),
    ("list moons", "invalid choice: 'moons'"),
    ("doctor --port -1", "argument --port: expected a port from 1 to 65535, got '-1'"),
    ("doctor --port 0", "expected a port from 1 to 65535, got '0'"),
    (
        "search --out {out}/r --set merge_edges=true --set features=PerSource()",
        "merge_edges must be false with features=PerSource(), by which every operation is computed once per source",
    ),
    (
        "search --out {out}/r --set cuda_graphs=true --set unrolled=true",
        "cuda_graphs must be false with unrolled=true, whose finite differences are not captured, got true",
    ),
    (
        "search --out {out}/r --strategy relative_nas --set cuda_graphs=true",
        "The strategy relative_nas has no setting 'cuda_graphs'; expected one of",
    ),
    ("doctor --port 99999", "expected a port from 1 to 65535, got '99999'"),
    ("doctor --port http", "expected a port from 1 to 65535, got 'http'"),
]


@pytest.mark.parametrize(("words", "sentence"), COMMANDS)
def test_a_command(words: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    refused(shlex.split(words.format(out=here)), sentence.format(out=here), capsys)
    assert list(here.iterdir()) == [], "nothing is left"


def refused(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(words)
    except SystemExit as ended:  # from argparse
        status = ended.code
    error = capsys.readouterr().err.strip()
    assert status == 2, error
    assert error.startswith("nni-plugins") and sentence in error
    assert "\n" not in error and "Traceback" not in error


WHOLE = "must be a whole number of at least"
SETTINGS = [
    # of the search
    ("epochs=0", f"epochs {WHOLE} 1, got 0"),
    ("epochs=-3", f"epochs {WHOLE} 1, got -3"),
    ("epochs=1.5", f"epochs {WHOLE} 1, got 1.5"),
    ("epochs=True", f"epochs {WHOLE} 1, got True"),
    ("epochs=many", f"epochs {WHOLE} 1, got 'many'"),
    ("epochs=", f"epochs {WHOLE} 1, got ''"),
    ("epochs=[3]", f"epochs {WHOLE} 1, got [3]"),
    ("epochs=none", f"epochs {WHOLE} 1, got None"),
    ("epoch=3", "has no setting 'epoch'; expected one of"),
    ("=3", "write --set NAME=VALUE"),
    ("epochs", "write --set NAME=VALUE"),
    ("batch_size=1", f"batch_size {WHOLE} 2, got 1"),
    ("lr=0", "lr must be positive, got 0"),
    ("lr=-0.1", "lr must be positive, got -0.1"),
    ("lr=1e999", "lr must be positive, got inf"),
    ("lr=fast", "lr must be positive, got 'fast'"),
    ("lr=true", "lr must be positive, got True"),
    ("lr_min=1", "lr_min must be at most lr, where the schedule starts, got lr_min=1.0"),
    ("lr_min=-1", "lr_min must be a number of at least 0, got -1"),
    ("momentum=1", "momentum must be a number from 0 to below 1, got 1"),
    ("nesterov=1", "nesterov must be true or false, got 1"),
    ("nesterov=maybe", "nesterov must be true or false, got 'maybe'"),
    ("weight_decay=-1", "weight_decay must be a number of at least 0, got -1"),
    ("label_smoothing=1", "label_smoothing must be a number from 0 to below 1, got 1"),
    ("precision=16", "precision must be one of 32-true, bf16-mixed, got 16"),
    ("weights_fraction=0", "weights_fraction must be a number above 0 and below 1, got 0"),
    ("weights_fraction=0.8", "weights_fraction and architecture_fraction must add up to at most 1"),
    ("cutout=-1", f"cutout {WHOLE} 0, got -1"),
    ("consistency_batches=0.5", f"consistency_batches {WHOLE} 0, got 0.5"),
    ("table=3", "table must be a text, or None for no table, got 3"),
    ("latency_table=nowhere.json", "There is no latency table at nowhere.json"),
    ("latency_table=3", "latency_table must be a text, or None for no table, got 3"),
    ("latency_weight=1", "latency_weight and latency_target need latency_table"),
    ("latency_target=2", "latency_weight and latency_target need latency_table"),
    ("latency_weight=-1", "latency_weight must be a number of at least 0, got -1"),
    ("latency_target=0", "latency_target must be positive, or None for the mean over the space, got 0"),
    # of the strategy
    ("warmup_epochs=5", "warmup_epochs=5 leaves none of the 5 epochs to the architecture"),
    ("warmup_epochs=-1", f"warmup_epochs {WHOLE} 0, got -1"),
    ("arch_learning_rate=0", "arch_learning_rate must be positive, got 0"),
    ("arch_betas=1", "arch_betas must be two numbers from 0 to below 1, such as (0.5, 0.999), got 1"),
    ("arch_betas=(0.5,)", "arch_betas must be two numbers"),
    ("arch_betas=(0.5,1)", "arch_betas must be two numbers"),
    ("arch_betas=(0.5,'x')", "arch_betas must be two numbers"),
    ("engine_cells=last", "engine_cells must be numbers of cells such as (0, 2)"),
    ("engine_cells=(0,1.5)", "engine_cells must be numbers of cells"),
    ("merge_edges=1", "merge_edges must be true or false, or None for as measured to be fastest, got 1"),
    ("cuda_graphs=1", "cuda_graphs must be true or false, got 1"),
    ("unrolled=perhaps", "unrolled must be true or false, got 'perhaps'"),
    ("gradient_clip_val=0", "gradient_clip_val must be positive, or None for no clipping, got 0"),
    ("arch_lr=0.1", "arch_lr must be a part such as Confident(power=2), got 0.1"),
    ("arch_lr=Confident", "arch_lr must be a part such as Confident(power=2), got 'Confident'"),
    ("arch_lr=Confident(2)", "Write the arguments of Confident with their names"),
    ("arch_lr=Confident(pow=2)", "There is no setting 'Confident.pow'; expected one of Confident.power"),
    ("arch_lr=Confident(power=0)", "Confident.power must be positive, got 0"),
    ("arch_lr=Confident(power='x')", "Confident.power must be positive, got 'x'"),
    ("arch_lr=Confident(power=1e999)", "Confident.power must be positive, got inf"),
    ("arch_lr=Constant(power=1)", "There is no setting 'Constant.power'; expected none"),
    ("arch_lr=Cosine()", "Unknown part 'Cosine'; expected one of Softmax"),
    ("arch_lr=PerEdge()", "arch_lr must be a part such as Confident(power=2), got PerEdge()"),
    ("arch_lr=Confident(power=open('x'))", "is not a part"),
    ("channels=PartialChannels(fraction=2.5)", f"PartialChannels.fraction {WHOLE} 2, got 2.5"),
    ("channels=PartialChannels(fraction=1)", f"PartialChannels.fraction {WHOLE} 2, got 1"),
    ("channels=AllChannels(fraction=2)", "AllChannels.fraction must be a whole number from 1 to 1, got 2"),
    ("channels=4", "channels must be a part such as PartialChannels(fraction=4), got 4"),
    ("relaxation=Softmax(tau=0)", "Softmax.tau must be positive, got 0"),
    ("relaxation=Softmax(tau_decay=1.5)", "Softmax.tau_decay must be a number above 0 and at most 1, got 1.5"),
    ("relaxation=SparseThreshold(normalize='cell')", "SparseThreshold.normalize must be one of edge, node, got 'cell'"),
    ("trains=BatchNormOnly(init='he')", "BatchNormOnly.init must be one of default, kaiming_normal"),
    ("trains=BatchNormOnly(train_classifier=1)", "BatchNormOnly.train_classifier must be true or false, got 1"),
    # of the retraining
    ("retrain.epochs=0", f"retrain.epochs {WHOLE} 1, got 0"),
    ("retrain.lr=-1", "retrain.lr must be positive, got -1"),
    ("retrain.lr_min=1", "retrain.lr_min must be at most lr"),
    ("retrain.drop_path=1", "retrain.drop_path must be a number from 0 to below 1, got 1"),
    ("retrain.gradient_clip_val=-1", "retrain.gradient_clip_val must be positive, or None for no clipping, got -1"),
    ("retrain.auxiliary_weight=-1", "retrain.auxiliary_weight must be a number of at least 0, got -1"),
    ("retrain.", "write --set NAME=VALUE"),
    ("retrain.=3", "has no setting 'retrain.'"),
    # of the space and of the network
    ("space.num_classes=1", f"space.num_classes {WHOLE} 2, got 1"),
    ("space.num_classes=abc", f"space.num_classes {WHOLE} 2, got 'abc'"),
    ("space.in_channels=0", f"space.in_channels {WHOLE} 1, got 0"),
    ("space.in_channels=abc", f"space.in_channels {WHOLE} 1, got 'abc'"),
    ("space.stem=moon", "space.stem must be one of cifar, imagenet, got 'moon'"),
    ("space.channels=abc", "space.channels must be an even number of at least 2, got 'abc'"),
    ("space.channels=0", "space.channels must be an even number of at least 2, got 0"),
    ("space.channels=5", "space.channels must be an even number of at least 2, got 5"),
    ("space.channels=4.0", "space.channels must be an even number of at least 2, got 4.0"),
    ("space.layers=abc", f"space.layers {WHOLE} 2, or None for what blocks and deep_cells say, got 'abc'"),
    ("space.layers=1", f"space.layers {WHOLE} 2"),
    ("space.blocks=1", f"space.blocks {WHOLE} 2, got 1"),
    ("space.deep_cells=-1", f"space.deep_cells {WHOLE} 0, got -1"),
    ("space.enhancement_cells=0", f"space.enhancement_cells {WHOLE} 1, got 0"),
    ("space.drop_path=1", "space.drop_path must be a number from 0 to below 1, got 1"),
    ("space.operations=none", "space.operations must be names of operations such as"),
    ("space.operations=('moon',)", "space.operations must be among none, max_pool_3x3"),
    ("space.operations=('none','none')", "space.operations must name every operation once"),
    ("space.operations=()", "space.operations must be names of operations"),
    ("space.depth=3", "There is no argument 'space.depth'; expected one of space.num_classes, space.in_channels"),
    ("net.num_classes=abc", f"net.num_classes {WHOLE} 2, got 'abc'"),
    ("net.in_channels=0", f"net.in_channels {WHOLE} 1, got 0"),
    ("net.channels=0", "net.channels must be an even number of at least 2, got 0"),
    ("net.channels=abc", "net.channels must be an even number of at least 2, got 'abc'"),
    ("net.drop_path=-0.1", "net.drop_path must be a number from 0 to below 1, got -0.1"),
    ("net.foo=1", "There is no argument 'net.foo'; expected one of net.num_classes"),
]


@pytest.mark.parametrize(("assignment", "sentence"), SETTINGS)
def test_a_setting(assignment: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["search", "--out", str(here / "r"), "--set", assignment], sentence, capsys)
    assert list(here.iterdir()) == []


DATA = [
    ("npz:nowhere.npz", "there is no file nowhere.npz"),
    ("npz:missing.npz", "has no y_test; it must hold"),
    ("npz:float.npz", "x_train must be uint8 images"),
    ("npz:labels.npz", "y_test has labels outside the classes 0 to 1"),
    ("npz:one_class.npz", "there must be at least 2 classes"),
    ("npz:oblong.npz", "images must be square"),
    ("npz:flat.npz", "must have the shape (N, H, W) for grey"),
    ("npz:tiny.npz", "images must be at least 8x8, but those of x_train are 1x1"),
    ("npz:short.npz", "every image needs its label"),
    ("npz:two_sizes.npz", "training and test images must be alike"),
    ("npz:text_labels.npz", "y_train must be integer labels"),
    ("npz:objects.npz", "is not an archive of plain arrays"),
    ("npz:cut.npz", "is not an archive of plain arrays"),
    ("npz:text.npz", "is not an archive of plain arrays"),
    ("imagefolder:nowhere", "needs the folders nowhere/train and nowhere/val"),
    ("imagefolder:pictures@abc", "needs the folders pictures@abc/train"),
    ("imagefolder:pictures@2", "images must be at least 8x8, got the size 2"),
    ("imagefolder:tiny_pictures", "images must be at least 8x8, got the size 1"),
    ("imagefolder:one_class_pictures", "needs the folders"),
    ("imagefolder:cut_pictures", "The picture cut_pictures/val/bee/1.png cannot be read"),
    ("own_module:data_raises", "fails: ZeroDivisionError: division by zero (own_module.py, line 9)"),
    ("own_module:data_wrong", "returned list; expected a function without arguments"),
    ("own_module:data_needs", "missing 1 required positional argument: 'folder'"),
    ("own_module:value", "is a int; expected a function without arguments"),
    ("own_module:nothing", "own_module has no 'nothing'"),
]


@pytest.mark.parametrize(("data", "sentence"), DATA)
def test_data(data: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["search", "--out", str(here / "r"), "--data", data, "--strategy", "darts"], sentence, capsys)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("space.num_classes=5", "space.num_classes must be 10, as the data has it, got 5; leave it out."),
        ("space.in_channels=3", "space.in_channels must be 1, as the data has it, got 3; leave it out."),
        ("space.layers=3", "layers=3 convolution cells cannot be shared evenly by 2 blocks; choose a multiple of 2."),
        ("batch_size=100000", "batch_size 100000 exceeds"),
        ("channels=PartialChannels(fraction=3)", "K=3 do not divide"),
        ("space.channels=2", "halves the resolution needs at least 2 channels, got 1; widen"),  # K=4 of twice 2
    ],
)
def test_settings_that_do_not_fit_the_data(
    assignment: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["search", "--out", str(here / "r"), "--set", assignment], sentence, capsys)
    assert not (here / "r").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_setting_that_does_not_fit_the_machine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "cuda_graphs needs a CUDA device, and PyTorch finds none here; leave cuda_graphs out."
    refused(["search", "--out", str(here / "r"), "--set", "cuda_graphs=true"], sentence, capsys)
    assert not (here / "r").exists()


PARAMETERS: list[tuple[dict[str, Any], str]] = [
    # NNI's parameters, as its search space in YAML gives them
    ({"strategy": "dart"}, "Unknown strategy 'dart'"),
    ({"strategy": 3}, "Unknown strategy 3"),
    ({"strategy": "os:system"}, "only the command line may name"),
    ({"space": "bcn"}, "Unknown search space 'bcn'"),
    ({"seed": 1.5}, "seed must be a whole number of at least 0, got 1.5"),
    ({"seed": True}, "seed must be a whole number of at least 0, got True"),
    ({"data": "npz:secret.npz"}, "they may choose among digits, cifar10"),
    ({"data": "os:system"}, "they may choose among digits, cifar10"),
    ({"table": "secret.npz"}, "NNI's parameters name a table"),
    ({"latency_table": "secret.json"}, "NNI's parameters name a latency table"),
    ({"epochs": "8"}, ""),
    ({"epochs": 8.5}, f"epochs {WHOLE} 1, got 8.5"),
    ({"epochs": None}, f"epochs {WHOLE} 1, got None"),
    ({"epochs": True}, f"epochs {WHOLE} 1, got True"),
    ({"choices": {"epochs": 3}}, "has no setting 'choices'"),
    ({"arch_lr": {"_name": "Confident"}}, "arch_lr must be a part such as Confident(power=2)"),
    ({"space.channels": "8 "}, ""),
    ({"space.channels": [8]}, "space.channels must be an even number of at least 2, got [8]"),
    ({"net.channels": -2}, "net.channels must be an even number of at least 2, got -2"),
    ({"retrain.lr": float("nan")}, "retrain.lr must be positive, got nan"),
]


@pytest.mark.parametrize(("parameters", "sentence"), PARAMETERS)
def test_parameters_of_a_trial(parameters: dict[str, Any], sentence: str) -> None:
    from nni_plugins.trial import settings_of

    arguments = argparse.Namespace(strategy="bnas_v2_pc", space="bcnn", data="digits", seed=0, set=[])
    if not sentence:
        settings_of(parameters, arguments)
        return
    with pytest.raises(ValueError, match=r"^\S") as caught:
        settings_of(parameters, arguments)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def _python() -> list[tuple[Callable[[], Any], str]]:
    import nni_plugins as n
    from search_spaces import BCNN, DARTSSpace, NASBench201, RobustDARTS, evaluation_net, published

    arguments: Any = {"channels": 2.5}
    schedule: Any = n.Confident
    return [
        (lambda: n.PartialChannels(**{"fraction": 2.5}), f"fraction {WHOLE} 2, got 2.5"),  # type: ignore[arg-type]
        (lambda: n.Confident(power=float("inf")), "power must be positive, got inf"),
        (lambda: n.Softmax(tau=True), "tau must be positive, got True"),
        (lambda: n.BNASv2CLR(arch_lr=schedule), "got the class Confident (write Confident(...))"),
        (lambda: n.BNASv2PC(warmup=3), "BNASv2PC has no setting 'warmup'; expected one of relaxation"),
        (lambda: n.RelativeNAS(population_size=3), "population_size"),
        (lambda: n.RelativeNASTuner(population_size=3), "population_size"),
        (lambda: n.RelativeNASTuner().generate_parameters(0), "no search space yet; call update_search_space"),
        (lambda: n.RelativeNASTuner().generate_multiple_parameters([0, 1]), "no search space yet"),
        (lambda: BCNN(**arguments), "channels must be an even number of at least 2, got 2.5"),
        (lambda: BCNN(1), f"num_classes {WHOLE} 2, got 1"),
        (lambda: BCNN(10, 3, "moon"), "stem must be one of cifar, imagenet, got 'moon'"),  # type: ignore[arg-type]
        (lambda: BCNN(width=3), "There is no argument 'width'; expected one of num_classes"),  # type: ignore[call-arg]
        (lambda: DARTSSpace(drop_path=1.0), "drop_path must be a number from 0 to below 1, got 1.0"),
        (lambda: DARTSSpace(layers=2), f"layers {WHOLE} 3, got 2"),
        (lambda: RobustDARTS("s9"), "Unknown RobustDARTS space 's9'"),
        (lambda: NASBench201(cells=0), f"cells {WHOLE} 1, got 0"),
        (lambda: evaluation_net(published("darts_v2"), "moon"), "Unknown data set 'moon'"),
        (lambda: evaluation_net(published("darts_v2"), channels=3), "channels must be an even number of at least 2"),
    ]


@pytest.mark.parametrize("row", range(19))
def test_python(row: int) -> None:
    make, sentence = _python()[row]
    with pytest.raises((ValueError, RuntimeError)) as caught:
        make()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_that_breaks_off_in_training_is_named(files: Path) -> None:
    import shutil

    from nni_plugins.data import load_data, retrain_loaders

    shutil.copytree(files / "pictures", files / "breaks_off")
    broken = files / "breaks_off/train/ant/2.png"
    broken.write_bytes(broken.read_bytes()[:150])
    data = load_data(f"imagefolder:{files / 'breaks_off'}@8")
    assert data.image_size == 8 and load_data(f"imagefolder:{files / 'pictures'}").image_size == 12
    train, _ = retrain_loaders(data, batch_size=6, seed=0, device="cpu")
    with pytest.raises(ValueError, match=r"^The picture .*ant/2\.png cannot be read \(.*\); replace or remove it\.$"):
        list(train)


LIGHT = [
    "--help", "search --help", "list strategies", "list spaces", "list published", "list data", "serch",
    "draw darts_v2 --out {out}/c.svg", "draw nothing", "score darts_v2 --table nowhere.npz", "describe nothing",
    "describe darts_v2 --dataset moon", "describe darts_v2 --set channels=8", "search --out {out}/r --strategy dart",
    "search --out {out}/r --space bcn", "search --out {out}/r --data digit", "search --out {out}/r --set epochs",
    "retrain nothing --out {out}/r", "space dart", "check {out}", "search --out {out}",
]  # fmt: skip


def test_help_lists_pictures_and_wrong_names_import_neither_torch_nor_nni(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom nni_plugins.cli import main\nfor words in sys.argv[1:]:\n"
        "    try: main(words.split())\n    except SystemExit: pass\n"
        "    assert not {'torch', 'nni'} & set(sys.modules), words\n"
    )
    words = [each.format(out=tmp_path) for each in LIGHT]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    for shown in ("bnas_v2_pc", "nasbench201", "pc_darts_cifar", "fashion_mnist", "retrain.label_smoothing"):
        assert shown in done.stdout.replace("\n", ""), shown


def test_lists(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("rf_pcdarts", "s4", "bnas_v2_pc_image", "svhn", "16x16x1"):
        assert name in shown
    assert main(["list", "settings"]) == 0
    shown = capsys.readouterr().out
    for name in ("architecture_fraction", "retrain.cutout", "arch_lr", "population_size", "enhancement_cells"):
        assert name in shown
    assert "an even number of at least 2" in shown and "nan" not in shown


def test_digits_are_described_at_their_true_size(capsys: pytest.CaptureFixture[str]) -> None:
    def described(*words: str) -> dict[str, Any]:
        assert main(["describe", *words, "--set", "space.channels=4" if "--strategy" in words else "net.channels=4",
                     "--json"]) == 0  # fmt: skip
        return json.loads(capsys.readouterr().out)

    digits, cifar = described("bnas_v2_pc_v1", "--dataset", "digits"), described("bnas_v2_pc_v1")
    assert (digits["image_size"], cifar["image_size"]) == (16, 32)
    assert 3.5 < cifar["multiply_adds"] / digits["multiply_adds"] < 4.5, "a quarter of the pixels"
    supernet = described("--strategy", "darts", "--space", "bcnn", "--dataset", "digits")
    assert supernet["image_size"] == 16


def test_a_home_folder_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["draw", "darts_v2", "--out", "~/cells.svg"]) == 0
    assert (tmp_path / "cells.svg").is_file()


def test_scores_are_printed_with_two_decimals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracies: dict[str, Any] = {
        f"test_{name}": np.array([94.36333465576172]) for name in ("cifar10", "cifar100", "imagenet16")
    }
    np.savez(tmp_path / "table.npz", op_names=np.array(["none"]), ops=np.zeros((1, 6), np.int64), **accuracies)
    cell = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    assert main(["score", cell, "--table", str(tmp_path / "table.npz")]) == 0
    shown = capsys.readouterr().out
    assert "cifar10 94.36," in shown and "94.363" not in shown
