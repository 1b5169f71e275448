"""Models in onnxruntime, with one sentence for each file that cannot be used. Needs numpy and onnxruntime alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

PROVIDER = "CPUExecutionProvider"


class Unusable(ValueError):
    """A file of a result folder that cannot be used; the text says why and what to do."""


def open_session(
    model: bytes | str,
    threads: int,
    *,
    name: str = "the model",
    provider: str = PROVIDER,
    profile: str | None = None,
) -> onnxruntime.InferenceSession:
    """Return an onnxruntime session.

    Parameters
    ----------
    model
        Bytes or path.
    threads
        Threads that an operator may use.
    name
        What messages call the model.
    provider
        Execution provider; what it cannot compute is left to the CPU.
    profile
        Path that the file of onnxruntime's profiler begins with, or None not to profile.

    Raises
    ------
    Unusable
        If onnxruntime does not load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(dict.fromkeys((provider, PROVIDER))))
    except Exception as error:
        raise Unusable(f"onnxruntime does not load {name}: {first_line(error)}") from error


def run_model(
    session: onnxruntime.InferenceSession, images: np.ndarray, batch_size: int = 64, *, name: str = "the model"
) -> np.ndarray:
    """Return the one output of a model for the rows of ``images``, ``batch_size`` at a time.

    For ``model.onnx`` these are the logits (N, classes) of normalised float32 images (N, C, H, W).

    Raises
    ------
    Unusable
        If onnxruntime cannot run it.
    """
    entry = session.get_inputs()[0].name
    try:
        batches = [
            session.run(None, {entry: images[start : start + batch_size]})[0]
            for start in range(0, len(images), batch_size)
        ]
    except Exception as error:
        raise Unusable(f"onnxruntime cannot run {name} at batch {batch_size}: {first_line(error)}") from error
    return np.concatenate(batches)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of a result folder.

    Raises
    ------
    Unusable
        If it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Unusable(f"{path} is missing; give a folder that an export wrote, or export again.") from error
    except OSError as error:
        raise Unusable(f"{path} cannot be read ({error.strerror}).") from error


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return all arrays of an ``.npz`` file without executing anything in it.

    Raises
    ------
    Unusable
        If it is missing, damaged or lacks one of ``names``.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:
        raise Unusable(f"{path} is damaged ({first_line(error)}); export the result again.") from error
    if missing := [name for name in names if name not in arrays]:
        raise Unusable(f"{path} lacks {', '.join(missing)}; export the result again.")
    return arrays


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
