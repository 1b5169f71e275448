"""A long measurement in pieces: each has a process of its own, is kept when it is done, and resumes if interrupted."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nni_plugins.tools.atomic_files import atomic_write, strict_json


class TimeIsUp(Exception):
    """The hours that the run was given are over."""


class Clock:
    """CPU seconds of a piece, those of interrupted processes included, up to the last epoch that each finished."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "cpu_seconds"
        self._before = float(self._file.read_text()) if self._file.is_file() else 0.0
        self._started = time.process_time()

    def seconds(self) -> float:
        return self._before + time.process_time() - self._started

    def keep(self, _: Any = None) -> None:
        atomic_write(self._file, str(self.seconds()))


Work = Callable[[Path, Clock], Mapping[str, Any]]
"""From the folder of a piece's checkpoints and its clock to its outcome, as JSON values."""


class Pieces:
    """Outcomes on disk, by name.

    Parameters
    ----------
    output
        Outcomes lie in its sub-folder ``pieces``, checkpoints of what is not done in ``work``.
    hours
        When to stop; None for never.

    Attributes
    ----------
    failed
        Names of pieces whose process has failed.
    """

    def __init__(self, output: Path, hours: float | None = None) -> None:
        self._output = output
        self._ends = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.failed: list[str] = []

    def file_of(self, name: str) -> Path:
        return self._output / "pieces" / f"{name}.json"

    def outcome(self, name: str) -> dict[str, Any] | None:
        """Return what came out of a piece; None if it is not done."""
        path = self.file_of(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def do(self, name: str, work: Work) -> None:
        """Do a piece, unless it is done or has failed.

        Raises
        ------
        TimeIsUp
            When the hours are over; the piece resumes next time.
        """
        path, folder = self.file_of(name), self._output / "work" / name
        if path.is_file() or name in self.failed:
            return
        if time.monotonic() >= self._ends:
            raise TimeIsUp
        print(name, flush=True)
        started = time.monotonic()
        # forked, since importing torch and NNI anew takes as long as a small training; one thread forks safely
        process = multiprocessing.get_context("fork").Process(target=_do, args=(work, path, folder))
        process.start()
        process.join(None if self._ends == math.inf else max(0.0, self._ends - time.monotonic()))
        if process.is_alive():
            process.terminate()
            process.join()
            raise TimeIsUp
        if process.exitcode:
            self.failed.append(name)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)


class Measurement(Protocol):
    """All pieces of a benchmark."""

    done: Pieces

    def run(self) -> None:
        """Do what is not done, until the hours are over (TimeIsUp)."""


AnyMeasurement = TypeVar("AnyMeasurement", bound=Measurement)


def run_to_results(make: Callable[[], AnyMeasurement], write_results: Callable[[AnyMeasurement], Path]) -> int:
    """Do what is left of a measurement, write and print what there is; return the exit status."""
    try:
        measurement = make()
        try:
            measurement.run()
        except TimeIsUp:
            print("The hours are over; the same command resumes.")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(write_results(measurement).read_text())
    for name in measurement.done.failed:
        print(f"{name} failed, see above; the same command tries it again.", file=sys.stderr)
    return int(bool(measurement.done.failed))


def _do(work: Work, path: Path, folder: Path) -> None:
    atomic_write(path, strict_json(work(folder, Clock(folder))) + "\n")
    shutil.rmtree(folder)
