"""One training on several devices: a process for each, its rank, watched by the process that started them.

The run itself stays in the process that was started, by a person or by NNI: it holds the locks, talks to NNI's manager
and ends the ranks when it ends, however that is. A rank is ``python -m nni_plugins.run.rank``, which is told by a pipe
what to do and tells by it what became of it; it sees one GPU, or computes with its share of the CPU threads. All
messages stay on this machine: ranks find each other by a file, and connect over the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from nni_plugins.data.streamed import available_cpus
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.tools.own_code import allowed_names

Result = TypeVar("Result")

OnEpoch = Callable[[EpochRecord], None]

LAST_WORD = 2.0
"""Seconds between the end of a rank and the complaint of another that it has lost it, at most."""


class Place(NamedTuple):
    """Which of the ranks a process is, and what it needs before it can do anything."""

    rank: int
    ranks: int
    threads: int
    meeting_point: str
    """A file, on which ``torch.distributed`` lets the ranks find each other."""
    own_code: tuple[str, ...]
    """The user's own code that the command line has allowed."""


class Epoch(NamedTuple):
    """Rank 0 has finished an epoch, and waits for an answer before it saves it."""

    record: EpochRecord


class Done(NamedTuple):
    """A rank has finished; what rank 0 returns is the result."""

    result: Any


class Failed(NamedTuple):
    """A rank has raised an exception, and waits to be ended."""

    error: Exception
    traceback: str


def send(connection: Connection, message: Any) -> None:
    """Send a message by value; the connection's own ``send`` would lend tensors from process to process."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """Wait for the next message and return it."""
    return pickle.loads(connection.recv_bytes())


class RankError(Exception):
    """Where in a rank its exception comes from; the cause of the one that is raised here."""


def on_devices(
    devices: int, task: Callable[..., Result], *arguments: Any, on_epoch: OnEpoch | None, what: str
) -> Result:
    """Return ``task(*arguments, on_epoch)``, computed by one process per device; for one device, by this one.

    Parameters
    ----------
    devices
        How many.
    task
        A function of a module that trains with :func:`nni_plugins.run.training.make_trainer`.
    *arguments
        Its arguments but the last; they and the result travel between processes if there are several.
    on_epoch
        Called in this process with every record, before the epoch is saved.
    what
        What it is, for messages.

    Raises
    ------
    ValueError
        If there are not as many devices.
    ChildProcessError
        If a rank has died; the others are ended then.
    Exception
        What ``task`` or ``on_epoch`` raises.
    """
    if devices == 1:
        return task(*arguments, on_epoch)
    refuse_missing_devices(devices)
    with _started(devices, pickle.dumps((task, arguments))) as ranks:
        return _follow(ranks, on_epoch, what)


def refuse_missing_devices(devices: int) -> None:
    """Refuse more devices than this process may use: GPUs, or CPU cores where there is no GPU.

    Raises
    ------
    ValueError
        If there are not as many.
    """
    kind, there_are = ("GPUs", torch.cuda.device_count()) if torch.cuda.is_available() else ("cores", available_cpus())
    if devices > there_are:
        raise ValueError(
            f"devices must be at most {there_are}, the number of {kind} that this process may use, got {devices}; "
            "lower it, or give the process more (in an NNI experiment, trialGpuNumber)."
        )


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection

    def __str__(self) -> str:
        return f"rank {self.number} (process {self.process.pid})"


@contextlib.contextmanager
def _started(ranks: int, task: bytes) -> Iterator[list[_Rank]]:
    """Start the ranks of a task, and end them after the block."""
    threads = max(1, torch.get_num_threads() // ranks)
    started: list[_Rank] = []
    ends_with_us, kept_open = os.pipe()
    with tempfile.TemporaryDirectory(prefix="nni-plugins-") as folder:
        try:
            for number in range(ranks):
                started.append(_start(number, ranks, threads, ends_with_us))
            for rank in started:
                place = Place(rank.number, ranks, threads, str(Path(folder) / "ranks"), allowed_names())
                with contextlib.suppress(ConnectionError):  # a rank that has died already is noticed below
                    send(rank.connection, place)
                    rank.connection.send_bytes(task)
            yield started
        finally:
            os.close(kept_open)
            os.close(ends_with_us)
            for rank in started:
                rank.process.kill()  # it may hang in a message to one that has died; files are written atomically
                rank.process.wait()
                rank.connection.close()


def _start(number: int, ranks: int, threads: int, ends_with_us: int) -> _Rank:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "nni_plugins.run.rank", str(theirs.fileno()), str(ends_with_us)],
            env=_environment(number, ranks, threads),
            pass_fds=(theirs.fileno(), ends_with_us),
            stdin=subprocess.DEVNULL,
            stdout=None if number == 0 else subprocess.DEVNULL,
        )
    return _Rank(number, process, ours)


def _environment(number: int, ranks: int, threads: int) -> dict[str, str]:
    """Return the environment of a rank: without NNI's, whose manager hears this process alone, and with one GPU."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NNI_")}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(gpu) for gpu in range(ranks)] if visible is None else visible.split(",")
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return (
        environment
        | {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OMP_NUM_THREADS": str(threads),
            "GLOO_SOCKET_IFNAME": loopback,
            "NCCL_SOCKET_IFNAME": loopback,
            # as torchrun sets them, each rank a node of its own with one device, the first that it sees
            "RANK": str(number),
            "WORLD_SIZE": str(ranks),
            "GROUP_RANK": str(number),
            "LOCAL_RANK": "0",
        }
        | ({"CUDA_VISIBLE_DEVICES": gpus[number]} if number < len(gpus) else {})
    )


def _follow(ranks: list[_Rank], on_epoch: OnEpoch | None, what: str) -> Any:
    """Return the result of rank 0 once all ranks are done."""
    working = {rank.connection: rank for rank in ranks}
    result = None
    while working:
        # a worker of a rank's data loader may hold the pipe open for a while after the rank has died
        ready = wait(list(working), timeout=1.0)
        for rank in list(working.values()):
            if rank.connection in ready:
                message = _receive(rank)
            elif rank.process.poll() is not None:
                message = None
            else:
                continue
            match message:
                case None:
                    raise _died(rank, len(ranks), what)
                case Epoch(record):
                    if on_epoch is not None:
                        on_epoch(record)
                    with contextlib.suppress(ConnectionError):
                        send(rank.connection, None)
                case Done(value):
                    del working[rank.connection]
                    result = value if rank.number == 0 else result
                case Failed(error, traceback):
                    if isinstance(error, RuntimeError) and (dead := _dead_soon(ranks)):
                        raise _died(dead, len(ranks), what)
                    raise error from RankError(f"in {rank}\n{traceback}")
    return result


def _receive(rank: _Rank) -> Any:
    """Return the next message of a rank; None if it has died."""
    try:
        return receive(rank.connection)
    except (EOFError, ConnectionError):
        return None


def _dead_soon(ranks: list[_Rank]) -> _Rank | None:
    """Return a rank that has died, or dies now: another may know it, as an error of its own, before this process."""
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(LAST_WORD / len(ranks))
            return rank
    return None


def _died(rank: _Rank, ranks: int, what: str) -> ChildProcessError:
    status = rank.process.wait()
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    memory = (
        " (if nobody did that, memory ran out, and a smaller batch_size helps)" if status == -signal.SIGKILL else ""
    )
    return ChildProcessError(
        f"The {what} on {ranks} devices has stopped, because {rank} {how}{memory}; run the same again to resume after "
        "the last finished epoch."
    )
