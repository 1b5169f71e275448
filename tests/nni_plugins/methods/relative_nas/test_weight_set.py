"""What candidates give back to the weight set: the truth table, on a real supernet."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from nni_plugins import RelativeNAS
from nni_plugins.methods.relative_nas.weight_set import WeightSet
from tests.nni_plugins.methods.searching import OneCell, OwnSpace, mutated

FAST = {"cell/op_1_0": "sep_conv_3x3", "cell/input_1_0": [0], "cell/op_2_0": "sep_conv_3x3", "cell/input_2_0": [1]}
SLOW = {"cell/op_1_0": "max_pool_3x3", "cell/input_1_0": [0], "cell/op_2_0": "sep_conv_3x3", "cell/input_2_0": [1]}
ONLY_FAST, ONLY_SLOW = "cell.operations.0_1_sep_conv_3x3.", "cell.operations.0_1_max_pool_3x3."
BOTH = "cell.operations.1_2_sep_conv_3x3."
NEITHER = ("cell.operations.0_2_", "cell.operations.1_2_max_pool_3x3.")
TRUNK = ("stem.", "classifier.")


def filled(weights: Mapping[str, torch.Tensor], value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in weights.items()}


def test_write_back_truth_table() -> None:
    supernet = mutated(RelativeNAS(), OneCell)
    weight_set = WeightSet(supernet)
    before = filled(weight_set.snapshot(), 0)
    weight_set.choose(SLOW)
    slow = filled(weight_set.operations(), 1)
    weight_set.choose(FAST)
    fast, trunk = filled(weight_set.operations(), 2), filled(weight_set.trunk(), 2)
    weight_set.load(before, slow, fast, trunk)
    seen = set()
    for name, tensor in supernet.state_dict().items():
        expected = {ONLY_FAST: 2, BOTH: 2, ONLY_SLOW: 1, **dict.fromkeys(TRUNK, 2), **dict.fromkeys(NEITHER, 0)}
        (prefix,) = [each for each in (*expected, "cell.architecture") if name.startswith(each)]
        seen.add(prefix)
        if prefix in expected:
            assert (tensor == expected[prefix]).all(), name
    assert seen >= {ONLY_FAST, ONLY_SLOW, BOTH, *NEITHER, *TRUNK}


def test_batch_norm_statistics_are_weights() -> None:
    weight_set = WeightSet(mutated(RelativeNAS(), OneCell))
    weight_set.choose(FAST)
    assert any(name.endswith("running_mean") for name in weight_set.operations())
    assert "stem.1.running_var" in weight_set.trunk()


def test_snapshots_do_not_change_with_the_supernet() -> None:
    supernet = mutated(RelativeNAS(), OneCell)
    weight_set = WeightSet(supernet)
    snapshot = weight_set.snapshot()
    copies = {name: tensor.clone() for name, tensor in snapshot.items()}
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(1)
    assert all(torch.equal(snapshot[name], copies[name]) for name in copies)
    weight_set.load(snapshot)
    assert all(torch.equal(tensor, copies[name]) for name, tensor in supernet.state_dict().items())


def test_layers_to_choose_are_operations_and_every_entry_belongs_to_one_side() -> None:
    supernet = mutated(RelativeNAS(), OwnSpace)
    weight_set = WeightSet(supernet)
    sample = {
        "stem": 1, "head": "flat", "input": [1], "z/op_1_0": "none", "z/input_1_0": [0], "z/op_2_0": "skip_connect",
        "z/input_2_0": [0], "a/op_1_0": "none", "a/input_1_0": [0], "a/op_2_0": "none", "a/input_2_0": [0],
    }  # fmt: skip
    weight_set.choose(sample)
    running = weight_set.operations()
    assert {name.split(".")[0] for name in running} == {"stem", "head"}
    assert all(name.startswith(("stem.candidates.1.", "head.candidates.1.")) for name in running)
    assert not set(running) & set(weight_set.trunk())


def test_a_sample_of_another_space_is_refused() -> None:
    weight_set = WeightSet(mutated(RelativeNAS(), OneCell))
    with pytest.raises(ValueError, match="does not describe the cell cell"):
        weight_set.choose({"cell/op_1_0": "sep_conv_3x3"})
