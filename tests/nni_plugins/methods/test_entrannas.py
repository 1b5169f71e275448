"""EnTranNAS and EnTranNAS-DST in training: who changes when, combinations with other methods, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

import nni_plugins
from nni_plugins import (
    BNASD,
    RFDARTS,
    BilevelSearch,
    Confident,
    EnTranNAS,
    EnTranNASDST,
    PartialChannels,
    PerSource,
    Softmax,
    SparseThreshold,
)
from nni_plugins.supernet.cell import MixedCell
from search_spaces import BCNN, AnyDARTSSpace, DARTSSpace, FreeCell, Genotype, NASBench201, evaluation_net
from search_spaces.operations import make_operation
from tests.nni_plugins.methods.searching import (
    CLASSES,
    OwnSpace,
    Probe,
    cell,
    mutated,
    of_architecture,
    same_bits,
    search,
)

SMALL = dict(num_classes=CLASSES, in_channels=1, channels=4)
FOUR_CELLS = {**SMALL, "layers": 4}
"""Normal and reduction Engine-cells 0 and 1, a reduction and a normal Transit-cell."""


class ThreeCells(ModelSpace):
    """What a user may write: cells of one kind, one after the other."""

    def __init__(self, make_cell: Any = cell) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.cells = nn.ModuleList(make_cell() for _ in range(3))
        self.narrow = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        for inner, narrow in zip(self.cells, self.narrow, strict=True):
            x = narrow(inner([x]))
        return self.classifier(x.mean((2, 3)))


def free_cell() -> FreeCell:
    names = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")

    def make(node: int, slot: int, source: int | None, *, name: str, channels: int) -> nn.Module:
        return make_operation(name, channels, 1, search=True)

    return FreeCell({name: partial(make, name=name, channels=4) for name in names}, 2, label="free")


def cells_of(supernet: nn.Module) -> list[MixedCell]:
    return [m for m in supernet.modules() if isinstance(m, MixedCell)]


# Who trains when


@pytest.mark.parametrize("strategy", [EnTranNAS, EnTranNASDST])
def test_underived_operations_of_transit_cells_stay_bit_identical(strategy) -> None:
    settings: dict[str, Any] = {"arch_learning_rate": 0.5}
    if strategy is EnTranNASDST:
        settings["relaxation"] = SparseThreshold(tau=0.2)
    space = AnyDARTSSpace if strategy is EnTranNASDST else DARTSSpace
    method = strategy(**settings)
    supernet = mutated(method, space, **FOUR_CELLS)
    transit = [inner for inner in cells_of(supernet) if not inner.engine]
    with_momentum_but_idle = changed = 0

    def state(operation: nn.Module) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in operation.named_parameters()}

    before: list[dict[str, Any]] = []

    class Recorder(Probe):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            before[:] = [{key: state(operation) for key, operation in inner.operations.items()} for inner in transit]

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            nonlocal with_momentum_but_idle, changed
            (buffers,) = [o.state for o in self.trainer.optimizers if isinstance(o, torch.optim.SGD)]
            for inner, was in zip(transit, before, strict=True):
                derived = {
                    inner._key[source, target, k]
                    for target, node in inner.architecture.derive().items()
                    for k, source in node
                    if (source, target, k) in inner._key
                }
                for key, operation in inner.operations.items():
                    parameters = list(operation.parameters())
                    if key in derived:
                        changed += not same_bits(was[key], state(operation)) if parameters else 0
                    else:
                        assert same_bits(was[key], state(operation))
                        assert all(p.grad is None for p in parameters)
                        with_momentum_but_idle += bool(parameters) and "momentum_buffer" in buffers[parameters[0]]

    search(method, supernet, Recorder(weight_decay=0.1), steps=6, images=(1, 8, 8))
    assert changed > 0
    assert with_momentum_but_idle > 0


def test_the_derivation_of_the_weight_step_is_that_of_the_architecture_step_before_it() -> None:
    strategy = EnTranNAS(arch_learning_rate=0.5)
    supernet = mutated(strategy, DARTSSpace, **FOUR_CELLS)
    normal = cells_of(supernet)[3]
    ran: list[set[str]] = []

    def watch(module: Probe, number: int) -> None:
        ran.append(set())
        p = normal.architecture.tables["alpha"].detach().softmax(-1)
        expected = set()
        for target in range(2, 6):
            best = {source: p[sum(range(2, target)) + source, 1:].max(0) for source in range(target)}
            for source in sorted(best, key=lambda source: -best[source].values)[:2]:
                expected.add((source, int(best[source].indices) + 1))
        wanted.append({normal._key[source, max(2, source + 1), k] for source, k in expected})

    wanted: list[set[str]] = []
    operations: Any = normal.operations
    for key, operation in operations.items():
        watched = operation if operation.body_key is None else operation.body
        watched.register_forward_hook(lambda module, inputs, output, key=key: ran[-1].add(key))
    search(strategy, supernet, Probe(watch), steps=5, images=(1, 8, 8))
    assert ran == wanted
    assert any(ran[step] != ran[step + 1] for step in range(0, len(ran), 2))


def test_gradients_of_the_architecture_are_those_of_the_engine_cells() -> None:
    strategy = EnTranNAS()
    supernet = mutated(strategy, ThreeCells)
    engine, *transit = cells_of(supernet)
    assert engine.engine
    assert not any(inner.engine for inner in transit)
    supernet.double()
    images = torch.randn(4, 1, 6, 6, dtype=torch.float64)
    (alpha,) = of_architecture(supernet).values()
    unchanged = engine.architecture.derive()

    def loss(values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            alpha.copy_(values)
        assert engine.architecture.derive() == unchanged
        return supernet(images).square().sum().detach()

    start = alpha.detach().clone()
    (gradient,) = torch.autograd.grad(supernet(images).square().sum(), alpha)
    step = torch.zeros_like(start)
    step[1, 2] = 1e-5
    slope = (loss(start + step) - loss(start - step)) / 2e-5
    torch.testing.assert_close(slope, gradient[1, 2], rtol=1e-4, atol=1e-7)


# Combinations


@pytest.mark.parametrize(
    ("strategy", "space"),
    [
        (EnTranNAS(channels=PartialChannels(2)), DARTSSpace),
        (BNASD(features=PerSource()), BCNN),
        (EnTranNASDST(channels=PartialChannels(2), arch_lr=Confident()), AnyDARTSSpace),
        (EnTranNAS(relaxation=Softmax(tau=5.0, tau_decay=0.5)), BCNN),
        (EnTranNASDST(relaxation=SparseThreshold(normalize="node"), unrolled=True), AnyDARTSSpace),
        (RFDARTS(features=PerSource(), engine_cells="first"), DARTSSpace),
        (BilevelSearch(engine_cells=(0, 1), unrolled=True), DARTSSpace),
    ],
    ids=[
        "partial channels",
        "BNAS-D shared",
        "DST partial CLR",
        "temperature",
        "DST node unrolled",
        "RF",
        "DARTS engine",
    ],
)
def test_combinations(strategy, space) -> None:
    sizes = FOUR_CELLS if issubclass(space, DARTSSpace) else SMALL
    supernet = mutated(strategy, space, **sizes)
    before = {name: p.detach().clone() for name, p in of_architecture(supernet).items()}
    module = search(strategy, supernet, Probe(), steps=2, images=(1, 16, 16), max_epochs=2)
    for name, parameter in of_architecture(supernet).items():
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, before[name])
    name = {DARTSSpace: "darts", AnyDARTSSpace: "darts_any", BCNN: "bcnn"}[space]
    genotype = Genotype.from_sample(module.export(), name)
    net = evaluation_net(genotype, "digits", **{k: v for k, v in sizes.items() if k != "in_channels"}, in_channels=1)
    net.eval()
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, CLASSES)


def test_temperature_of_the_epochs_survives_in_the_supernet() -> None:
    strategy = EnTranNAS(relaxation=Softmax(tau=4.0, tau_decay=0.5))
    supernet = mutated(strategy, ThreeCells)
    seen: list[float] = []
    architecture = cells_of(supernet)[0].architecture
    search(strategy, supernet, Probe(lambda *_: seen.append(float(architecture.temperature))), steps=1, max_epochs=3)
    assert seen == [4.0, 4.0, 2.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("strategy", "space"),
    [
        (EnTranNAS(), partial(NASBench201, num_classes=CLASSES, in_channels=1, channels=4, cells=2)),
        (EnTranNAS(), ThreeCells),
        (EnTranNAS(), OwnSpace),
        (EnTranNASDST(), partial(ThreeCells, free_cell)),
    ],
    ids=["nasbench201", "own cells", "own cells and choices", "own free cells"],
)
def test_other_spaces(strategy, space) -> None:
    supernet = mutated(strategy, space)
    before = {name: p.detach().clone() for name, p in of_architecture(supernet).items()}
    sample = search(strategy, supernet, Probe(), steps=2).export()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in of_architecture(supernet).items())
    frozen = space().freeze(sample)
    assert frozen(torch.randn(2, 1, 6, 6)).shape == (2, CLASSES)


def test_the_final_topology_is_what_the_last_parameters_derive() -> None:
    strategy = EnTranNASDST(arch_learning_rate=0.3)
    supernet = mutated(strategy, AnyDARTSSpace, **FOUR_CELLS)
    sample = search(strategy, supernet, Probe(), steps=5, images=(1, 8, 8)).export()
    for inner in cells_of(supernet):
        weights = inner.architecture.weights()[0]
        edges, names = inner.architecture.graph.edges, inner.architecture.graph.operations
        alive = {
            (target, f"{names[k]}:{source}")
            for (source, target), row in zip(edges, weights, strict=True)
            for k in range(7)
            if row[k] > 0
        }
        assert {(t, value) for t in range(2, 6) for value in sample[f"{inner.label}/node_{t}"]} == alive
        assert len(alive) < 98


# Wrong input


class Layers(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3), nn.ReLU())], label="layer")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    ("strategy", "space", "complaint"),
    [
        (EnTranNAS(engine_cells=(0, 8)), DARTSSpace, "There is no cell 8 .* has cells 0 to 7: 6 normal, 2 reduce"),
        (EnTranNAS(engine_cells=(-1, 2)), DARTSSpace, "There is no cell -1"),
        (EnTranNAS(engine_cells=(0, 1)), DARTSSpace, r"None of the Engine-cells \(0, 1\) is a reduce cell.*such as 2"),
        (EnTranNAS(engine_cells=()), BCNN, "None of the Engine-cells .* is a convolution cell"),
        (EnTranNAS(), Layers, "the space has no cells; leave it out"),
        (EnTranNASDST(), DARTSSpace, r"every node of cells\.0 keeps 2; use a space of FreeCells, such as darts_any"),
        (EnTranNASDST(), BCNN, "every node of convolution_cells.0 keeps 2"),
        (EnTranNASDST(), NASBench201, r"every node of cells\.0 keeps one from every input"),
        (EnTranNASDST(engine_cells=None), Layers, "SparseThreshold works inside Cells"),
        (EnTranNAS(), AnyDARTSSpace, "Softmax does not say how many connections a node keeps"),
    ],
)
def test_refuses_before_anything_is_changed(strategy, space, complaint) -> None:
    model = space()
    with pytest.raises(ValueError, match=complaint):
        strategy.mutate_model(model)
    assert not cells_of(model)
    assert model.simplify()


@pytest.mark.parametrize("cells", [0, "last", (0, 1.0), (True,), {0}])
def test_refuses_engine_cells_that_are_no_numbers(cells) -> None:
    with pytest.raises(ValueError, match=r"engine_cells must be numbers of cells such as \(0, 2\), first or None"):
        EnTranNAS(engine_cells=cells)


def test_presets() -> None:
    choices = EnTranNAS(engine_cells=[0, 2]).choices
    assert choices.engine_cells == (0, 2)
    assert (choices.features, choices.relaxation, choices.arch_learning_rate) == (PerSource(), Softmax(), 6e-4)
    assert EnTranNAS().choices.engine_cells == "first"
    assert EnTranNASDST().choices == EnTranNAS(relaxation=SparseThreshold()).choices
    assert {"EnTranNAS", "EnTranNASDST", "SparseThreshold", "PerEdge", "PerSource"} <= set(nni_plugins.__all__)
