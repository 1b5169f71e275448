"""Weights of one data set as the start on another: intra-task transfer [RelativeNAS, arXiv 2009.06193, section V]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nni_plugins.run.genotypes import read_report
from nni_plugins.run.networks import DataShape
from nni_plugins.run.result import load_net
from search_spaces import Genotype


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """The weights of a result folder, with which another training of the same network begins.

    Parameters
    ----------
    folder, sha256
        Where they lie, and the SHA-256 of the file.
    genotype
        The cell that they belong to.
    tensors
        By name, as in a ``state_dict``.
    classifiers
        Names of the linear layers that give the classes of the data that they were trained on.
    stem, in_channels
        Name of the convolution that reads images, and their channels.
    """

    folder: str
    sha256: str
    genotype: Genotype
    tensors: Mapping[str, Tensor]
    classifiers: tuple[str, ...]
    stem: str | None
    in_channels: int

    @classmethod
    def of(cls, folder: str | Path) -> InitialWeights:
        """Return the weights of a result folder.

        Raises
        ------
        FileNotFoundError, ValueError
            As :func:`nni_plugins.run.result.load_net`.
        """
        net, report = load_net(folder), read_report(folder)
        classes, in_channels = report["data"]["classes"], report["data"]["in_channels"]
        modules = dict(net.named_modules())
        stems = (name for name, m in modules.items() if isinstance(m, nn.Conv2d) and m.in_channels == in_channels)
        return cls(
            str(folder),
            report["weights_sha256"],
            Genotype.load(Path(folder) / "genotype.json"),
            net.state_dict(),
            tuple(name for name, m in modules.items() if isinstance(m, nn.Linear) and m.out_features == classes),
            next(stems, None),
            in_channels,
        )

    def not_taken(self, data: DataShape) -> tuple[str, ...]:
        """Return the names of the layers that start anew on ``data``.

        Those are the classifiers, whose classes are of other data even where there are as many, and the convolution
        that reads images, where theirs have other channels. Not stated in the paper; we take all the rest.
        """
        stem = () if self.stem is None or data.in_channels == self.in_channels else (self.stem,)
        return (*stem, *self.classifiers)

    def sentence(self, data: DataShape) -> str:
        """Return in one line what a training on ``data`` takes and what it does not."""
        return f"The weights start as in {self.folder}; those of {' and '.join(self.not_taken(data))} start anew."

    def load_into(self, net: nn.Module, genotype: Genotype, data: DataShape) -> None:
        """Give ``net``, the network of ``genotype`` for ``data``, all weights but those that are not taken.

        Raises
        ------
        ValueError
            If they belong to another cell, or to a network of another size.
        """
        if genotype != self.genotype:
            raise ValueError(
                f"The weights in {self.folder} are those of another cell; give a folder of the cell that is to be "
                f"trained, or train that one: nni-plugins retrain {self.folder} --from {self.folder}."
            )
        left = self.not_taken(data)
        taken, wanted = (
            {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in left}
            for tensors in (self.tensors, net.state_dict())
        )
        for name in (*wanted, *taken):
            there, here = (list(each[name].shape) if name in each else "missing" for each in (taken, wanted))
            if there != here:
                raise ValueError(
                    f"The weights in {self.folder} are those of a network of another size ({name} is {there} there and "
                    f"{here} here); set the sizes of that one, net_arguments in its report.json, with --set net.*, and "
                    "take images for the same stem."
                )
        net.load_state_dict(taken, strict=False)

    def record(self, data: DataShape) -> dict[str, Any]:
        """Return what ``report.json`` says of them."""
        return {"folder": self.folder, "weights_sha256": self.sha256, "not_taken": list(self.not_taken(data))}
