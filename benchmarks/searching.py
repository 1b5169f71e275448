"""What the benchmarks that search have in common: arguments, data, and what they keep of a search."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from nni_plugins.data import ImageData, load_data
from nni_plugins.methods.metric import ALPHA_GAP, DECIDED
from nni_plugins.tools.console import quiet_libraries
from nni_plugins.tools.own_code import allow


def prepare(*strategies: str) -> None:
    """Make this process and those forked from it able to search: quiet, one thread, ``module:NAME`` as strategies."""
    warnings.simplefilter("ignore")
    quiet_libraries()
    logging.getLogger("nni").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in strategies:
        allow(name, "strategy")


def search_arguments(description: str, *, several: Sequence[str] = (), **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser of the arguments of a search.

    Parameters
    ----------
    description
        Of the script.
    several
        Which of ``size`` and ``channels`` take several values.
    **defaults
        Size, channels, epochs and lr.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", help="data set, as nni-plugins takes it: npz:FILE, cifar10, digits, ...")
    parser.add_argument("--images", type=int, help="training images used (default: all)")
    parser.add_argument(
        "--size", type=int, nargs="+" if "size" in several else None, help="side to which images are scaled"
    )
    parser.add_argument("--channels", type=int, nargs="+" if "channels" in several else None, help="C")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, help="learning rate of the weights")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.set_defaults(**defaults)
    return parser


def small_images(arguments: argparse.Namespace) -> ImageData:
    """Return the set with its first ``images`` training images, all scaled to ``size``.

    Raises
    ------
    ValueError
        If the set is not held in memory.
    """
    data = load_data(arguments.data)
    if not isinstance(data, ImageData):
        raise ValueError(f"{arguments.data} is read from disk image by image; give a set that is held in memory.")

    def scaled(images: torch.Tensor) -> torch.Tensor:
        return F.interpolate(images.float(), size=(arguments.size,) * 2, mode="area").round().byte()

    first = slice(arguments.images)
    x_train, y_train = data.x_train[first], data.y_train[first]
    return replace(data, x_train=scaled(x_train), y_train=y_train, x_test=scaled(data.x_test))


def decision(history: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return how far a search has decided after its last epoch; None for what its method does not measure."""
    return {"decided": history[-1].get(DECIDED.name), "gap": history[-1].get(ALPHA_GAP.name)}


def without_cells(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics of every epoch, without its cell."""
    return [{name: value for name, value in epoch.items() if name != "genotype"} for epoch in history]
