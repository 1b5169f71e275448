from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import nni
import numpy as np
import pytest
import torch
from nni.mutable import Categorical, CategoricalMultiple, MutableList
from nni.mutable.annotation import ExpressionConstraint
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.experiment.config import RawModelFormatConfig
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import ExecutableModelSpace, ModelStatus, RawFormatModelSpace

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.model_space import model_space_encoding
from nni_plugins.methods.relative_nas.multi_trial import SlowFastEvolution


class TinySpace(ModelSpace):
    """Five choices of a factor; the model is their product with its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [LayerChoice([Factor(k) for k in range(4)], label=f"layer{i}") for i in range(5)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Factor(torch.nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - (self.k - 2) ** 2


def evaluate(model: torch.nn.Module) -> None:
    """Report the value at 0, which is highest where every choice is 2; some models fail."""
    value = float(model(torch.zeros(1)))
    if value in (-9.0, -5.0):
        raise RuntimeError("this model always fails")
    nni.report_final_result(value)


def executable() -> ExecutableModelSpace:
    return RawFormatModelSpace.from_model(TinySpace(), FunctionalEvaluator(evaluate))


def engine(models: int | None = None) -> SequentialExecutionEngine:
    return SequentialExecutionEngine(max_model_count=models, continue_on_failure=True)


def strategy(**settings: Any) -> SlowFastEvolution:
    return SlowFastEvolution(**{"population_size": 6, "generations": 5, "seed": 2, **settings})


def reference(generations: int = 5) -> slow_fast.SlowFastState:
    encoding = model_space_encoding(TinySpace().simplify())
    state = slow_fast.start(encoding.upper, population_size=6, seed=2)
    while state.generation < generations:
        state, asked = slow_fast.ask(state, decode=encoding.decode)
        losses = [float(sum((int(k) - 2) ** 2 for k in encoding.sample(a).values())) for a in asked]
        state = slow_fast.tell(state, [np.inf if loss in (9.0, 5.0) else loss for loss in losses])
    return state


def test_it_walks_the_path_of_the_core_and_failed_models_lose() -> None:
    search = strategy()
    search(executable(), engine())
    expected = reference()
    assert search.state.generation == 5
    np.testing.assert_array_equal(search.state.population, expected.population)
    np.testing.assert_array_equal(search.state.velocity, expected.velocity)
    assert np.inf in search.state.known.values()
    best = next(search.list_models(limit=1))
    assert best.metric == -min(expected.known.values())


@pytest.mark.parametrize("models", [3, 6, 8, 10])
def test_a_resumed_search_goes_on_where_the_budget_ended_it(models: int) -> None:
    first = strategy()
    first(executable(), engine(models))
    assert first.state.generation < 5
    resumed = strategy()
    resumed.initialize(executable(), engine())
    resumed.load_state_dict(first.state_dict())
    resumed.run()
    np.testing.assert_array_equal(resumed.state.population, reference().population)
    assert len(list(first.list_models(sort=False))) + len(list(resumed.list_models(sort=False))) == len(
        reference().known
    )


def test_it_runs_and_resumes_in_an_nni_experiment(tmp_path: Path) -> None:
    def experiment() -> NasExperiment:
        config = NasExperimentConfig("sequential", RawModelFormatConfig(), experiment_working_directory=tmp_path)
        config.max_trial_number = 8
        config.execution_engine.continue_on_failure = True
        return NasExperiment(TinySpace(), FunctionalEvaluator(evaluate), strategy(), config=config)

    first = experiment()
    assert first.run()
    assert 0 < first.strategy.state.generation < 5
    first.stop()

    resumed = experiment()
    resumed.id = first.id
    resumed.config.max_trial_number = 100
    assert resumed.resume()
    np.testing.assert_array_equal(resumed.strategy.state.population, reference().population)
    resumed.stop()


class ThreadedEngine(SequentialExecutionEngine):
    """Like NNI's local service: models run at once, and ends may be told for another model than the one that ended."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers
        self.queue: list[ExecutableModelSpace] = []

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        self._history += models
        self.queue += models
        if len(self.queue) == self.workers:
            threading.Thread(target=self.work, args=(self.queue,)).start()
            self.queue = []

    def work(self, models: list[ExecutableModelSpace]) -> None:
        for model, told in zip(models, reversed(models), strict=True):
            loss = sum((int(k) - 2) ** 2 for k in model.sample.values())  # type: ignore[union-attr]
            if loss not in (9, 5):
                self.dispatch_model_event(FinalMetricEvent(model, -float(loss)))
            status = ModelStatus.Failed if loss in (9, 5) else ModelStatus.Trained
            self.dispatch_model_event(TrainingEndEvent(told, status))


def test_exchanged_ends_of_models_that_run_at_once_are_seen_through() -> None:
    search = strategy(generations=1)
    search(executable(), ThreadedEngine(6))
    np.testing.assert_array_equal(search.state.population, reference(1).population)


def test_minimize_is_maximize_of_the_negative() -> None:
    search = strategy(optimize_mode="minimize")
    search(executable(), engine())
    assert min(search.state.known.values()) < -5.0


def test_a_sample_that_breaks_a_constraint_loses() -> None:
    class Constrained(ExecutableModelSpace):
        evaluator = None

        def __init__(self, sample: dict[str, Any] | None = None) -> None:
            super().__init__(ModelStatus.Initialized if sample is None else ModelStatus.Frozen)
            a, b = Categorical([1, 2, 3], label="a"), CategoricalMultiple([1, 2, 3], n_chosen=2, label="b")
            self.parts = MutableList([a, b, ExpressionConstraint(a + 0 < 3, label="limit")])
            self.sample = sample

        def leaf_mutables(self, is_leaf: Any) -> Any:
            return self.parts.leaf_mutables(is_leaf)

        def check_contains(self, sample: dict[str, Any]) -> Any:
            return self.parts.check_contains(sample)

        def freeze(self, sample: dict[str, Any]) -> Constrained:
            self.validate(sample)
            return Constrained(sample)

        def execute(self) -> None:
            nni.report_final_result(float(sum(self.sample["b"])))  # type: ignore[index]

    search = strategy()
    search(Constrained(), engine())
    losses: dict[Any, float] = dict(search.state.known)
    assert any(a[0] == 2 for a in losses)
    assert all((loss == np.inf) == (a[0] == 2) for a, loss in losses.items())


def test_when_every_model_fails_the_search_ends_with_the_reason() -> None:
    space = RawFormatModelSpace.from_model(TinySpace(), FunctionalEvaluator(_fail))
    with pytest.raises(ValueError, match="Every model of generation 1 failed; look into the log"):
        strategy()(space, engine())


def _fail(model: torch.nn.Module) -> None:
    raise RuntimeError("nothing runs here")


def test_wrong_settings_and_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match="even number of at least 2"):
        SlowFastEvolution(population_size=3)
    with pytest.raises(ValueError, match="'maximize' or 'minimize'"):
        SlowFastEvolution(optimize_mode="up")
    search, other = strategy(), strategy()
    search.initialize(executable(), engine())
    other.initialize(executable(), engine())
    state = other.state_dict()
    state["search"]["upper"] = [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="checkpoint is one of another model space"):
        search.load_state_dict(state)
