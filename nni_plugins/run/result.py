"""A result folder as a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nni_plugins.deploy.export import load_weights
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.networks import build_net
from nni_plugins.run.settings import Settings
from search_spaces import Genotype


@dataclass(frozen=True)
class RecordedShape:
    """What ``report.json`` says of the data: as much as a network needs to be built."""

    num_classes: int
    in_channels: int
    image_size: int


def load_net(folder: str | Path) -> nn.Module:
    """Return the trained network of a result folder, on the CPU and in evaluation mode.

    It takes images as ``docs/how-to/using_a_result.md`` prepares them and returns logits, (batch, classes); a network
    with an auxiliary head returns two of them in training mode. A space of your own has to be allowed first:
    ``nni_plugins.tools.own_code.allow("my_module:MySpace", "search space")``.

    Parameters
    ----------
    folder
        What ``nni-plugins search`` or ``retrain``, or a trial, has made.

    Raises
    ------
    FileNotFoundError
        If the folder lacks one of the files.
    ValueError
        If a file is damaged or does not fit the others.
    """
    folder = Path(folder)
    for name in ("genotype.json", "weights.safetensors", "report.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; give a folder that search or retrain has made.")
    report = read_report(folder)
    weights = load_weights(folder, report)
    try:
        recorded = report["data"]
        shape = RecordedShape(recorded["classes"], recorded["in_channels"], recorded["image_size"])
        net = build_net(Genotype.load(folder / "genotype.json"), Settings.from_dict(report["settings"]), shape)
        net.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"The files of {folder} do not belong together ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "restore the folder from a copy."
        ) from None
    return net.eval()
