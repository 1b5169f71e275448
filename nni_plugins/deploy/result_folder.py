"""What a result folder consists of, and when one may be written. Imports neither torch nor NNI."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nni_plugins.tools.atomic_files import atomic_directory, refuse_existing_folder

GENOTYPE_FILE = "genotype.json"
CELLS_FILE = "cells.svg"
HISTORY_FILE = "history.svg"
WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.onnx"
REFERENCE_FILE = "reference.npz"
STANDALONE_FILE = "standalone.onnx"
STANDALONE_REFERENCE_FILE = "standalone.npz"
REPORT_FILE = "report.json"
VARIANTS_FOLDER = "variants"
"""Made later, of the model in the folder: a new model drops it."""
VARIANTS_FILE = "variants.json"
"""In :data:`VARIANTS_FOLDER`."""
PAGE_FILE = "report.html"
RESULT_FILES = (
    GENOTYPE_FILE,
    CELLS_FILE,
    HISTORY_FILE,
    WEIGHTS_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    STANDALONE_FILE,
    STANDALONE_REFERENCE_FILE,
    REPORT_FILE,
    VARIANTS_FOLDER,
    PAGE_FILE,
)


def refuse_existing_result(folder: str | Path, *, force: bool = False) -> Path:
    """Return ``folder`` if a result may be written there, to be asked before any work is done.

    Parameters
    ----------
    folder
        Where the result is to lie.
    force
        Allow a folder that holds a result already; only the files of the result are replaced then.

    Raises
    ------
    FileExistsError
        If it exists and ``force`` is not set; if it holds other things and no result, in any case.
    """
    return refuse_existing_folder(folder, ours=RESULT_FILES, mark=REPORT_FILE, force=force)


def new_result(folder: str | Path, *, force: bool = False) -> contextlib.AbstractContextManager[Path]:
    """Collect a result in a temporary folder that becomes ``folder`` only if the block ends well.

    Parameters and errors as :func:`refuse_existing_result`.
    """
    return atomic_directory(folder, ours=RESULT_FILES, mark=REPORT_FILE, force=force)
