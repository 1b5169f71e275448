"""The data sets that ``--data`` knows, by name. Imports neither torch nor NNI."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nni_plugins.tools.own_code import is_own

DATA_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "digits": "embedded",
        "cifar10": "torchvision's",
        "cifar100": "torchvision's",
        "svhn": "torchvision's",
        "mnist": "torchvision's",
        "fashion_mnist": "torchvision's",
    }
)
"""Where each named set comes from."""

OWN_DATA: Mapping[str, str] = MappingProxyType(
    {
        "npz:FILE": "arrays x_train, y_train, x_test, y_test",
        "imagefolder:PATH": "PATH/train/CLASS/*, and PATH/val or PATH/test; PATH@96 for images of 96x96",
        "module:function": "your own function that returns such arrays or an ImageData",
    }
)
"""Forms of a user's own data."""


def refuse_unknown_data(spec: str) -> None:
    """Refuse what is neither the name of a data set nor of a form of a user's own.

    Raises
    ------
    ValueError
        With all that is possible.
    """
    kind, _, place = spec.partition(":")
    if spec not in DATA_NAMES and not (place and f"{kind}:" in ("npz:", "imagefolder:")) and not is_own(spec):
        raise ValueError(f"Unknown data set {spec!r}; expected one of {', '.join((*DATA_NAMES, *OWN_DATA))}.")
