"""What tests of several packages share."""

from __future__ import annotations

import os

# Two processes of two threads each are up to 50 times slower on two cores. Before torch is imported, and for children.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def nni_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder in which NNI lists its experiments; their own folder is for the test to set."""
    monkeypatch.setattr("nni.tools.nnictl.config_utils.Experiments.__init__.__defaults__", (str(tmp_path),))
    return tmp_path


@pytest.fixture
def room() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """``room(n)``: inside the block no file may grow beyond n bytes, so that the operating system refuses writes."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # An import inside the block would leave the half of its bytecode in a cache, for all processes to come.
        writes_bytecode, sys.dont_write_bytecode = not sys.dont_write_bytecode, True
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            sys.dont_write_bytecode = not writes_bytecode

    return limited


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``--data`` text of 128 + 64 images of 8x8 in two classes, dark and bright."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, number in (("train", 128), ("test", 64)):
        labels = np.arange(number) % 2
        arrays[f"x_{split}"] = (rng.integers(0, 90, (number, 8, 8)) + 150 * labels[:, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"
