"""RelativeNAS with its weight set, against a slow and obvious reference."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import nni.nas.strategy  # noqa: F401  before NNI's hub
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch import DARTS as HubDARTS
from nni.nas.hub.pytorch import NasBench201 as HubNasBench201
from nni.nas.nn.pytorch import ModelSpace, model_context
from torch import nn

from nni_plugins import RelativeNAS
from nni_plugins.data import load_data
from nni_plugins.methods.divergence import Diverged
from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.one_shot import WeightSetModule
from nni_plugins.run.epoch_report import EpochRecord, History
from nni_plugins.run.search import SearchResult
from nni_plugins.run.search import search as run_search
from nni_plugins.run.settings import Settings
from nni_plugins.supernet.cell import MixedCell
from search_spaces import DARTSSpace, NASBench201
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE
from tests.nni_plugins.methods.searching import CLASSES, QUIET, OneCell, OwnSpace, Probe, batches, mutated

STEPS = 2


def loaders() -> tuple[DataLoader, DataLoader]:
    return DataLoader(batches(STEPS, 1), batch_size=4), DataLoader(batches(STEPS, 2, size=3), batch_size=4)


def evolve(strategy: RelativeNAS, supernet: ModelSpace, module: Any, *, epochs: int = 2, **trainer: Any) -> Any:
    train, validation = loaders()
    evaluator = strategy.mutate_evaluator(
        Lightning(module, Trainer(max_epochs=epochs, **{**QUIET, **trainer}), train, validation)
    )
    evaluator.evaluate(supernet)
    assert isinstance(evaluator.module, WeightSetModule)
    return evaluator.module


# A generation, the slow way


def used(sample: dict[str, Any]) -> list[str]:
    """Names of the operations of a OneCell that a sample runs."""
    return [f"cell.operations.{sample[f'cell/input_{n}_0'][0]}_{n}_{sample[f'cell/op_{n}_0']}." for n in (1, 2)]


def train(supernet: ModelSpace, sample: dict[str, Any], sgd: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Validation loss and weights of a candidate after an epoch from ``supernet``'s weights."""
    net = copy.deepcopy(supernet).train()
    for mixture in net.modules():
        if isinstance(mixture, MixedCell):
            mixture.derived_only = True
            mixture.architecture.choose(sample)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, **sgd)
    train_batches, validation_batches = loaders()
    for images, labels in train_batches:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
    net.eval()
    with torch.no_grad():
        losses = [(F.cross_entropy(net(x), y, reduction="sum"), len(y)) for x, y in validation_batches]
    return float(sum(loss for loss, _ in losses)) / sum(number for _, number in losses), net.state_dict()


def test_two_generations_are_those_of_the_slow_reference() -> None:
    torch.manual_seed(0)
    strategy = RelativeNAS(population_size=6, population_seed=5, drop_path=0.0)
    supernet = mutated(strategy, OneCell)
    reference = copy.deepcopy(supernet)
    probe = Probe()
    module = evolve(strategy, supernet, probe, epochs=3)

    encoding = strategy._encoding
    state = slow_fast.start(encoding.upper, population_size=6, seed=5, reevaluate=True)
    for _ in range(2):
        state, architectures = slow_fast.ask(state, decode=encoding.decode)
        samples = [encoding.sample(architecture) for architecture in architectures]
        losses = [math.nan] * 6
        for first, second in state.pairs.tolist():
            trained = {row: train(reference, samples[row], probe.sgd) for row in (first, second)}
            losses[first], losses[second] = trained[first][0], trained[second][0]
            fast, slow = (first, second) if losses[first] <= losses[second] else (second, first)
            kept = {}
            for name, tensor in reference.state_dict().items():
                source = fast
                if name.startswith("cell.operations."):
                    users = [row for row in (fast, slow) if name.startswith(tuple(used(samples[row])))]
                    source = users[0] if users else None
                kept[name] = tensor.clone() if source is None else trained[source][1][name]
            reference.load_state_dict(kept)
        state = slow_fast.tell(state, losses)

    torch.testing.assert_close(module.state.losses, state.losses)
    np.testing.assert_array_equal(module.state.population, state.population)
    np.testing.assert_array_equal(module.state.velocity, state.velocity)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(supernet.state_dict()[name], tensor, msg=name)

    # the final pick trains all candidates once more, from the same weights, and gives nothing back
    final = [encoding.sample(architecture) for architecture in encoding.decode(state.population)]
    expected = [train(reference, sample, probe.sgd)[0] for sample in final]
    torch.testing.assert_close(torch.tensor(module.losses), torch.tensor(expected))
    assert module.export() == final[int(np.argmin(expected))]


def test_members_of_a_pair_start_equal_and_the_next_pair_sees_what_they_gave_back() -> None:
    starts: list[dict[str, torch.Tensor]] = []

    def watch(module: Probe, index: int) -> None:
        if module.training and index % (2 * STEPS) == 0:
            starts.append({name: tensor.clone() for name, tensor in module.model.state_dict().items()})

    torch.manual_seed(0)
    strategy = RelativeNAS(population_size=4)
    evolve(strategy, mutated(strategy, OneCell), Probe(watch), epochs=2)
    first, second, third, fourth = starts[:4]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(third[name], fourth[name]) for name in third)
    assert not torch.equal(first["classifier.weight"], third["classifier.weight"])


def test_every_candidate_has_a_fresh_optimiser() -> None:
    states: list[int] = []
    strategy = RelativeNAS(population_size=2)
    probe = Probe(lambda module, index: states.append(len(module.trainer.optimizers[0].state)))
    evolve(strategy, mutated(strategy, OneCell), probe, epochs=2)
    assert [states[index] for index in range(0, len(states), 2 * STEPS)] == [0] * 4
    assert states[1] > 0


def test_operations_that_no_candidate_runs_stay_bit_identical() -> None:
    torch.manual_seed(0)
    strategy = RelativeNAS(population_size=2, population_seed=3)
    supernet = mutated(strategy, OneCell)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    module = evolve(strategy, supernet, Probe(), epochs=2)
    encoding = strategy._encoding
    start = slow_fast.start(encoding.upper, population_size=2, seed=3, reevaluate=True)
    ran = tuple(name for row in encoding.decode(start.population) for name in used(encoding.sample(row)))
    idle = [name for name in before if name.startswith("cell.operations.") and not name.startswith(ran)]
    assert idle and module.state.generation == 1
    assert all(torch.equal(supernet.state_dict()[name], before[name]) for name in idle)


def test_a_candidate_that_fails_loses_and_gives_nothing_back() -> None:
    """The first candidate's losses are not finite; its pair's weights come from the other alone."""

    def watch(module: Probe, index: int) -> None:
        module.factor = math.nan if index < 2 * STEPS else 1.0

    torch.manual_seed(0)
    strategy = RelativeNAS(population_size=2, population_seed=1)
    supernet = mutated(strategy, OneCell)
    module = evolve(strategy, supernet, Probe(watch), epochs=2)
    assert all(tensor.isfinite().all() for tensor in supernet.state_dict().values())
    assert np.isinf(module.state.losses).sum() == 1


def test_a_generation_in_which_everything_fails_ends_the_search_with_the_reason() -> None:
    probe = Probe()
    probe.factor = math.inf
    strategy = RelativeNAS(population_size=2)
    with pytest.raises(Diverged, match="every candidate of generation 1 is not finite; lower the learning rate"):
        evolve(strategy, mutated(strategy, OneCell), probe)


def test_drop_path_grows_to_its_end_in_the_final_pick() -> None:
    from torchvision.ops import StochasticDepth

    seen: dict[int, set[float]] = {}

    def watch(module: Probe, index: int) -> None:
        drops = {m.p for m in module.model.modules() if isinstance(m, StochasticDepth)}
        seen.setdefault(module.trainer.current_epoch, set()).update(drops)

    strategy = RelativeNAS(population_size=2, drop_path=0.3)
    evolve(strategy, mutated(strategy, OneCell), Probe(watch), epochs=4)
    assert all(len(values) == 1 for values in seen.values())
    assert {epoch: max(values) for epoch, values in seen.items()} == pytest.approx({0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})


def test_batch_norm_learns_scale_and_shift() -> None:
    supernet = mutated(RelativeNAS(), OneCell)
    assert all(m.affine for m in supernet.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_weight_set_has_own_parameters_for_every_cell_edge_and_operation() -> None:
    """Eight cells of 14 edges with seven operations, of which the plain identity has no parameters."""
    supernet = mutated(RelativeNAS(), DARTSSpace, channels=4, layers=8, operations=DARTS_OPERATIONS_WITHOUT_NONE)
    cells = [m for m in supernet.modules() if isinstance(m, MixedCell)]
    owned = [{id(p) for p in op.parameters()} for cell in cells for op in cell.operations.values()]
    with_parameters = [each for each in owned if each]
    # reduction cells: 8 edges with stride 2, whose skip is a convolution
    assert len(with_parameters) == 8 * 14 * 6 + 2 * 8
    assert sum(map(len, with_parameters)) == len(set().union(*with_parameters)), "nothing is shared"


# Any space


@pytest.mark.parametrize(
    "make",
    [
        lambda: HubDARTS(width=4, num_cells=3, dataset="cifar"),
        lambda: HubNasBench201(stem_out_channels=4, num_modules_per_stack=1),
        lambda: NASBench201(channels=4, cells=1),
        OwnSpace,
    ],
    ids=["hub DARTS", "hub NAS-Bench-201", "NAS-Bench-201", "own"],
)
def test_nni_runs_it_on_other_spaces(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nni_home: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    own = make is OwnSpace
    images = batches(2, 1, images=(1, 6, 6) if own else (3, 16, 16))
    loader = DataLoader(images, batch_size=4)
    evaluator = Classification(
        train_dataloaders=loader, val_dataloaders=loader, num_classes=CLASSES if own else 10, max_epochs=2, **QUIET
    )
    space = make()
    experiment = NasExperiment(space, evaluator, RelativeNAS(population_size=2))
    experiment.config.experiment_working_directory = str(tmp_path)
    experiment.run()
    experiment.stop()
    (sample,) = experiment.export_top_models(formatter="dict")
    with model_context(sample):
        frozen = make()
    assert frozen(images.tensors[0]).shape == (8, CLASSES if own else 10)


# In a run


OVERRIDES = {"epochs": 3, "batch_size": 16, "population_size": 4, "space.channels": 4, "space.layers": 3}


class Interrupted(Exception):
    pass


def run(data: str, folder: Path, stop_after: int | None = None, **overrides: Any) -> SearchResult:
    settings = Settings.of(
        strategy="relative_nas", space="darts", data=data, seed=3,
        overrides={**OVERRIDES, "cutout": 2, **overrides},
    )  # fmt: skip

    def on_epoch(record: EpochRecord) -> None:
        if record.epoch + 1 == stop_after:
            raise Interrupted

    return run_search(settings, load_data(data), folder, on_epoch)


def without_times(history: History) -> History:
    return [{k: v for k, v in each.items() if k not in ("seconds", "memory_mb")} for each in history]


def test_metrics_of_a_generation_and_equal_results_from_equal_seeds(tiny_data: str, tmp_path: Path) -> None:
    first, second = run(tiny_data, tmp_path / "a"), run(tiny_data, tmp_path / "b")
    assert first.genotype == second.genotype
    assert without_times(first.history) == without_times(second.history)
    assert len(first.history) == 3 + 1, "three generations and the final pick"
    for metrics in first.history:
        assert metrics["best_loss"] <= metrics["mean_loss"]
        assert 0 <= metrics["decided"] <= 1 and metrics["loss_signal"] > 0
        assert metrics["loss_spread"] >= 0 and metrics["diversity"] > 0 and metrics["failed_candidates"] == 0
        assert metrics["mean_loss"] == pytest.approx(metrics["validation_loss"])
    assert first.history[-1]["genotype"] == first.genotype.to_json()
    assert "none" not in {operation for nodes in first.genotype.cells.values() for n in nodes for operation, _ in n}


@pytest.mark.parametrize("epoch", [2, 4], ids=["generation", "final pick"])
def test_an_interrupted_search_goes_on_to_the_same_result(epoch: int, tiny_data: str, tmp_path: Path) -> None:
    whole = run(tiny_data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tiny_data, tmp_path / "parts", stop_after=epoch)
    rest = run(tiny_data, tmp_path / "parts")
    assert rest.sample == whole.sample
    assert without_times(rest.history) == without_times(whole.history)
    last = [
        torch.load(tmp_path / name / "search" / "epoch-0004.ckpt", weights_only=True) for name in ("whole", "parts")
    ]
    assert last[0]["relative_nas"] == last[1]["relative_nas"]
    assert all(torch.equal(tensor, last[1]["state_dict"][name]) for name, tensor in last[0]["state_dict"].items())


def test_nodes_with_any_number_of_connections(tiny_data: str, tmp_path: Path) -> None:
    settings = Settings.of(
        strategy="relative_nas", space="darts_any", data=tiny_data, seed=1,
        overrides={**OVERRIDES, "epochs": 1, "population_size": 2, "cutout": 2},
    )  # fmt: skip
    result = run_search(settings, load_data(tiny_data), tmp_path)
    connections = [len(node) for nodes in result.genotype.cells.values() for node in nodes]
    assert min(connections) >= 1 and max(connections) > 2


def test_a_run_has_the_papers_schedule() -> None:
    recipe = Settings.of(strategy="relative_nas", space="darts", data="cifar10").search
    assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (50, 256, 0.9, 3e-4)
    assert (recipe.lr, recipe.lr_min, recipe.cutout, recipe.augment_validation) == (0.1, 0.001, 16, True)


def test_the_learning_rate_falls_by_generation_as_published(tiny_data: str, tmp_path: Path) -> None:
    rates: list[float] = []
    real = WeightSetModule.on_train_epoch_start

    def spy(self: WeightSetModule) -> None:
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightSetModule, "on_train_epoch_start", spy)
        run(tiny_data, tmp_path, lr=0.1, lr_min=0.001, population_size=2)
    assert rates == pytest.approx([0.001 + 0.5 * 0.099 * (1 + math.cos(math.pi * g / 3)) for g in range(4)])


# Wrong input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population_size": 5}, "population_size must be an even number of at least 2"),
        ({"population_size": 0}, "population_size must be an even number of at least 2"),
        ({"drop_path": 1.0}, "drop_path must be a number from 0 to below 1"),
        ({"drop_path": "much"}, "drop_path must be a number from 0 to below 1, got 'much'"),
        ({"gradient_clip_val": "5 m"}, "gradient_clip_val must be positive, or None"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val must be positive, or None"),
        ({"phi": -1.0}, "phi must be a number of at least 0"),
        ({"arch_lr": 1}, "RelativeNAS has no setting 'arch_lr'; expected one of population_size"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeNAS(**settings)


def test_settings_about_architecture_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="strategy relative_nas has no setting 'hessian'"):
        Settings.of(strategy="relative_nas", space="darts", overrides={"hessian": "true"})


def test_one_epoch_leaves_no_generation() -> None:
    strategy = RelativeNAS(population_size=2)
    with pytest.raises(ValueError, match="max_epochs=1 leaves no generation; give it at least 2"):
        evolve(strategy, mutated(strategy, OneCell), Probe(), epochs=1)


def test_several_devices_under_another_strategy_are_refused() -> None:
    strategy = RelativeNAS(population_size=2)
    with pytest.raises(ValueError, match="was given 2 devices with DDPStrategy; pass devices=1"):
        evolve(strategy, mutated(strategy, OneCell), Probe(), devices=2)


def test_a_space_with_nothing_to_search_is_refused() -> None:
    class Fixed(ModelSpace):
        pass

    with pytest.raises(ValueError, match="Fixed has nothing to search"):
        RelativeNAS().mutate_model(Fixed())


def test_seeds_of_torch_decide_the_population() -> None:
    def population(seed: int) -> np.ndarray:
        pl.seed_everything(seed, verbose=False)
        strategy = RelativeNAS(population_size=2)
        strategy.mutate_model(OneCell())
        return strategy.configure_oneshot_module(Probe()).state.population

    assert (population(1) == population(1)).all() and (population(1) != population(2)).any()
