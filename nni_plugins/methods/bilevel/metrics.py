"""What only a bilevel search measures at the end of an epoch."""

from __future__ import annotations

import itertools
import logging

import torch

from nni_plugins.methods.bilevel.hessian import architecture_eigenvalue
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.methods.metric import ALPHA_GAP, DECIDED, Metric, Metrics
from nni_plugins.methods.spec import EpochEnd
from nni_plugins.report.collapse import mean_entropy, mean_gap, signs, skip_warning, to_metrics
from nni_plugins.report.decision import decidedness, share_changed
from nni_plugins.supernet.consistency import consistency
from search_spaces.genotype import Genotype

_logger = logging.getLogger(__name__)

ARCHITECTURE_LOSS = Metric(
    "architecture_loss", "mean loss of the architecture steps with the latency penalty, nats", unmeasured=0.0
)
WEIGHTS_LOSS = Metric("weights_loss", "mean loss of the weight steps, nats")
EXPECTED_LATENCY = Metric("expected_latency", "expected latency of the architecture parameters, ms", on_line=False)
ALPHA_ENTROPY = Metric("alpha_entropy", "mean entropy of an edge's operation weights, nats")
CHANGED_SINCE_INITIAL = Metric(
    "changed_since_initial", "share of the derived connections that the initial alpha's cell has not", on_line=False
)
DERIVED_ACCURACY = Metric(
    "derived_accuracy", "accuracy of the derived sub-graph with the supernet's weights, percent", False, False
)
CONSISTENCY_GAP = Metric("consistency_gap", "accuracy of the supernet minus that of its derived sub-graph, points")
HESSIAN = Metric("hessian", "dominant eigenvalue of the validation loss's Hessian with respect to alpha")


def measure(module: BilevelModule, epoch: EpochEnd) -> Metrics:
    """Return the metrics of the epoch that ends, and warn where its cell shows a sign of collapse."""
    if warning := skip_warning(epoch.genotype):
        _logger.warning("epoch %d: %s", module.current_epoch + 1, warning)
    losses = module.epoch_losses()
    metrics: dict[Metric, float | None] = {
        ARCHITECTURE_LOSS: losses.get("architecture"),
        WEIGHTS_LOSS: losses.get("weights"),
        **_decision(module, epoch),
    }
    if module.latency is not None:
        with torch.no_grad():
            metrics[EXPECTED_LATENCY] = float(module.latency.expected(module.architectures()))
    if epoch.consistency_batches:
        measured = consistency(module.model, itertools.islice(iter(epoch.validation), epoch.consistency_batches))
        metrics |= {DERIVED_ACCURACY: measured.derived, CONSISTENCY_GAP: measured.gap}
    if epoch.hessian:
        images, labels = next(iter(epoch.validation))
        metrics[HESSIAN] = architecture_eigenvalue(module, images, labels)
    return metrics


def _decision(module: BilevelModule, epoch: EpochEnd) -> Metrics:
    """Return how far alpha has decided, over all edges and by kind of cell."""
    by_kind: dict[str, list[torch.Tensor]] = {}
    for architecture in module.architectures():
        by_kind.setdefault(architecture.label.split("/")[0], []).append(architecture.probabilities())
    tables = [table for found in by_kind.values() for table in found]
    edges = sum(len(table) for table in tables)
    found = signs(epoch.genotype, {kind: torch.cat(by_kind[kind]) for kind in epoch.genotype.cells})
    initial = Genotype.from_sample(module.initial_sample, epoch.genotype.space)
    return {
        DECIDED: sum(decidedness(table) * len(table) for table in tables) / edges,
        ALPHA_ENTROPY: sum(mean_entropy(table) * len(table) for table in tables) / edges,
        ALPHA_GAP: sum(mean_gap(table) * len(table) for table in tables) / edges,
        CHANGED_SINCE_INITIAL: share_changed(epoch.genotype, initial),
        **{
            Metric(name, "sign of collapse of one kind of cell", on_line=False, on_page=False): value
            for name, value in to_metrics(found).items()
        },
    }
