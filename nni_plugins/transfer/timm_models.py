"""Found networks under a name in timm, the library of image models; needs ``pip install nni-plugins[timm]``.

What takes timm's models then takes ours: ``features_only=True`` with ``out_indices``, other classes and other image
channels, weights with ``pretrained=True``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from nni_plugins.deploy.result_folder import WEIGHTS_FILE
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.initial_weights import InitialWeights
from nni_plugins.run.networks import build_net
from nni_plugins.run.result import RecordedShape, load_net
from nni_plugins.run.settings import Settings
from nni_plugins.transfer.backbone import drop_heads, tapped
from search_spaces import Genotype


class TimmModel(nn.Module):
    """A network of a search space with the methods that timm expects of a model.

    It has no auxiliary head, as timm trains on one output.

    Parameters
    ----------
    genotype, settings
        As in :func:`nni_plugins.run.networks.build_net`.
    image_size
        Side of the images in pixels, which decides on the stem.
    num_classes
        Classes to tell apart; with 0 the model returns features.
    in_chans
        Channels of the images.
    """

    def __init__(
        self, genotype: Genotype, settings: Settings, image_size: int, *, num_classes: int, in_chans: int
    ) -> None:
        super().__init__()
        shape = RecordedShape(max(num_classes, 2), in_chans, image_size)
        self.net = cast(Any, build_net(genotype, settings, shape))
        self.net.auxiliary_head = None
        self.num_features = self.head_hidden_size = self.net.classifier.in_features
        self.feature_info = [
            {"num_chs": tap.channels, "reduction": tap.stride, "module": f"stride{tap.stride}"}
            for tap in tapped(self.net).taps
        ]
        self.num_classes = num_classes
        if num_classes < 2:  # which no search space has
            self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the layer that gives logits."""
        return self.net.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the model a new classifier; with 0 classes it returns features.

        Raises
        ------
        ValueError
            If another pooling than the average is asked for.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool must be avg, which these networks have, got {global_pool!r}.")
        self.num_classes = num_classes
        self.net.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes), or with 0 classes what the classifier reads, (batch, num_features)."""
        return self.net(images)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what feature maps do not need, as timm asks of a backbone, and return the numbers of the maps.

        Parameters
        ----------
        indices
            As in :meth:`forward_intermediates`.
        prune_norm, prune_head
            As timm passes them: there is no last normalisation to remove, and the heads are.

        Raises
        ------
        ValueError
            If there is no such map.
        """
        del prune_norm
        if prune_head:
            drop_heads(self.net)
        return self._map_numbers(indices)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        **_: Any,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps, those of :attr:`feature_info` that ``indices`` names.

        Parameters
        ----------
        images
            (batch, in_chans, height, width).
        indices
            Numbers from 0, the finest; a single number n means the last n; None means all.
        norm, output_fmt
            As timm passes them: there is no last normalisation, and maps are (batch, channels, height, width).
        intermediates_only
            Leave out the last map, which otherwise precedes the list.

        Raises
        ------
        ValueError
            If another format, or a map that there is not, is asked for.
        """
        del norm
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt!r}.")
        maps = list(self.net.forward_features(images).values())
        chosen = [maps[number] for number in self._map_numbers(indices)]
        return chosen if intermediates_only else (maps[-1], chosen)

    def _map_numbers(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return the numbers of feature maps from 0: all for None, the last n for a number, else those given."""
        numbers = range(len(self.feature_info))
        if indices is None:
            return list(numbers)
        if isinstance(indices, int) and 0 < indices <= len(numbers):
            return list(numbers[-indices:])
        if not isinstance(indices, int) and all(-len(numbers) <= index < len(numbers) for index in indices):
            return [numbers[index] for index in indices]
        raise ValueError(f"This network has {len(numbers)} feature maps, 0 to {len(numbers) - 1}, got {indices!r}.")


def register(name: str, folder: str | Path) -> None:
    """Make ``timm.create_model(name)`` build the network of a result folder.

    Parameters
    ----------
    name
        A Python identifier in lower case that timm does not have.
    folder
        What ``nni-plugins search`` or ``retrain``, or a trial, has made. ``pretrained=True`` loads its weights, which
        are checked against their checksum now.

    Raises
    ------
    ModuleNotFoundError
        If timm is not installed.
    FileNotFoundError
        If the folder lacks one of the files.
    ValueError
        If the name cannot be one or is taken; if a file is damaged; if the network has no taps.
    """
    try:
        import timm
        from timm.models import build_model_with_cfg, register_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"timm is missing ({error}); install it: pip install nni-plugins[timm]") from None
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"A model's name is an identifier in lower case such as found_on_digits, got {name!r}.")
    if timm.is_model(name):
        raise ValueError(f"timm has a model {name!r} already; choose another name.")
    taps = tapped(load_net(folder)).taps
    initial, report = InitialWeights.of(folder), read_report(folder)
    settings, data = Settings.from_dict(report["settings"]), report["data"]
    of_the_folder = {
        "file": str((Path(folder) / WEIGHTS_FILE).resolve()),
        "input_size": (data["in_channels"], data["image_size"], data["image_size"]),
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "interpolation": "bilinear",
        "num_classes": data["classes"],
        "first_conv": f"net.{initial.stem}",
        "classifier": "net.classifier",
    }

    def create(pretrained: bool = False, pretrained_cfg: Any = None, **arguments: Any) -> nn.Module:
        return build_model_with_cfg(
            TimmModel,
            name,
            pretrained,
            pretrained_cfg=pretrained_cfg or of_the_folder,
            feature_cfg={"feature_cls": "getter", "out_indices": tuple(range(len(taps)))},
            pretrained_filter_fn=_as_in_timm,
            genotype=initial.genotype,
            settings=settings,
            image_size=data["image_size"],
            **arguments,
        )

    create.__name__ = name
    register_model(create)


def _as_in_timm(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a result folder by their names in :class:`TimmModel`."""
    del model
    return {f"net.{name}": tensor for name, tensor in weights.items() if not name.startswith("auxiliary_head.")}
