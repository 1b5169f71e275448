"""Engine- and Transit-cells with shared features: what they compute, keep and differentiate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_plugins import (
    BilevelSearch,
    EnTranNAS,
    EnTranNASDST,
    FirstOrderDARTS,
    PartialChannels,
    PerSource,
    Softmax,
    SparseThreshold,
)
from nni_plugins.supernet.architecture import CellArchitecture
from nni_plugins.supernet.cell import MixedCell
from nni_plugins.supernet.relaxation import Derived
from search_spaces import BCNN, AnyDARTSSpace, DARTSSpace, NASBench201, RobustDARTS, published
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

SEVEN = DARTS_OPERATIONS_WITHOUT_NONE
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def supernet_of(strategy: BilevelSearch, space: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return strategy.mutate_model(space)


def small(strategy: BilevelSearch, **sizes: Any) -> Any:
    """Four cells, normal and reduction cells in turn as 0 and 3, and 1 and 2."""
    space: Any = AnyDARTSSpace if strategy.choices.relaxation.learns_topology else DARTSSpace
    return supernet_of(strategy, space(**{"channels": 4, "layers": 4, "operations": SEVEN, **sizes}))


def cells_of(supernet: nn.Module) -> list[MixedCell]:
    return [m for m in supernet.modules() if isinstance(m, MixedCell)]


def architectures_of(supernet: nn.Module) -> dict[str, CellArchitecture]:
    return {cell.label: cell.architecture for cell in cells_of(supernet)}


def architecture_parameters(supernet: nn.Module) -> list[nn.Parameter]:
    return [p for architecture in architectures_of(supernet).values() for p in architecture.parameters()]


def weight_parameters(supernet: nn.Module) -> list[nn.Parameter]:
    architecture = {id(p) for p in architecture_parameters(supernet)}
    return [p for p in supernet.parameters() if id(p) not in architecture]


@contextmanager
def counted_calls(cell: MixedCell) -> Iterator[Counter[str]]:
    """Forward calls of every operation of a cell."""
    calls: Counter[str] = Counter()
    operations: Any = cell.operations
    hooks = [
        (operation if operation.body_key is None else operation.body).register_forward_hook(
            lambda module, inputs, output, key=key: calls.update([key])
        )
        for key, operation in operations.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


# Exact sizes [EnTranNAS on the DARTS space, 8 cells, C = 16, 7 operations, 32x32]


@pytest.mark.parametrize(
    ("strategy", "parameters", "multiply_adds"),
    [
        (FirstOrderDARTS(), 1_930_618, 300_255_744),
        (EnTranNAS(engine_cells=None), 749_050, 119_941_632),
        (EnTranNAS(engine_cells=(0, 2)), 749_050, 57_649_664),
    ],
    ids=["darts", "all engine", "engine 0 and 2"],
)
def test_parameters_and_multiply_adds(strategy, parameters, multiply_adds) -> None:
    supernet = supernet_of(strategy, DARTSSpace(operations=SEVEN)).eval()
    for architecture in architectures_of(supernet).values():
        architecture.choose(published("darts_v2").to_sample())
    assert sum(p.numel() for p in weight_parameters(supernet)) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        supernet(torch.randn(1, 3, 32, 32))
    flops = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    assert (flops["aten.convolution"] + flops["aten.addmm"]) / 2 == multiply_adds  # aten.mm weighs and sums features


# Calls


@pytest.mark.parametrize("strategy", [EnTranNAS(), EnTranNASDST()], ids=["entrannas", "dst"])
def test_calls_of_operations(strategy) -> None:
    supernet = small(strategy)
    randomise(supernet)
    for cell in cells_of(supernet):
        assert len(cell.operations) == 5 * 7
        with counted_calls(cell) as calls:
            supernet(IMAGES)
        if cell.engine:
            assert calls == dict.fromkeys(cell.operations, 1)
        else:
            pairs = {connection for node in cell.architecture.derive().values() for connection in node}
            assert calls.total() == len(calls) == len(pairs)


def test_first_means_the_first_cell_of_every_kind() -> None:
    def engines(supernet: nn.Module) -> list[int]:
        return [number for number, cell in enumerate(cells_of(supernet)) if cell.engine]

    assert engines(supernet_of(EnTranNAS(), DARTSSpace(channels=4))) == [0, 2]
    assert engines(supernet_of(EnTranNAS(), BCNN(channels=4, deep_cells=1))) == [0, 4]
    assert engines(supernet_of(EnTranNAS(), NASBench201(channels=4))) == [0]
    assert engines(supernet_of(EnTranNAS(engine_cells=(1, 0)), DARTSSpace(channels=4, layers=3))) == [0, 1]
    assert engines(supernet_of(EnTranNAS(engine_cells=None), NASBench201(channels=4, cells=1))) == [0, 1, 2]


# Against the equation


def randomise(supernet: nn.Module, scale: float = 1.0) -> None:
    with torch.no_grad():
        for parameter in architecture_parameters(supernet):
            parameter.normal_(std=scale)


def reference(cell: MixedCell, weights: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``x_j = sum over i, k of weights[i, j, k] * o_k(x_i)`` edge by edge, modules as the cell has them."""
    graph = cell.architecture.graph
    nodes = list(cell.preprocessor([first, second]))
    for target in graph.targets:
        total = torch.zeros(())
        for source in range(target):
            for k, name in enumerate(graph.operations):
                operation: Any
                (operation,) = (
                    o for key, o in cell.operations.items() if key.startswith(f"{source}_") and key.endswith(name)
                )
                x = nodes[source].relu() if operation.rectified else nodes[source]
                x = operation.body(x)
                x = x if operation.norm is None else operation.norm(x)
                total = total + weights[graph.edges.index((source, target)), k] * x
        nodes.append(total)
    return torch.cat(nodes[graph.num_inputs :], 1)


@pytest.mark.parametrize("strategy", [EnTranNAS(), EnTranNASDST()], ids=["entrannas", "dst"])
@pytest.mark.parametrize("kind", ["normal", "reduce"])
@pytest.mark.parametrize("mixes", [True, False], ids=["engine", "transit"])
def test_cells_are_their_equation(strategy, kind, mixes) -> None:
    supernet = small(strategy).double()
    randomise(supernet)
    cell = next(cell for cell in cells_of(supernet) if cell.label == kind and cell.engine == mixes)
    inputs: list[torch.Tensor] = []
    with cell.register_forward_pre_hook(lambda module, args: inputs.extend(args[0])):
        supernet(IMAGES.double())
    graph = cell.architecture.graph
    if mixes:
        weights = cell.architecture.weights()[0]
    else:
        weights = torch.zeros(14, 7, dtype=torch.float64)
        for target, connections in cell.architecture.derive().items():
            for k, source in connections:
                weights[graph.edges.index((source, target)), k] = 1
    inputs = [x.detach() for x in inputs]
    parameters = [p for p in cell.parameters() if p.requires_grad]
    got, expected = cell(inputs), reference(cell, weights, *inputs)
    torch.testing.assert_close(got, expected)
    direction = torch.randn_like(got)
    for one, other in zip(
        torch.autograd.grad((got * direction).sum(), parameters, allow_unused=True),
        torch.autograd.grad((expected * direction).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        if one is None:  # left out, or an affine BatchNorm's; the reference multiplies it by zero
            assert other is None or not other.any()
        else:
            torch.testing.assert_close(one, other)


def test_mixture_and_derived_cell_are_equal_with_one_operation_per_edge() -> None:
    supernet = small(EnTranNASDST()).double()
    with torch.no_grad():
        for architecture in architectures_of(supernet).values():
            alpha = architecture.tables["alpha"]
            alpha.zero_()
            alpha[torch.arange(14), torch.randint(7, (14,))] = 8.0
            alpha[3], alpha[8] = 0.0, 0.0  # edges (1, 3) and (3, 4) die: p = 1/7 is weak where others have 0.99
    derived = architectures_of(supernet)["normal"].derive()
    assert [len(node) for node in derived.values()] == [2, 2, 3, 5]
    expected = supernet(IMAGES.double())
    for cell in cells_of(supernet):
        cell.derived_only = True
    torch.testing.assert_close(supernet(IMAGES.double()), expected)


# Gradients


def test_no_gradient_reaches_the_architecture_through_a_transit_cell() -> None:
    for strategy in (EnTranNAS(), EnTranNASDST()):
        supernet = small(strategy)
        randomise(supernet)
        transit = [cell for cell in cells_of(supernet) if not cell.engine]
        for cell in transit:
            inputs = [torch.randn(2, *shape, requires_grad=True) for shape in input_shapes(cell)]
            output = cell(inputs).sum()
            gradients = torch.autograd.grad(output, list(cell.architecture.parameters()), allow_unused=True)
            assert gradients == (None,) * len(gradients)
        gradients = torch.autograd.grad(supernet(IMAGES).square().sum(), architecture_parameters(supernet))
        assert all((gradient != 0).any() for gradient in gradients)


def input_shapes(cell: MixedCell) -> list[tuple[int, int, int]]:
    preprocessor: Any = cell.preprocessor
    convs = [next(m for m in part.modules() if isinstance(m, nn.Conv2d)) for part in preprocessor.children()]
    halves = convs[0].stride[0]
    return [(convs[0].in_channels, 8 * halves, 8 * halves), (convs[1].in_channels, 8, 8)]


# What is not derived costs nothing


def saved_bytes(supernet: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters aside, every storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in supernet.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = supernet(IMAGES)
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_underived_operations_keep_no_activations() -> None:
    torch.manual_seed(0)
    supernet = small(EnTranNAS())
    before = saved_bytes(supernet)
    for cell in cells_of(supernet):
        if not cell.engine:
            derived = {
                cell._key[source, target, k]
                for target, node in cell.architecture.derive().items()
                for k, source in node
            }
            for key in set(cell.operations) - derived:
                del cell.operations[key]
    assert saved_bytes(supernet) == before
    assert before < saved_bytes(small(EnTranNAS(engine_cells=None)))


# The derivation is up to date and cheap


def test_derivation_follows_every_change_and_is_worked_out_once() -> None:
    class Counting(Softmax):
        derivations = 0

        def derive(self, parameters, graph):
            type(self).derivations += 1
            return super().derive(parameters, graph)

    supernet = small(EnTranNAS(relaxation=Counting()), layers=8)
    for _ in range(3):
        supernet(IMAGES)
    assert Counting.derivations == 2  # one for each kind of cell, although there are six Transit-cells
    architecture = architectures_of(supernet)["normal"]
    alpha = architecture.tables["alpha"]

    def strongest(target: int) -> Derived:
        return architecture.connections()[target][0]

    with torch.no_grad():
        alpha[0, 3] = 5.0
    assert strongest(2) == Derived(3, 0)
    state = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    optimizer = torch.optim.Adam([alpha], lr=20.0)
    alpha.grad = torch.zeros_like(alpha)
    alpha.grad[1, 4] = -1
    optimizer.step()
    assert strongest(2) == Derived(4, 1)
    supernet.load_state_dict(state)
    assert strongest(2) == Derived(3, 0)
    alpha.data = torch.zeros_like(alpha)
    assert strongest(2) == Derived(0, 0)
    architecture.tables["alpha"] = nn.Parameter(torch.eye(14, 7))
    assert architecture.derive()[2] == [Derived(0, 0), Derived(1, 1)]
    supernet.double()
    assert architecture.derive()[2] == [Derived(0, 0), Derived(1, 1)]


def test_temperature_is_that_of_the_epoch_and_changes_what_is_derived() -> None:
    supernet = small(EnTranNASDST(relaxation=SparseThreshold(tau=2.0, tau_decay=0.5)))
    architecture = architectures_of(supernet)["normal"]
    with torch.no_grad():
        architecture.tables["alpha"][0, 0] = 1.0
    assert architecture.temperature == 2.0
    torch.testing.assert_close(
        architecture.probabilities()[0, 0], torch.tensor([0.5] + [0.0] * 6).softmax(0)[0], rtol=1e-2, atol=0
    )
    assert len(architecture.derive()[2]) == 14  # exp(-0.5) = 0.61 is above the threshold of 0.5
    architecture.set_epoch(2)
    assert architecture.temperature == 0.5
    assert architecture.derive()[2] == [Derived(0, 0)]  # exp(-2) = 0.14 and less
    copy = small(EnTranNASDST(relaxation=SparseThreshold(tau=2.0, tau_decay=0.5)))
    copy.load_state_dict(supernet.state_dict())
    assert architectures_of(copy)["normal"].derive() == architecture.derive()
    assert Softmax(tau=1, tau_decay=0.5).temperature(5000) == 1e-6


# Other spaces


@pytest.mark.parametrize(
    "space",
    [BCNN(channels=4), NASBench201(channels=4, cells=2), RobustDARTS("s1", channels=4, layers=4)],
    ids=["bcnn", "nasbench201", "s1"],
)
def test_works_on(space) -> None:
    supernet = supernet_of(EnTranNAS(), space)
    transit = [cell for cell in cells_of(supernet) if not cell.engine]
    assert transit
    for cell in transit:
        with counted_calls(cell) as calls:
            supernet(torch.randn(2, 3, 16, 16))
        assert 0 < calls.total() <= sum(len(node) for node in cell.architecture.derive().values())
    gradients = torch.autograd.grad(
        supernet(torch.randn(2, 3, 16, 16)).square().sum(), architecture_parameters(supernet)
    )
    assert all((gradient != 0).any() for gradient in gradients)


def test_a_node_without_any_operation_is_zero_on_nasbench201() -> None:
    supernet = supernet_of(EnTranNAS(), NASBench201(channels=4, cells=2))
    cell = cells_of(supernet)[1]
    with torch.no_grad():
        alpha = cell.architecture.tables["alpha"]
        alpha.zero_()
        alpha[:, 0] = 1.0
    assert cell.architecture.export() == {f"cell/{edge}": "none" for edge in ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")}
    x = torch.randn(2, 4, 8, 8)
    cell.derived_only = True
    assert (cell(x) == 0).all()
    with torch.no_grad():
        alpha[3, 1] = 2.0
    assert torch.equal(cell(x), x)


def test_a_transit_cell_passes_gradients_on_even_if_the_derived_cell_is_cut_in_two() -> None:
    """Every edge runs its second best operation for as long as with ``none`` nothing would reach the output."""
    supernet = supernet_of(EnTranNAS(), NASBench201(channels=4, cells=2))
    engine, transit, *_ = cells_of(supernet)
    skip = engine.architecture.graph.operations.index("skip_connect")
    with torch.no_grad():
        alpha = engine.architecture.tables["alpha"]
        alpha.zero_()
        alpha[:, 0] = 2.0
        alpha[:, skip] = 1.0
    assert set(engine.architecture.export().values()) == {"none"}
    assert transit.architecture.connected() == {
        target: [Derived(skip, source) for source in range(target)] for target in (1, 2, 3)
    }
    supernet(IMAGES).square().sum().backward()
    assert (alpha.grad != 0).any()
    with torch.no_grad():
        alpha[3, 0] = 0.0  # the edge from the input to the output: the derived cell hangs together again
    assert transit.architecture.connected() is transit.architecture.derive()
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(transit(x), x)


def test_partial_channels_bypass_the_edges_that_are_alive() -> None:
    supernet = small(EnTranNASDST(channels=PartialChannels(2))).double()
    with torch.no_grad():
        for architecture in architectures_of(supernet).values():
            architecture.tables["alpha"].zero_()
            architecture.tables["alpha"][[0, 2, 5, 9], [0, 3, 4, 2]] = 9.0
    expected = supernet(IMAGES.double())
    assert all(len(node) == 1 for node in architectures_of(supernet)["normal"].derive().values())
    for cell in cells_of(supernet):
        cell.derived_only = True
    torch.testing.assert_close(supernet(IMAGES.double()), expected)


def test_20_cells_at_the_evaluation_width() -> None:
    supernet = supernet_of(EnTranNAS(), DARTSSpace(channels=36, layers=20, operations=SEVEN))
    assert [number for number, cell in enumerate(cells_of(supernet)) if cell.engine] == [0, 6]
    optimizer = torch.optim.SGD(weight_parameters(supernet), 0.1, momentum=0.9)
    loss = supernet(IMAGES).square().sum()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    for number, cell in enumerate(cells_of(supernet)):
        idle = [
            key for key, operation in cell.operations.items() if all(p.grad is None for p in operation.parameters())
        ]
        assert (len(idle) >= 35 - 8) != cell.engine, number


def test_channels_last_is_kept_and_changes_nothing() -> None:
    supernet = small(FirstOrderDARTS(features=PerSource())).double()
    expected = supernet(IMAGES.double())
    supernet.to(memory_format=torch.channels_last)
    (cell, *_) = cells_of(supernet)
    outputs: list[torch.Tensor] = []
    cell.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    got = supernet(IMAGES.double().to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected)
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)
