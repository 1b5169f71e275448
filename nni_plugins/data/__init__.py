"""Images for searches and retrainings: sets, splits, augmentation, and loaders that stay on the device."""

from __future__ import annotations

from nni_plugins.data.augmentation import Augmentation
from nni_plugins.data.image_set import ImageSet
from nni_plugins.data.images import ImageData
from nni_plugins.data.loaders import DeviceLoader, EpochLoader
from nni_plugins.data.sources import DATA_SETS, load_data
from nni_plugins.data.splits import SearchLoaders, retrain_loaders, search_loaders, split_halves
from nni_plugins.data.streamed import StreamedImages

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
