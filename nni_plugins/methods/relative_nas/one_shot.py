"""RelativeNAS (Tan et al., arXiv 2009.06193): slow-fast learning over candidates that inherit a weight set.

Per generation the population is cut into random pairs. Both members of a pair take the whole weight set W, train the
architecture that they decode to for one epoch on the weights half, and are validated on the other half:

    fast, slow = the pair by validation loss
    W         <- W | operations(slow) | operations(fast) | trunk(fast)      before the next pair
    v_slow    <- u1 * v_slow + u2 * (x_fast - x_slow)                       after all pairs
    x_slow    <- clip(x_slow + v_slow, 0, upper)

The first update is :mod:`nni_plugins.methods.relative_nas.weight_set`, the others are
:mod:`nni_plugins.methods.relative_nas.slow_fast`. Every generation evaluates all candidates
anew, since losses drift with W.

Where this differs from the paper or fills a gap: a member whose loss is not finite gives nothing back; the architecture
in the end is not stated, so after the last generation all members are trained once more from the final W, without
giving back, and the lowest validation loss wins. BatchNorm learns scale and shift everywhere, after pooling too.

On several devices all of them train one candidate together, each on its share of every batch. A candidate per device
would keep no more than two devices busy, since a pair starts from what the pair before has given back.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import numpy as np
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, RandomOneShot, no_default_hook
from numpy.typing import ArrayLike
from pytorch_lightning.utilities.data import extract_batch_size
from torch import nn
from torchvision.ops import StochasticDepth

from nni_plugins.methods.bilevel.trainable import make_affine
from nni_plugins.methods.data_parallel import refuse_other_parallelism
from nni_plugins.methods.divergence import ADVICE, Diverged
from nni_plugins.methods.latency import LatencyPenalty
from nni_plugins.methods.metric import DECIDED, Metric, Metrics
from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.encoding import Encoding
from nni_plugins.methods.relative_nas.model_space import model_space_encoding
from nni_plugins.methods.relative_nas.weight_set import Weights, WeightSet
from nni_plugins.methods.spec import EpochEnd, SearchMethod
from nni_plugins.report.decision import SETTLED, generations_to_settle, loss_signal, togetherness
from nni_plugins.supernet.build import Builder
from nni_plugins.supernet.channels import AllChannels
from nni_plugins.supernet.consistency import mixtures_of
from nni_plugins.supernet.fast_layers import lay_out, prefers_channels_last, use_fast_layers
from nni_plugins.supernet.features import PerEdge
from nni_plugins.supernet.relaxation import Relaxation, Softmax
from nni_plugins.supernet.threshold import SparseThreshold
from nni_plugins.tools.allocator import keep_freed_memory
from nni_plugins.tools.atomic_files import strict_json
from nni_plugins.tools.checked import Checked, setting
from nni_plugins.tools.ranks import averaged, summed
from search_spaces.arguments import refuse_unknown
from search_spaces.cells import set_drop_path
from search_spaces.free_cell import FreeCell

_logger = logging.getLogger(__name__)

BEST_LOSS = Metric("best_loss", "lowest validation loss of a candidate of the generation, nats")
MEAN_LOSS = Metric("mean_loss", "mean of the generation's finite validation losses, nats", on_line=False)
LOSS_SPREAD = Metric("loss_spread", "standard deviation of the generation's finite validation losses, nats")
LOSS_SIGNAL = Metric(
    "loss_signal", "spread of the candidates' losses over what the noise of the images alone gives", on_page=False
)
DIVERSITY = Metric("diversity", "mean distance of the learners to their mean, in genes")
FAILED_CANDIDATES = Metric("failed_candidates", "candidates without a finite loss", on_line=False, on_page=False)

ModelSpaceType = TypeVar("ModelSpaceType", bound=ModelSpace)


@dataclass(frozen=True)
class WeightSetChoices(Checked):
    """Settings of the weight-set search.

    Parameters
    ----------
    population_size
        Number of learners, even. The paper has 20.
    phi
        Pull of slow learners to the mean of the population; 0 is the paper's update.
    restart_on_collapse
        Once all learners decode to one architecture, keep the best and draw the others afresh; not in the paper.
    drop_path
        Probability of dropping an operation for a sample, growing linearly from 0 over the generations.
    gradient_clip_val
        Largest gradient norm of the weights; None for no clipping.
    population_seed
        Seed of the population and of its moves; None to draw it from torch's generator.
    """

    population_size: int = 20
    phi: float = setting(0.0, at_least=0)
    restart_on_collapse: bool = False
    drop_path: float = setting(0.3, at_least=0, below=1)
    gradient_clip_val: float | None = setting(5.0, above=0, none="no clipping")
    population_seed: int | None = setting(None, at_least=0, none="a seed drawn from torch's generator")

    def check(self) -> None:
        """Refuse a population that slow-fast learning cannot pair."""
        self.start([1.0])

    def start(self, upper: ArrayLike, seed: int = 0) -> slow_fast.SlowFastState:
        """Return a first population in the box from 0 to ``upper``; ``seed`` counts without a ``population_seed``."""
        return slow_fast.start(
            upper,
            population_size=self.population_size,
            seed=seed if self.population_seed is None else self.population_seed,
            reevaluate=True,
            phi=self.phi,
            restart_on_collapse=self.restart_on_collapse,
        )


class RelativeNAS(SearchMethod, RandomOneShot):
    """RelativeNAS as an NNI one-shot strategy, on any space of cells or ``LayerChoice`` and ``InputChoice``.

    An epoch of the Trainer is a generation; its last one is the final pick, so that ``max_epochs`` is the number of
    generations (50 in the paper) and one more. The evaluator's ``training_step`` gives both losses, as in NNI's
    gradient strategies; its SGD is made anew for every candidate.

    Parameters
    ----------
    mutation_hooks
        As in NNI: hooks for mutables of your own, asked first.
    **choices
        Fields of :class:`WeightSetChoices` that differ from the paper's.

    Raises
    ------
    ValueError
        If a setting does not exist or is out of range; the message lists the valid ones.
    """

    extra_epochs: ClassVar[int] = 1
    choices: WeightSetChoices
    latency: LatencyPenalty | None = None

    def __init__(self, *, mutation_hooks: list[Any] | None = None, **choices: Any) -> None:
        refuse_unknown(choices, WeightSetChoices.names(), owner=f"{type(self).__name__} has")
        self.choices = WeightSetChoices(**{**self.preset, **choices})
        super().__init__(mutation_hooks=list(mutation_hooks or []))

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that ``__init__`` takes."""
        return WeightSetChoices.names()

    def mutate_model(self, model: ModelSpaceType) -> ModelSpaceType:
        """Turn ``model`` into the weight set, in place.

        Raises
        ------
        ValueError
            If the space cannot be searched; nothing is changed then.
        """
        # nothing is relaxed here; the part only has to go with the cells' number of connections
        free = any(isinstance(module, FreeCell) for module in model.modules())
        relaxation: Relaxation = SparseThreshold() if free else Softmax()
        self._builder = Builder(relaxation, AllChannels(), PerEdge(), None, prepare=self._prepare)
        self._builder.check(model)
        self._encoding = model_space_encoding(model.simplify())
        supernet = OneShotStrategy.mutate_model(self, model)
        make_affine(supernet)
        for mixture in mixtures_of(supernet):
            mixture.derived_only = True
            mixture.architecture.requires_grad_(False)
        use_fast_layers(supernet)
        lay_out(supernet, channels_last=prefers_channels_last())
        return supernet

    def _prepare(self, operation: nn.Module) -> nn.Module:
        if not self.choices.drop_path or isinstance(operation, nn.Identity):
            return make_affine(operation)
        drop_path = StochasticDepth(0.0, mode="row")
        drop_path.deterministic = False  # type: ignore[assignment]
        return nn.Sequential(make_affine(operation), drop_path)

    def default_mutation_hooks(self) -> list[Any]:
        return [self._builder.hook, no_default_hook]

    def run_hook(self, hook: Any, name: str, module: Any, memo: dict[str, Any]) -> Any:
        return hook(module, name, memo, {})

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        refuse_other_parallelism(evaluator)
        keep_freed_memory()
        return super().mutate_evaluator(evaluator)

    def configure_oneshot_module(self, training_module: LightningModule) -> WeightSetModule:
        """Wrap the evaluator's module."""
        return WeightSetModule(training_module, self.choices, self._encoding, self.latency)

    def limit_latency(self, penalty: LatencyPenalty) -> None:
        """Compare candidates by validation loss plus ``penalty``; to be called before the evaluator is made.

        Not in the paper. A sum, rather than the feasible candidate first, since it means the same as in the gradient
        methods, and still tells two candidates apart that are both too slow.
        """
        self.latency = penalty

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return loss and accuracy of the training steps, and what the generation has come to."""
        assert isinstance(module, WeightSetModule)
        return {**epoch.training, **module.generation_metrics()}

    def undecided(self, module: pl.LightningModule, last: Mapping[str, float]) -> str | None:
        """Return a sentence with the number of generations in which the population would have settled."""
        assert isinstance(module, WeightSetModule)
        decided, signal = last[DECIDED.name], last.get(LOSS_SIGNAL.name)
        if decided >= SETTLED:
            return None
        told = "" if signal is None else f" (their losses differ {signal:.2g} times as much as chance makes them)"
        return (
            f"The population has not settled: its learners have come {decided:.0%} closer to each other than random "
            f"ones, and {SETTLED:.0%} makes a decision{told}; about --set "
            f"epochs={generations_to_settle(module.generations, decided)} (it was {module.generations}) does, or fewer "
            "learners, population_size."
        )

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """All passes of a generation through both halves, one after the other."""
        return GenerationLoader(train_dataloader_fn(), val_dataloader_fn(), self.choices.population_size)

    def val_dataloader(self, train_dataloader_fn: Any, val_dataloader_fn: Any) -> Any:
        """None: candidates are validated inside the generation."""
        return None


class CandidateBatch(NamedTuple):
    """A batch of one candidate's training or validation."""

    candidate: int
    stage: Literal["train", "validate"]
    first: bool
    last: bool
    batch: Any


class GenerationLoader:
    """For every candidate of a generation a pass through the weights half, then one through the validation half.

    Passes of loaders that follow a seed are numbered through: candidate ``n`` of generation ``g`` has pass
    ``g * N + n`` of both.

    Parameters
    ----------
    train, validation
        Loaders of the two halves.
    candidates
        N.
    """

    batch_sampler = None  # Lightning reads this attribute of whatever has a sampler.

    def __init__(self, train: Iterable[Any], validation: Iterable[Any], candidates: int) -> None:
        self._stages: dict[Literal["train", "validate"], Iterable[Any]] = {"train": train, "validate": validation}
        self._candidates = candidates
        self._generation = 0

    @property
    def sampler(self) -> GenerationLoader:
        """The object whose ``set_epoch`` Lightning calls before each epoch: the loader itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be generation number ``epoch``."""
        self._generation = epoch

    def __len__(self) -> int:
        return self._candidates * sum(len(cast(Sized, loader)) for loader in self._stages.values())

    def __iter__(self) -> Iterator[CandidateBatch]:
        for candidate in range(self._candidates):
            for stage, loader in self._stages.items():
                sampler = getattr(loader, "sampler", None)
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(self._generation * self._candidates + candidate)  # type: ignore[union-attr]
                last = len(cast(Sized, loader)) - 1
                for number, batch in enumerate(loader):
                    yield CandidateBatch(candidate, stage, number == 0, number == last, batch)


class _Trained(NamedTuple):
    """What a candidate leaves."""

    loss: float
    operations: Weights
    trunk: Weights


class WeightSetModule(BaseOneShotLightningModule):
    """The Lightning module of a weight-set search around the evaluator's own.

    Parameters
    ----------
    training_module
        The evaluator's module.
    choices
        Settings.
    encoding
        From genes to architectures of the space.
    latency
        Added to a candidate's validation loss; None for nothing.

    Attributes
    ----------
    state
        The population and all else that slow-fast learning knows.
    best
        NNI's sample of the candidate with the lowest validation loss in the last generation.
    """

    def __init__(
        self,
        training_module: LightningModule,
        choices: WeightSetChoices,
        encoding: Encoding,
        latency: LatencyPenalty | None = None,
    ) -> None:
        super().__init__(training_module)
        self.choices = choices
        self.latency = latency
        self.encoding = encoding
        self.state = choices.start(encoding.upper, seed=int(torch.randint(2**31, ())))
        self.best: dict[str, Any] = {}
        self.losses: list[float] = []
        self._weight_set: WeightSet
        self._before: Weights = {}
        self._members: list[_Trained] = []
        self._validation: list[tuple[torch.Tensor, int]] = []
        self._batch_losses: list[list[float]] = []

    def export(self) -> dict[str, Any]:
        """Return the best architecture as NNI's sample: of the final pick, or of the last generation before that."""
        return self.best

    def evaluated(self) -> list[tuple[dict[str, Any], float]]:
        """Return the generation's architectures so far, as NNI's samples, with their validation losses."""
        return [(self._samples[row], loss) for row, loss in zip(self._order, self.losses, strict=False)]

    @property
    def generations(self) -> int:
        """Generations of the search; the Trainer's last epoch is the final pick."""
        return int(self.trainer.max_epochs or 1) - RelativeNAS.extra_epochs

    # A generation

    def on_fit_start(self) -> None:
        if self.generations < 1:
            raise ValueError(
                f"The Trainer's last epoch is the final pick, so max_epochs={self.trainer.max_epochs} leaves no "
                "generation; give it at least 2."
            )
        self._weight_set = WeightSet(self.model)
        super().on_fit_start()

    def on_train_epoch_start(self) -> None:
        """Pair the learners; the final pick takes them as they come."""
        self.losses, self._batch_losses = [], []
        if self.current_epoch < self.generations:
            self.state, architectures = slow_fast.ask(self.state, decode=self.encoding.decode)
            self._order = self.state.pairs.flatten().tolist()
        else:
            architectures = tuple(self.encoding.decode(self.state.population))
            self._order = list(range(len(architectures)))
        self._samples = [self.encoding.sample(architecture) for architecture in architectures]
        self.training_module.on_train_epoch_start()
        set_drop_path(self.model, self.choices.drop_path * self.current_epoch / self.generations)

    def training_step(self, batch: CandidateBatch, batch_idx: int) -> None:
        if batch.first and batch.stage == "train":
            self._inherit(batch.candidate)
        if batch.stage == "train":
            self.advance_optimization(self._loss(batch.batch, batch_idx), batch_idx, self.choices.gradient_clip_val)
        else:
            if batch.first:
                self.training_module.eval()
            with torch.no_grad():
                self._validation.append((self._loss(batch.batch, batch_idx), extract_batch_size(batch.batch)))
            if batch.last:
                self._finish()
                if batch.candidate % 2:
                    self._give_back()
                if batch.candidate == len(self._samples) - 1:
                    self._close()
        self.advance_lr_schedulers(batch_idx)

    def _loss(self, batch: Any, index: int) -> torch.Tensor:
        result = self.training_module.training_step(batch, index)
        return result["loss"] if isinstance(result, dict) else result

    def _inherit(self, candidate: int) -> None:
        """Give the candidate the whole weight set and a fresh optimiser; members of a pair start from the same."""
        if candidate % 2:
            self._weight_set.load(self._before)
        else:
            self._before = self._weight_set.snapshot()
        self._weight_set.choose(self._samples[self._order[candidate]])
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    def _finish(self) -> None:
        """Note the candidate's validation loss and what it has learned."""
        self.training_module.train()
        self._batch_losses.append(averaged([float(loss) for loss, _ in self._validation]))
        own_total = sum(float(loss) * size for loss, size in self._validation)
        total, images = summed([own_total, sum(size for _, size in self._validation)])
        loss = total / images
        if self.latency is not None:
            sample = self._samples[self._order[len(self.losses)]]
            loss += self.latency.of(self.latency.profile(sample))
        self._validation = []
        self.losses.append(loss if math.isfinite(loss) else math.inf)
        self._members.append(_Trained(self.losses[-1], self._weight_set.operations(), self._weight_set.trunk()))

    def _give_back(self) -> None:
        """Write a pair's weights back into the set; the final pick leaves the set as it was."""
        (first, second), self._members = self._members, []
        kept = [self._before]
        if self.current_epoch < self.generations:
            fast, slow = (first, second) if first.loss <= second.loss else (second, first)
            kept += [slow.operations] if math.isfinite(slow.loss) else []
            kept += [fast.operations, fast.trunk] if math.isfinite(fast.loss) else []
        self._weight_set.load(*kept)

    def _close(self) -> None:
        """Note the best candidate and let the slow learners learn."""
        by_row = np.empty(len(self.losses))
        by_row[self._order] = self.losses
        if not np.isfinite(by_row).any():
            raise Diverged(
                f"The validation loss of every candidate of generation {self.current_epoch + 1} is not finite; "
                f"{ADVICE}."
            )
        self.best = self._samples[int(by_row.argmin())]
        if self.current_epoch < self.generations:
            self.state = slow_fast.tell(self.state, by_row.tolist())
        found = {metric.name: value for metric, value in self.generation_metrics().items() if value is not None}
        described = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        _logger.info("Generation %d: %s; best %s.", self.current_epoch + 1, described, self.best)

    # Around the generations

    def generation_metrics(self) -> Metrics:
        """Return what the validation losses of the generation and the population have come to."""
        finite = np.array([loss for loss in self.losses if math.isfinite(loss)])
        return {
            BEST_LOSS: float(finite.min()),
            MEAN_LOSS: float(finite.mean()),
            LOSS_SPREAD: float(finite.std()),
            LOSS_SIGNAL: loss_signal(self._batch_losses),
            DECIDED: togetherness(self.state.population, self.state.upper),
            DIVERSITY: slow_fast.diversity(self.state),
            FAILED_CANDIDATES: len(self.losses) - len(finite),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the population as text: without executing code torch reads neither NNI's labels nor 128-bit integers."""
        kept = {"state": slow_fast.to_plain(self.state), "best": self.best, "losses": self.losses}
        checkpoint["relative_nas"] = strict_json(kept, indent=None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = json.loads(checkpoint["relative_nas"])
        self.state = slow_fast.from_plain(kept["state"])
        self.best = kept["best"]
        self.losses = [math.inf if loss is None else loss for loss in kept["losses"]]
