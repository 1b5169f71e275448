"""Kendall's tau between what a supernet says of NAS-Bench-201's cells and what the table does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from nni_plugins.report.nasbench201_table import EDGES, Table
from search_spaces.nasbench201 import CELL


class Cells(NamedTuple):
    """Cells as NNI's samples, and their test accuracies on CIFAR-10 in percent."""

    samples: Sequence[Mapping[str, str]]
    accuracies: Sequence[float]


def drawn_cells(table: Table, number: int) -> Cells:
    """Return cells of the table drawn at random, the same ones whenever it is asked for as many."""
    rows = np.random.default_rng(0).choice(len(table.rows), number, replace=False)
    names = list(table.rows)
    samples = [
        {f"{CELL}/{source}_{target}": operation for (source, target), operation in zip(EDGES, names[row], strict=True)}
        for row in rows
    ]
    return Cells(samples, [float(table.accuracy["cifar10"][table.rows[names[row]]]) for row in rows])


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the accuracy in percent of what ``model`` runs."""
    correct = seen = 0
    for images, labels in batches:
        correct += int((model(images).argmax(1) == labels).sum())
        seen += len(labels)
    return 100 * correct / seen


def tau(scores: Sequence[float], accuracies: Sequence[float]) -> float:
    """Return Kendall's tau; 0 where one side is constant and so ranks nothing."""
    found = float(kendalltau(scores, accuracies).statistic) if len(scores) > 1 else np.nan
    return found if np.isfinite(found) else 0.0
