"""Classes of picture files by the stand-alone graph of a result folder. Needs numpy, onnxruntime and Pillow alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nni_plugins.data.pictures import colour_mode, opened
from nni_plugins.deploy.result_folder import STANDALONE_FILE
from nni_plugins.deploy.session import Unusable, open_session, run_model


class Prediction(NamedTuple):
    """One class of a picture."""

    number: int
    """The label, from 0."""
    name: str
    probability: float


class Predictor:
    """The stand-alone graph of a result folder, ready for pictures.

    Parameters
    ----------
    folder
        Result folder with ``standalone.onnx``.
    threads
        Threads that onnxruntime may use.

    Raises
    ------
    Unusable
        If there is no such folder or no such file in it, or it cannot be loaded.
    ValueError
        If the network takes neither grey nor colour pictures.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        file = Path(folder) / STANDALONE_FILE
        if not file.is_file():
            raise Unusable(
                f"{folder} has no {STANDALONE_FILE}; give a result folder, or make one with it of an older result: "
                f"nni-plugins export {folder} --out NEW."
            )
        self._session = open_session(str(file), threads, name=str(file))
        try:
            self.class_names: list[str] = json.loads(self._session.get_modelmeta().custom_metadata_map["class_names"])
        except (KeyError, json.JSONDecodeError):
            raise Unusable(f"{file} is not a stand-alone graph of an export; export the result again.") from None
        self._mode = colour_mode(self._session.get_inputs()[0].shape[3])

    def __call__(self, picture: str | Path, *, top: int = 3) -> list[Prediction]:
        """Return the ``top`` most probable classes of a picture file, the most probable first.

        Raises
        ------
        nni_plugins.data.pictures.UnreadablePicture
            If the file is missing, damaged or no picture.
        """
        with opened(picture) as image:
            pixels = np.asarray(image.convert(self._mode))
        pixels = pixels.reshape(1, *pixels.shape[:2], -1)
        probabilities = run_model(self._session, pixels, name=STANDALONE_FILE)[0]
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(int(each), self.class_names[each], float(probabilities[each])) for each in order]
