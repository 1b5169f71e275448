"""A batch too large for the memory is one sentence with the batch size to try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nni_plugins.run.out_of_memory import advising_a_smaller_batch

ON_THE_CPU = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8589934592 bytes. Error code 12 (Cannot allocate memory)"
)
ON_A_GPU = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.2 GiB is free."
)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError(ON_A_GPU), "The GPU's memory"),
        (RuntimeError(f"OutOfMemoryError: {ON_A_GPU}"), "The GPU's memory"),  # as it comes from a rank
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "The GPU's memory"),
        (RuntimeError(ON_THE_CPU), "Memory"),
        (MemoryError("Unable to allocate 8.00 GiB for an array"), "Memory"),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, memory: str) -> None:
    sentence = f"^{memory} ran out in the search with batch_size=96; try batch_size=32, which is a different run"
    with pytest.raises(MemoryError, match=sentence) as raised, advising_a_smaller_batch("search", "batch_size", 96):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(("batch_size", "smaller"), [(256, 128), (129, 64), (127, 32), (3, 1), (2, 1)])
def test_the_batch_size_to_try_is_a_power_of_two(batch_size: int, smaller: int) -> None:
    with (
        pytest.raises(MemoryError, match=rf"retrain\.batch_size={batch_size}; try retrain\.batch_size={smaller}, "),
        advising_a_smaller_batch("retraining", "retrain.batch_size", batch_size),
    ):
        raise MemoryError


def test_a_single_image_cannot_be_halved() -> None:
    with pytest.raises(MemoryError, match="a smaller network"), advising_a_smaller_batch("search", "batch_size", 1):
        raise MemoryError


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("alloc_cpu")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, advising_a_smaller_batch("search", "batch_size", 96):
        raise error
    assert raised.value is error


# For real: the address space of a process is limited once all is imported

LIMITED = """
import resource, sys
from nni_plugins import cli, trial
from nni_plugins.deploy import check
from nni_plugins.run import pipeline

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
door, *words = sys.argv[1:]
sys.exit({"cli": cli, "trial": trial}[door].main(words))
"""

LARGE = ["batch_size=64", "space.channels=64"]
LARGE_RETRAINING = ["retrain.batch_size=64", "net.channels=64", "net.deep_cells=0", "net.enhancement_cells=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of 64x64, of which a batch has large feature maps."""
    path = tmp_path_factory.mktemp("data") / "large.npz"
    images, labels = np.zeros((128, 64, 64), np.uint8), np.arange(128) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    return f"npz:{path}"


def limited(door: str, *words: str, settings: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, door, *words, *(word for each in settings for word in ("--set", each))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
@pytest.mark.parametrize("warmup_epochs", [0, 1])  # the first step is one of the architecture, or of the weights
def test_a_search_out_of_memory(warmup_epochs: int, data: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    settings = [*LARGE, "epochs=2", f"warmup_epochs={warmup_epochs}"]
    ended = limited("cli", "search", "--data", data, "--out", out, settings=settings)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    sentence = "nni-plugins: Memory ran out in the search with batch_size=64; try batch_size=32, which is "
    assert ended.stderr.splitlines()[-1].startswith(sentence)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_a_retraining_out_of_memory(data: str, tmp_path: Path) -> None:
    words = ("retrain", "bnas_v2_clr_v1", "--data", data, "--out", str(tmp_path / "out"))
    ended = limited("cli", *words, settings=LARGE_RETRAINING)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    sentence = "nni-plugins: Memory ran out in the retraining with retrain.batch_size=64; try retrain.batch_size=32, "
    assert ended.stderr.splitlines()[-1].startswith(sentence)
