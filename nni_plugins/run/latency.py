"""Latency in a run: the settings' table, checked against the run's evaluation network, and what a report says of it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from nni_plugins.deploy.latency import cells_of, machine, measure_table, network_ms, random_genotypes
from nni_plugins.methods.latency import LatencyPenalty
from nni_plugins.report.latency_table import LatencyTable
from nni_plugins.run.networks import DataShape, build_net
from nni_plugins.run.settings import Settings
from search_spaces import Genotype
from search_spaces.registry import space_names

_logger = logging.getLogger(__name__)


def measure(settings: Settings, data: DataShape, *, networks: int = 8, runs: int = 400) -> LatencyTable:
    """Measure the table of the settings' evaluation networks on this machine.

    Parameters
    ----------
    settings, data
        Space, sizes of the network, shape of the images.
    networks
        Whole networks that what is fixed is fitted to.
    runs
        Runs of every network; the fastest counts.

    Raises
    ------
    ValueError
        If the space is not registered, has no cells, or the measurements do not fit together.
    """
    _refuse_own_space(settings.space)
    return measure_table(
        settings.space,
        lambda genotype: build_net(genotype, settings, data),
        random_genotypes(settings.space, networks, settings.seed),
        in_channels=data.in_channels,
        image_size=data.image_size,
        runs=runs,
    )


def load_table(settings: Settings, data: DataShape) -> LatencyTable | None:
    """Return the settings' table, None if they name none.

    A table of another machine is taken, for a network is often searched for another than the one that searches; a
    warning says it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no table, or one of other networks than this run's.
    """
    path = settings.search.latency_table
    if path is None:
        return None
    table = LatencyTable.load(path)
    _refuse_own_space(settings.space)
    net = build_net(random_genotypes(settings.space, 1)[0], settings, data)
    table.refuse_other_network(settings.space, cells_of(net, data.in_channels, data.image_size), source=path)
    if table.machine != machine():
        _logger.warning(
            "%s was measured on %s, and this is %s: latencies are predicted for the former.",
            path,
            table.machine,
            machine(),
        )
    return table


def penalty_of(table: LatencyTable | None, settings: Settings) -> LatencyPenalty | None:
    """Return the settings' penalty, None if latency is not to count."""
    recipe = settings.search
    if table is None or not recipe.latency_weight:
        return None
    return LatencyPenalty(table, recipe.latency_weight, recipe.latency_target)


def latency_report(genotype: Genotype, net: nn.Module, table: LatencyTable, data: DataShape) -> dict[str, Any]:
    """Return predicted and measured latency of a found network, as ``report.json`` has them.

    Returns
    -------
    dict
        ``predicted_ms`` and ``measured_ms`` for one image, the ``error`` of the first relative to the second, and the
        processors they are of. Where these differ, the error is none of the table's, and None.
    """
    predicted = table.predict(genotype)
    example = torch.zeros(1, data.in_channels, data.image_size, data.image_size)
    measured = network_ms([net], example, threads=table.threads)[0]
    here = machine()
    return {
        "predicted_ms": predicted,
        "measured_ms": measured,
        "error": predicted / measured - 1 if here == table.machine else None,
        "table_machine": table.machine,
        "machine": here,
    }


def _refuse_own_space(space: str) -> None:
    if space not in space_names():
        raise ValueError(
            f"A latency table is of a registered space of cells ({', '.join(space_names())}), got {space!r}; leave "
            "latency_table out, or declare the space in a package (CONTRIBUTING.md)."
        )
