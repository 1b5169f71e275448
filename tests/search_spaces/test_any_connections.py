"""Cells whose nodes keep any number of connections: NNI's mutables, the frozen network, and the genotype."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import nni
import onnxruntime
import pytest
import torch
from nni.mutable import Categorical, CategoricalMultiple, ExpressionConstraint, SampleValidationError
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import model_context
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import RegularizedEvolution
from numpy.random import RandomState
from torch import nn
from torchvision.ops import StochasticDepth

from search_spaces import AnyDARTSSpace, DARTSSpace, FreeCell, Genotype, evaluation_net, published
from search_spaces.free_cell import SomeOf
from search_spaces.genotype import Connection

SMALL: dict[str, Any] = dict(channels=4, layers=3)


def scale(node: int, slot: int, source: int | None, *, factor: float) -> nn.Module:
    """An operation that tells where it was built: it multiplies by factor, plus 100 times its node."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, factor + 100 * node)
    return layer


def tiny(**settings: Any) -> FreeCell:
    return FreeCell(
        {"double": partial(scale, factor=2), "triple": partial(scale, factor=3)}, 2, label="tiny", **settings
    )


# The mutable


def test_random_choices_are_never_empty() -> None:
    choice = SomeOf("abcdefgh", label="some")
    state = RandomState(0)
    drawn = [choice.random(random_state=state) for _ in range(400)]
    assert all(drawn)
    assert all(value in drawn[0] or any(value in other for other in drawn) for value in "abcdefgh")
    mean = sum(map(len, drawn)) / 400
    assert abs(mean - 2 / (1 - 0.75**8)) < 0.2  # two on average, were it not for those that are drawn anew
    assert choice.random({"some": ["h"]}) == ["h"]
    assert choice.default() == ["a"]


def test_every_choice_but_the_empty_one() -> None:
    choice = SomeOf("abc", label="some")
    expected = [list(subset) for size in (1, 2, 3) for subset in itertools.combinations("abc", size)]
    assert list(choice.grid()) == expected
    assert list(choice.grid({"some": ["b"]})) == [["b"]]
    for wrong in ([], ["d"], ["a", "a"]):
        with pytest.raises(SampleValidationError):
            choice.freeze({"some": wrong})


def test_as_yes_or_no_for_every_value() -> None:
    parts = SomeOf("abc", label="some").simplify(lambda mutable: not isinstance(mutable, CategoricalMultiple))
    assert [type(part) for part in parts.values()] == [Categorical] * 3 + [ExpressionConstraint]
    choice = SomeOf("abc", label="some")
    assert choice.freeze({"some/0": False, "some/1": True, "some/2": True}) == ["b", "c"]
    with pytest.raises(SampleValidationError):
        choice.freeze({"some/0": False, "some/1": False, "some/2": False})


# The cell


def test_a_frozen_cell_has_the_operations_of_its_sample() -> None:
    sample = {"tiny/node_1": ["double:0", "triple:0"], "tiny/node_2": ["triple:1"]}
    for cell in (tiny().freeze(sample), _within(sample)):
        x = torch.randn(2, 1, 3, 3)
        first = (102 + 103) * x
        torch.testing.assert_close(cell(x), torch.cat([first, 203 * first], 1))
        torch.testing.assert_close(cell([x]), cell(x))
        assert cell.label == "tiny"


def _within(sample: dict[str, list[str]]) -> FreeCell:
    with model_context(sample):
        return tiny()


def test_an_unfrozen_cell_runs_the_first_candidates() -> None:
    x = torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(tiny()(x), torch.cat([102 * x, 202 * x], 1))


def test_processors_and_several_inputs() -> None:
    cell = tiny(
        num_predecessors=2,
        preprocessor=lambda inputs: [x + 1 for x in inputs],
        postprocessor=lambda output, inputs: (output, inputs[0]),
        concat_dim=2,
    ).freeze({"tiny/node_2": ["double:1"], "tiny/node_3": ["double:0", "double:2"]})
    first, second = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    output, passed = cell([first, second])
    node = 202.0 * 2
    expected = torch.tensor([node, 302 * (1 + node)]).repeat_interleave(4).view(1, 1, 4, 2)
    torch.testing.assert_close(output, expected)
    assert passed is first


def test_none_is_no_candidate() -> None:
    with pytest.raises(ValueError, match=r"leaves a connection out by not choosing it; take 'none' out"):
        FreeCell({"none": partial(scale, factor=0)}, 1, label="cell")
    with pytest.raises(ValueError, match="take 'none' out"):
        AnyDARTSSpace(operations=("none", "skip_connect"))


# The space


def test_mutables() -> None:
    mutables = AnyDARTSSpace(**SMALL).simplify()
    assert list(mutables) == [f"{kind}/node_{node}" for kind in ("normal", "reduce") for node in (2, 3, 4, 5)]
    assert [len(mutable.values) for mutable in mutables.values()] == 2 * [14, 21, 28, 35]
    assert mutables["reduce/node_3"].values[7 * 2 + 3] == "sep_conv_3x3:2"


def test_holds_the_cells_of_darts() -> None:
    darts = published("darts_v2")
    free = Genotype("darts_any", darts.cells)
    expected = evaluation_net(darts, channels=4, layers=5).eval()
    net = evaluation_net(free, channels=4, layers=5).eval()
    net.load_state_dict(expected.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(net(images), expected(images))
    assert isinstance(expected, DARTSSpace)


def test_published_size() -> None:
    net = evaluation_net(Genotype("darts_any", published("darts_v2").cells))
    reference = evaluation_net(published("darts_v2"))
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in reference.parameters())


def test_drops_every_connection_on_its_own() -> None:
    node = (Connection("sep_conv_3x3", 0), Connection("dil_conv_3x3", 0), Connection("skip_connect", 1))
    genotype = Genotype("darts_any", dict.fromkeys(("normal", "reduce"), (node,) * 4))
    net = evaluation_net(genotype, channels=4, layers=4, drop_path=0.2)
    # on a reducing edge the skip is a convolution and may be dropped: three drop-paths a node, else two
    assert sum(isinstance(m, StochasticDepth) for m in net.modules()) == 2 * 4 * 2 + 2 * 4 * 3


def test_random_architectures_run_and_survive_as_genotypes() -> None:
    state = RandomState(3)
    for _ in range(3):
        sample: dict[str, Any] = {}
        net = AnyDARTSSpace(**SMALL).random(sample, state)
        assert net.train()(torch.randn(2, 3, 8, 8)).shape == (2, 10)
        genotype = Genotype.from_sample(sample, "darts_any")
        assert genotype.to_sample() == sample
        assert Genotype.from_json(genotype.to_json()) == genotype


def test_genotypes_are_checked() -> None:
    node = (Connection("skip_connect", 0),)
    for wrong, complaint in (
        ((), "needs at least one connection"),
        ((*node, *node), "names skip_connect from input 0 twice"),
        ((Connection("none", 0),), "Unknown operation 'none'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            Genotype("darts_any", dict.fromkeys(("normal", "reduce"), (node, node, wrong, node)))


def test_exports_to_onnx(tmp_path) -> None:
    sample: dict[str, Any] = {}
    net = AnyDARTSSpace(**SMALL).random(sample, RandomState(0)).eval()
    images = torch.randn(2, 3, 8, 8)
    torch.onnx.export(net, (images,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    (got,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), net(images).detach(), rtol=1e-3, atol=1e-4)


def test_evolution_of_nni_explores_it() -> None:
    seen: list[int] = []

    def count_connections(net: nn.Module) -> None:
        connections = sum(
            len(node) for cell in net.modules() if isinstance(cell, FreeCell) for node in cell.connections.values()
        )
        seen.append(connections)
        nni.report_final_result(float(-connections))

    space = RawFormatModelSpace.from_model(AnyDARTSSpace(**SMALL), FunctionalEvaluator(count_connections))
    strategy = RegularizedEvolution(population_size=8, sample_size=4, mutation_prob=0.2, seed=0)
    strategy(space, SequentialExecutionEngine(max_model_count=30))
    assert len(seen) == 30
    assert sum(seen[-8:]) < sum(seen[:8])  # it minimises the number of connections
    assert min(seen) >= 3 * 4
