"""Slow-fast learning as a multi-trial strategy: RelativeNAS over any model space, one trial per candidate.

The population is that of :mod:`nni_plugins.methods.relative_nas.slow_fast`, in its stand-alone mode: only learners
that moved are evaluated, nothing twice. A generation ends when all its models have; a model that fails loses.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable
from typing import Any

from nni.mutable import SampleValidationError
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import ModelEventType, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus
from nni.nas.strategy.base import Strategy

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.encoding import Encoding
from nni_plugins.methods.relative_nas.model_space import model_space_encoding
from nni_plugins.methods.relative_nas.tuner import RESULT_GRACE, check_settings, trial_loss

_logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class SlowFastEvolution(Strategy):
    """Explore a model space by slow-fast learning, with the models trained one by one.

    Parameters
    ----------
    population_size
        Number of learners, even. The paper has 20.
    generations
        Generations after which the search ends; None for as many as the engine's budget allows. The paper has 50.
    optimize_mode
        Whether the models' metric is to ``maximize`` (an accuracy) or to ``minimize`` (a loss).
    seed
        Seed of all randomness.
    phi
        Pull of slow learners towards the mean of the population; 0 is the paper's update.
    restart_on_collapse
        Redraw a population that has come to rest, all but its best; without it the search ends there.

    Raises
    ------
    ValueError
        If a setting or the model space is of no use, a metric is not a number, or every model fails.
    """

    def __init__(
        self,
        *,
        population_size: int = 20,
        generations: int | None = None,
        optimize_mode: str = "maximize",
        seed: int = 0,
        phi: float = 0.0,
        restart_on_collapse: bool = False,
    ) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {
            "population_size": population_size,
            "seed": seed,
            "phi": phi,
            "restart_on_collapse": restart_on_collapse,
        }
        check_settings(optimize_mode, generations, **self._settings)
        self._optimize_mode = optimize_mode
        self._generations = generations
        self._losses: dict[Hashable, float] = {}
        self._models: dict[ExecutableModelSpace, Hashable] = {}
        self._ended: dict[ExecutableModelSpace, ModelStatus] = {}
        self._encoding: Encoding
        self._state: slow_fast.SlowFastState

    @property
    def state(self) -> slow_fast.SlowFastState:
        """The population and all else the search knows, with the results of finished generations."""
        return self._state

    def extra_repr(self) -> str:
        """Return the settings, for the log."""
        return ", ".join(f"{name}={value}" for name, value in self._settings.items())

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume, for NNI's checkpoint of the experiment."""
        self._collect()
        return {"search": slow_fast.to_plain(self._state), "losses": dict(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume where :meth:`state_dict` was taken; models that were then running are trained again.

        Raises
        ------
        ValueError
            If the checkpoint is one of another model space.
        """
        state = slow_fast.from_plain(state_dict["search"])
        if state.upper.tolist() != self._state.upper.tolist():
            raise ValueError("The checkpoint is one of another model space; resume with the space it was made with.")
        self._state = state
        self._losses = dict(state_dict["losses"])

    def _initialize(self, model_space: ExecutableModelSpace, engine: ExecutionEngine) -> ExecutableModelSpace:
        self._encoding = model_space_encoding(model_space.simplify())
        self._state = slow_fast.start(self._encoding.upper, **self._settings)
        engine.register_model_event_callback(ModelEventType.TrainingEnd, self._on_training_end)
        return model_space

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback(ModelEventType.TrainingEnd, self._on_training_end)

    def _run(self) -> None:
        while self._state.generation != self._generations and not slow_fast.exhausted(self._state):
            # A resumed search is inside a generation, which is opened already.
            if not self._state.architectures:
                self._state, _ = slow_fast.ask(self._state, decode=self._encoding.decode)
            if not self._evaluate(self._state.asked):
                return
            self._state = slow_fast.tell(self._state, [self._losses[a] for a in self._state.asked])
            if slow_fast.every_trial_fails(self._state):
                raise ValueError(
                    f"Every model of generation {self._state.generation} failed; look into the log of one of them, "
                    f"and start the experiment anew once models run."
                )
            _logger.info(
                "Generation %d: lowest loss %g, diversity %g.",
                self._state.generation,
                self._state.losses.min(),
                slow_fast.diversity(self._state),
            )

    def _evaluate(self, architectures: tuple[Hashable, ...]) -> bool:
        """Train all that have no loss yet and wait for them; False if the budget did not suffice."""
        complete = True
        for architecture in architectures:
            if architecture in self._losses:
                continue
            try:
                model = self.model_space.freeze(self._encoding.sample(architecture))
            except SampleValidationError as error:
                _logger.warning("A candidate breaks a constraint of the space and loses: %s", error)
                self._losses[architecture] = math.inf
                continue
            if not self.wait_for_resource():
                complete = False
                break
            self._models[model] = architecture
            self.engine.submit_models(model)
        self._wait()
        self._collect(failures=True)
        return complete

    def _wait(self) -> None:
        """Wait for the end of all models, and for results of those that ended well.

        Only their number tells: NNI's local training service may report the end of one model as that of another.
        """
        while len(self._ended) < len(self._models):
            time.sleep(POLL_SECONDS)
        patience = RESULT_GRACE
        trained = sum(status == ModelStatus.Trained for status in self._ended.values())
        while patience > 0 and sum(model.metric is not None for model in self._models) < trained:
            time.sleep(POLL_SECONDS)
            patience -= POLL_SECONDS

    def _collect(self, *, failures: bool = False) -> None:
        """Turn metrics into losses; not where they arrive, as an exception would end the engine's thread."""
        for model, architecture in self._models.items():
            if model.metric is not None:
                self._losses[architecture] = trial_loss(model.metric, self._optimize_mode)
            elif failures:
                self._losses[architecture] = math.inf
        if failures:
            self._models.clear()
            self._ended.clear()

    def _on_training_end(self, event: TrainingEndEvent) -> None:
        if event.model in self._models:
            self._ended[event.model] = event.status
