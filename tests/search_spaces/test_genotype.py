"""The genotype: validated when made, unchangeable, readable on disk, and the same in NNI's sample."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.mutable import label_scope
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, model_context
from numpy.random import RandomState
from torch import nn

from search_spaces import BCNN, Connection, Genotype, NASBench201, published, published_names, space_names

SKIP = [("skip_connect", 0), ("skip_connect", 1)]
TWICE_THE_SAME_INPUT: Any = [[("none", 0)], [("none", 0), ("none", 0)], [("none", 0)]]
CELL: Any = [SKIP, SKIP, SKIP, [("sep_conv_3x3", 4), ("max_pool_3x3", 0)]]

GOLDEN = """\
{
  "format": 1,
  "space": "bcnn",
  "inputs": 2,
  "cells": {
    "convolution": {
      "2": [["sep_conv_3x3", 1], ["sep_conv_3x3", 0]],
      "3": [["sep_conv_3x3", 1], ["avg_pool_3x3", 2]],
      "4": [["sep_conv_5x5", 1], ["sep_conv_3x3", 3]],
      "5": [["sep_conv_3x3", 1], ["dil_conv_3x3", 2]]
    },
    "enhancement": {
      "2": [["avg_pool_3x3", 0], ["dil_conv_3x3", 1]],
      "3": [["avg_pool_3x3", 0], ["avg_pool_3x3", 2]],
      "4": [["avg_pool_3x3", 2], ["avg_pool_3x3", 3]],
      "5": [["avg_pool_3x3", 2], ["max_pool_3x3", 1]]
    }
  }
}
"""


def bcnn(convolution: Any = CELL, enhancement: Any = CELL, **changes: Any) -> Genotype:
    return Genotype(**{"space": "bcnn", "cells": {"convolution": convolution, "enhancement": enhancement}, **changes})


def own_space() -> Genotype:
    cells: Any = {"stage/cell": [[("conv", 0)], [("pool", 1)]]}
    choices = {"activation": "relu", "inputs": [0, 2], "depth": 3}
    return Genotype("my_package.spaces:small", cells, choices, num_inputs=1)


def assert_one_sentence(error: pytest.ExceptionInfo[Exception]) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not re.search(r"\. [A-Z]", message), message


# Values


def test_fields_cannot_be_set() -> None:
    genotype: Any = bcnn()
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.space = "darts"
    with pytest.raises(TypeError):
        genotype.cells["convolution"] = ()
    with pytest.raises(TypeError):
        genotype.choices["depth"] = 3
    with pytest.raises(TypeError):
        genotype.cells["convolution"][0][0] = Connection("none", 0)


def test_it_keeps_no_hold_on_what_it_was_made_from() -> None:
    cells: Any = {"convolution": [list(node) for node in CELL], "enhancement": [list(node) for node in CELL]}
    choices: Any = {"inputs": [0, 1]}
    genotype = Genotype("bcnn", cells, choices)
    before = genotype.to_json()
    cells["convolution"][0][0] = ("none", 1)
    del cells["enhancement"]
    choices["inputs"].append(2)
    genotype.to_sample()["inputs"].append(3)
    assert genotype.to_json() == before


def test_connections_have_names() -> None:
    connection = bcnn().cells["convolution"][3][0]
    assert connection == Connection(operation="sep_conv_3x3", input=4)
    assert (connection.operation, connection.input) == ("sep_conv_3x3", 4)


def test_equal_when_the_architecture_is() -> None:
    genotype = bcnn()
    same = Genotype("bcnn", {"enhancement": tuple(map(tuple, CELL)), "convolution": CELL})
    assert genotype == same
    assert hash(genotype) == hash(same)
    assert len({genotype, same}) == 1
    swapped = [SKIP[::-1], *CELL[1:]]
    darts = Genotype("darts", {"normal": CELL, "reduce": CELL})
    others = [bcnn(convolution=swapped), bcnn(choices={"depth": 1}), darts]
    for other in others:
        assert genotype != other
        assert hash(genotype) != hash(other)


@pytest.mark.parametrize("genotype", [bcnn(), own_space()], ids=lambda g: g.space)
def test_pickle(genotype: Genotype) -> None:
    copy = pickle.loads(pickle.dumps(genotype))
    assert copy == genotype
    assert copy.num_inputs == genotype.num_inputs
    assert copy.choices == genotype.choices


# What is not an architecture


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: bcnn([[("conv_9x9", 0), SKIP[1]], *CELL[1:]]),
         "Unknown operation 'conv_9x9' in the convolution cell of the bcnn space (edge 0 to 2); expected one of none, "
         "max_pool_3x3, avg_pool_3x3, skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5."),
        (lambda: bcnn(enhancement=[[("skip_connect", 2), SKIP[1]], *CELL[1:]]),
         "Node 2 of the enhancement cell takes skip_connect from input 2; expected a node index from 0 to 1."),
        (lambda: bcnn([*CELL[:3], [("skip_connect", -1), SKIP[1]]]),
         "Node 5 of the convolution cell takes skip_connect from input -1; expected a node index from 0 to 4."),
        (lambda: bcnn([[("skip_connect", "0"), SKIP[1]], *CELL[1:]]),
         "Node 2 of the convolution cell takes skip_connect from input '0'; expected a node index from 0 to 1."),
        (lambda: bcnn([[("skip_connect", True), SKIP[0]], *CELL[1:]]),
         "Node 2 of the convolution cell takes skip_connect from input True; expected a node index from 0 to 1."),
        (lambda: bcnn(CELL[:3]),
         "The convolution cell of the bcnn space has 4 intermediate nodes; this one has 3."),
        (lambda: bcnn([*CELL[:2], SKIP[:1], CELL[3]]),
         "Node 4 of the convolution cell of the bcnn space has 2 connections; this one has 1."),
        (lambda: Genotype("bcnn", {"normal": CELL, "reduce": CELL}),
         "A genotype of the bcnn space has the cells convolution, enhancement; this one has normal, reduce."),
        (lambda: Genotype("bcnn", {}),
         "A genotype of the bcnn space has the cells convolution, enhancement; this one has none."),
        (lambda: bcnn(num_inputs=3),
         "A cell of the bcnn space has 2 inputs; this one has 3."),
        (lambda: Genotype("mobilenet", {}),
         f"Unknown search space 'mobilenet'; expected one of {', '.join(space_names())}, or "
         "module:function for your own."),
        (lambda: Genotype("nasbench201", {"cell": TWICE_THE_SAME_INPUT}, num_inputs=1),
         "Node 2 of the cell cell of the nasbench201 space has one connection from each earlier node; this one has "
         "[0, 0]."),
    ],
)  # fmt: skip
def test_wrong_architectures_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(sentence) + "$"):
        make()


# On disk


def test_golden_file(tmp_path: Path) -> None:
    genotype = published("bnas_v2_clr_v1")
    path = genotype.save(tmp_path / "genotype.json")
    assert path.read_text() == GOLDEN
    assert Genotype.load(path) == genotype


@pytest.mark.parametrize("name", published_names())
def test_round_trip(name: str, tmp_path: Path) -> None:
    genotype = published(name)
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert Genotype.load(str(genotype.save(str(tmp_path / "new" / "folder" / "genotype.json")))) == genotype


def test_round_trip_of_a_space_of_ones_own() -> None:
    genotype = own_space()
    copy = Genotype.from_json(genotype.to_json())
    assert copy == genotype
    assert (copy.num_inputs, dict(copy.choices)) == (1, {"activation": "relu", "inputs": [0, 2], "depth": 3})
    without_cells = Genotype("my_package.spaces:small", {}, {"depth": 3})
    assert Genotype.from_json(without_cells.to_json()) == without_cells


def test_a_saved_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text("an older file")
    bcnn().save(path)
    assert Genotype.load(path) == bcnn()
    assert os.listdir(tmp_path) == ["genotype.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bcnn().save(tmp_path / "genotype.json")
    other = published("bnas_v2_pc_v1")

    def disk_full(*args: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", disk_full)
        with pytest.raises(OSError, match="no space left"):
            other.save(path)
    assert Genotype.load(path) == bcnn()
    assert os.listdir(tmp_path) == ["genotype.json"]


def edited(**changes: Any) -> str:
    content = json.loads(GOLDEN)
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    return json.dumps(content)


def with_node(node: Any) -> str:
    content = json.loads(GOLDEN)
    content["cells"]["convolution"]["3"] = node
    return json.dumps(content)


NOT_A_GENOTYPE = "is not a genotype file: expected JSON with the keys format, space, inputs and cells."
NOT_VALID = "is not a valid genotype: expected every cell to list its nodes"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Genotype(normal=[])", NOT_A_GENOTYPE),
        ("", NOT_A_GENOTYPE),
        (GOLDEN[:-20], NOT_A_GENOTYPE),
        ("[1, 2]", NOT_A_GENOTYPE),
        ('"text"', NOT_A_GENOTYPE),
        ("null", NOT_A_GENOTYPE),
        (edited(format=None), NOT_A_GENOTYPE),
        (edited(format=2), "has format version 2, this program reads version 1; update nni-plugins to read it."),
        (edited(format="2.0"), "has format version '2.0', this program reads version 1"),
        (edited(space=None), NOT_VALID),
        (edited(space=5), NOT_VALID),
        (edited(inputs=None), NOT_VALID),
        (edited(inputs="2"), NOT_VALID),
        (edited(cells=None), NOT_VALID),
        (edited(cells=[]), NOT_VALID),
        (edited(cells={"convolution": {"3": []}}), NOT_VALID),
        (edited(space="mobilenet"), "Unknown search space 'mobilenet'"),
        (edited(cells={}), "has the cells convolution, enhancement; this one has none."),
        (edited(inputs=1), NOT_VALID),
        (with_node([["conv_9x9", 0], ["skip_connect", 1]]), "Unknown operation 'conv_9x9'"),
        (with_node([["skip_connect", 3], ["skip_connect", 1]]),
         "takes skip_connect from input 3; expected a node index from 0 to 2."),
        (with_node([["skip_connect", 0.5], ["skip_connect", 1]]),
         "takes skip_connect from input 0.5; expected a node index from 0 to 2."),
        (with_node([["skip_connect", 0]]), "has 2 connections; this one has 1."),
        (with_node([["skip_connect"], ["skip_connect", 1]]), NOT_VALID),
        (with_node("skip_connect"), NOT_VALID),
        (with_node(None), NOT_VALID),
    ],
)  # fmt: skip
def test_wrong_files_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{re.escape(expected)}") as error:
        Genotype.load(path)
    assert_one_sentence(error)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=re.escape(f"{path} {NOT_A_GENOTYPE}")):
        Genotype.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    for missing in (path, tmp_path):
        sentence = re.escape(f"There is no genotype file at {missing}; give the path")
        with pytest.raises(FileNotFoundError, match=sentence):
            Genotype.load(missing)


# NNI's sample


def random_sample(space: ModelSpace, seed: int) -> dict[str, Any]:
    """Draw every label of the space as NNI's random strategy does."""
    random = RandomState(seed)
    return {label: mutable.random(random_state=random) for label, mutable in space.simplify().items()}


@pytest.fixture(scope="module")
def broad_space() -> ModelSpace:
    return BCNN(channels=4)


def test_the_sample_names_exactly_the_labels_of_the_space(broad_space: ModelSpace) -> None:
    sample = published("bnas_v2_clr_v1").to_sample()
    assert set(sample) == set(broad_space.simplify())
    assert sample["convolution/op_2_0"] == "sep_conv_3x3"
    assert sample["convolution/input_2_0"] == [1]
    assert sample["enhancement/op_5_1"] == "max_pool_3x3"
    assert sample["enhancement/input_5_1"] == [1]
    assert broad_space.check_contains(sample) is None


@pytest.mark.parametrize("seed", range(5))
def test_random_samples_of_the_broad_space(broad_space: ModelSpace, seed: int) -> None:
    sample = random_sample(broad_space, seed)
    genotype = Genotype.from_sample(sample, "bcnn")
    assert genotype.to_sample() == sample
    assert Genotype.from_json(genotype.to_json()).to_sample() == sample


@pytest.mark.parametrize("name", published_names())
def test_published_cells_by_way_of_nni(name: str) -> None:
    genotype = published(name)
    assert Genotype.from_sample(genotype.to_sample(), genotype.space) == genotype


@pytest.mark.parametrize("seed", range(3))
def test_nasbench201(seed: int) -> None:
    space = NASBench201(channels=4, cells=1)
    sample = random_sample(space, seed)
    assert len(sample) == 6
    genotype = Genotype.from_sample(sample, "nasbench201")
    assert genotype.num_inputs == 1
    assert [len(node) for node in genotype.cells["cell"]] == [1, 2, 3]
    assert genotype.cells["cell"][2][1] == Connection(sample["cell/1_3"], 1)
    assert genotype.to_sample() == sample


class OwnSpace(ModelSpace):
    """A cell with one input, and choices outside of it."""

    def __init__(self) -> None:
        super().__init__()
        candidates = {"conv": nn.Conv2d(4, 4, 3, padding=1), "pool": nn.MaxPool2d(3, 1, 1)}
        with label_scope("stage"):
            self.cell = Cell(candidates, num_nodes=3, num_ops_per_node=2, num_predecessors=1, label="cell")
        self.activation = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="activation")
        self.inputs = InputChoice(3, 2, label="inputs")
        self.width = nni.choice("width", [16, 32])
        self.add_mutable(self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.cell([x]))
        return self.inputs([y, y, y])

    def freeze(self, sample: dict[str, Any]) -> OwnSpace:
        with model_context(sample):
            return OwnSpace()


@pytest.mark.parametrize("seed", range(3))
def test_a_space_of_ones_own(seed: int) -> None:
    space = OwnSpace()
    sample = random_sample(space, seed)
    genotype = Genotype.from_sample(sample, "my_package.spaces:OwnSpace")
    assert genotype.num_inputs == 1
    assert list(genotype.cells) == ["stage/cell"]
    assert set(genotype.choices) == {"activation", "inputs", "width"}
    assert genotype.to_sample() == sample
    again = Genotype.from_json(genotype.to_json())
    assert again == genotype
    space.freeze(again.to_sample())  # NNI accepts it


def test_inputs_as_plain_numbers_are_understood() -> None:
    sample = published("bnas_v2_clr_v1").to_sample()
    plain = {label: value[0] if "input" in label else value for label, value in sample.items()}
    assert Genotype.from_sample(plain, "bcnn") == published("bnas_v2_clr_v1")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"convolution/op_3_1": None},
         "Node 3 of the convolution cell needs both an operation and an input per slot."),
        ({"convolution/input_3_1": None},
         "Node 3 of the convolution cell needs both an operation and an input per slot."),
        ({"convolution/input_3_1": [3]},
         "Node 3 of the convolution cell takes avg_pool_3x3 from input 3; expected a node index from 0 to 2."),
        ({"convolution/op_3_1": "conv_9x9"}, "Unknown operation 'conv_9x9' in the convolution cell"),
        ({f"enhancement/{part}_4_{slot}": None for part in ("op", "input") for slot in (0, 1)},
         "The enhancement cell of the sample lacks node 4"),
        ({f"{kind}/{part}_2_{slot}": None for kind in ("convolution", "enhancement") for part in ("op", "input")
          for slot in (0, 1)},
         "A cell of the bcnn space has 2 inputs; this one has 3."),
    ],
)  # fmt: skip
def test_incomplete_samples_are_refused(changes: dict[str, Any], sentence: str) -> None:
    sample = published("bnas_v2_clr_v1").to_sample() | changes
    sample = {label: value for label, value in sample.items() if value is not None}
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}") as error:
        Genotype.from_sample(sample, "bcnn")
    assert_one_sentence(error)


def test_cells_with_different_numbers_of_inputs_are_refused() -> None:
    sample = {"a/op_1_0": "conv", "a/input_1_0": [0], "b/op_2_0": "conv", "b/input_2_0": [1]}
    with pytest.raises(ValueError, match=r"the same number of inputs.* a .*1.* b .*2") as error:
        Genotype.from_sample(sample, "my_package.spaces:small")
    assert_one_sentence(error)
