"""A search whose steps are replayed ends where one does whose steps run; captured on the CPU, not as CUDA graphs."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_plugins import BatchNormOnly, BilevelSearch, Confident, EdgeNormalisation, PartialChannels, PerSource
from nni_plugins.methods.bilevel import strategy as strategy_module
from nni_plugins.methods.bilevel.graphed_step import GraphedBilevelModule, refuse_other_trainer
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.methods.latency import LatencyPenalty
from nni_plugins.supernet.cell import MixedCell
from search_spaces import DARTSSpace
from tests.nni_plugins.methods import conformance
from tests.nni_plugins.methods.bilevel.cpu_graphs import CPUGraphs
from tests.nni_plugins.methods.conformance import Case
from tests.nni_plugins.methods.searching import QUIET, OneCell, OwnSpace, Probe, mutated, of_architecture, search

own_adam = BilevelModule.configure_architecture_optimizers


def capturable(module: BilevelModule) -> torch.optim.Optimizer:
    optimizer = own_adam(module)
    optimizer.param_groups[0]["capturable"] = True
    return optimizer


@pytest.fixture
def graphs_made(monkeypatch: pytest.MonkeyPatch) -> list[CPUGraphs]:
    """Let steps be captured on the CPU; every search adds what it has captured with."""
    made: list[CPUGraphs] = []
    alphas: list[nn.Parameter] = []

    def make() -> CPUGraphs:
        made.append(CPUGraphs(lambda: alphas))
        return made[-1]

    class OnCPU(GraphedBilevelModule):
        make_graphs = staticmethod(make)

        def on_fit_start(self) -> None:
            alphas[:] = self.arch_parameters()
            super().on_fit_start()

    monkeypatch.setattr(strategy_module, "GraphedBilevelModule", OnCPU)
    monkeypatch.setattr(strategy_module, "refuse_missing_cuda", lambda: None)
    monkeypatch.setattr(strategy_module, "refuse_other_trainer", lambda evaluator: None)
    # both have the Adam that counts its steps on the device, and rounds differently; all else is equal to the last bit
    monkeypatch.setattr(BilevelModule, "configure_architecture_optimizers", capturable)
    adam = sys.modules[torch.optim.Adam.__module__]  # which does as it does on a GPU
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda *_: ["cpu"])
    return made


class Scheduled(Probe):
    """A :class:`Probe` whose learning rate falls by the epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)]


PARTIAL = {"relaxation": EdgeNormalisation(), "channels": PartialChannels(2)}
CASES: dict[str, tuple[type[ModelSpace], dict[str, Any]]] = {
    "cell": (OneCell, {}),
    "choices": (OwnSpace, {}),
    "partial channels, warm-up": (OneCell, {**PARTIAL, "warmup_epochs": 1}),
    "confident": (OneCell, {"arch_lr": Confident(power=2)}),
    "clipped": (OneCell, {"gradient_clip_val": 0.1, "arch_gradient_clip_val": 1e-3}),
    "unclipped": (OneCell, {"gradient_clip_val": None}),
    "frozen": (OneCell, {"trains": BatchNormOnly()}),
    "merged": (OneCell, {"merge_edges": True}),
}


def same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert [name for name, value in expected.items() if not torch.equal(actual[name], value)] == []


@pytest.mark.parametrize("case", CASES)
def test_a_search_ends_where_the_uncaptured_one_does(case: str, graphs_made: list[CPUGraphs]) -> None:
    space, settings = CASES[case]
    modules, states = [], []
    for cuda_graphs in (False, True):
        strategy = BilevelSearch(arch_learning_rate=0.01, cuda_graphs=cuda_graphs, **settings)
        supernet = mutated(strategy, space).double()
        module = Scheduled()
        modules.append(search(strategy, supernet, module, steps=6, max_epochs=3, prepare=torch.Tensor.double))
        states.append(supernet.state_dict())
    same(states[1], states[0])
    plain, replayed = modules
    assert replayed.trainer.global_step == plain.trainer.global_step
    assert replayed.epoch_losses() == plain.epoch_losses()
    (graphs,) = graphs_made
    halves = 6 - settings.get("warmup_epochs", 0)  # of three epochs
    assert (graphs.captures, graphs.runs, graphs.replays) == (halves, 2 * halves, 4 * halves)


def transit(cuda_graphs: bool) -> tuple[BilevelSearch, Any]:
    """A DARTS supernet with Transit-cells, whose connections follow alpha."""
    strategy = BilevelSearch(
        features=PerSource(), engine_cells="first", arch_learning_rate=0.02, cuda_graphs=cuda_graphs
    )
    torch.manual_seed(0)
    supernet: Any = strategy.mutate_model(DARTSSpace(3, 1, channels=4, layers=4)).double()
    with torch.no_grad():
        for alpha in of_architecture(supernet).values():
            alpha.normal_(std=0.3)  # some connections change, and not at every step
    return strategy, supernet


def connections_by_step(cuda_graphs: bool) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Return what the Transit-cells run after every step of a search, and how it ends."""
    strategy, supernet = transit(cuda_graphs)
    cells = [module for module in supernet.modules() if isinstance(module, MixedCell) and not module.engine]
    derived: list[Any] = []

    class Watching(Probe):
        def on_train_batch_end(self, *_: Any) -> None:
            derived.append([dict(cell.architecture.connected()) for cell in cells])

    search(strategy, supernet, Watching(), steps=40, images=(1, 8, 8), prepare=torch.Tensor.double)
    return derived, supernet.state_dict()


def test_connections_of_transit_cells_are_never_stale(graphs_made: list[CPUGraphs]) -> None:
    expected, state = connections_by_step(cuda_graphs=False)
    derived, replayed_state = connections_by_step(cuda_graphs=True)
    assert derived == expected
    changes = sum(before != after for before, after in itertools.pairwise(derived))
    (graphs,) = graphs_made
    assert changes >= 3 and graphs.captures >= 3, "the test is of connections that change between captures"
    assert graphs.replays > graphs.captures
    same(replayed_state, state)


@pytest.mark.parametrize(
    ("strategy", "space", "batch", "rate"),
    [("bnas_v2_pc", "bcnn", 4, 0.01), ("entrannas", "darts", 2, 1e-6)],  # at more, connections change too often
)
def test_a_whole_search_reports_the_same_and_resumes(
    strategy: str, space: str, batch: int, rate: float, graphs_made: list[CPUGraphs], tmp_path: Path
) -> None:
    settings = (("batch_size", batch), ("arch_learning_rate", rate))
    plain = conformance.check_export(Case(strategy, space, settings), tmp_path / "plain")
    case = Case(strategy, space, (*settings, ("cuda_graphs", True)))
    found = conformance.check_export(case, tmp_path)
    assert found.genotype == plain.genotype
    assert conformance.timeless(found.history) == conformance.timeless(plain.history)
    assert graphs_made[0].replays > graphs_made[0].captures > 0
    conformance.check_kill_and_resume(case, tmp_path, found)


# Refusals


def test_refused_without_a_device() -> None:
    strategy = BilevelSearch(cuda_graphs=True)
    space = OneCell()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, and PyTorch finds none here"):
            strategy.mutate_model(space)
        assert of_architecture(space) == {}, "nothing was changed"
    with pytest.raises(ValueError, match="cuda_graphs needs a Trainer on a CUDA device, but this one is on cpu"):
        refuse_other_trainer(Lightning(Probe(), Trainer(**QUIET)))
    with pytest.raises(ValueError, match="captures the steps of one device, but the search is on 2; set devices=1"):
        refuse_other_trainer(Lightning(Probe(), Trainer(**QUIET, devices=2)))


def test_refused_with_what_is_not_recorded() -> None:
    with pytest.raises(ValueError, match="cuda_graphs must be false with unrolled=true"):
        BilevelSearch(cuda_graphs=True, unrolled=True)
    penalty: LatencyPenalty = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="cuda_graphs does not capture a latency penalty"):
        BilevelSearch(cuda_graphs=True).limit_latency(penalty)


def test_refused_with_a_batch_norm_that_counts(graphs_made: list[CPUGraphs]) -> None:
    strategy = BilevelSearch(cuda_graphs=True)
    supernet: Any = mutated(strategy)
    supernet.stem[1].momentum = None
    with pytest.raises(ValueError, match=r"cannot capture the cumulative average of stem.1 \(BatchNorm with momentum"):
        search(strategy, supernet, Probe())


def test_refused_with_a_module_that_logs(graphs_made: list[CPUGraphs]) -> None:
    class Logging(Probe):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    strategy = BilevelSearch(cuda_graphs=True)
    with pytest.raises(ValueError, match=r"but that of Logging calls self.log; update torchmetrics in it"):
        search(strategy, mutated(strategy), Logging())
