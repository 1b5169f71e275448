"""Images for searches and retrainings: sets, splits, augmentation, and loaders that stay on the device.

What needs torch is imported when it is first used, so that names of data sets are known without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_plugins.data.augmentation import Augmentation
    from nni_plugins.data.image_set import ImageSet
    from nni_plugins.data.images import ImageData
    from nni_plugins.data.loaders import DeviceLoader, EpochLoader
    from nni_plugins.data.sources import DATA_SETS, load_data
    from nni_plugins.data.splits import SearchLoaders, retrain_loaders, search_loaders, split_halves
    from nni_plugins.data.streamed import StreamedImages

_WHERE = {
    "DATA_SETS": "sources",
    "Augmentation": "augmentation",
    "DeviceLoader": "loaders",
    "EpochLoader": "loaders",
    "ImageData": "images",
    "ImageSet": "image_set",
    "SearchLoaders": "splits",
    "StreamedImages": "streamed",
    "load_data": "sources",
    "retrain_loaders": "splits",
    "search_loaders": "splits",
    "split_halves": "splits",
}

__all__ = [
    "DATA_SETS",
    "Augmentation",
    "DeviceLoader",
    "EpochLoader",
    "ImageData",
    "ImageSet",
    "SearchLoaders",
    "StreamedImages",
    "load_data",
    "retrain_loaders",
    "search_loaders",
    "split_halves",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
