"""The NNI experiments of this machine: those that its manifest lists, and those whose manager runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nni_plugins.experiment.leftovers import managers


def home() -> Path:
    """Return NNI's folder on this machine."""
    return Path.home() / "nni-experiments"


def known_experiments() -> Mapping[str, Any]:
    """Return what NNI's manifest says of each experiment of this machine, by its name, the oldest first."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return dict(json.loads((home() / ".experiment").read_text()))
    return {}


@dataclass(frozen=True)
class Manager:
    """A running manager of NNI: its process, and the port that it serves its page at."""

    process: psutil.Process
    port: int


def running_managers() -> Mapping[str, Manager]:
    """Return the managers that run on this machine, by their experiment's name."""
    found = {}
    for process, name in managers():
        with contextlib.suppress(psutil.Error, ValueError, IndexError):
            words = process.cmdline()
            found[name] = Manager(process, int(words[words.index("--port") + 1]))
    return found
