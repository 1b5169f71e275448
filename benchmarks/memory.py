"""Peak memory above what was held at the start: of the GPU where there is one, else of this process (Linux)."""

from __future__ import annotations

from pathlib import Path

import torch


class PeakMemory:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak that the kernel keeps
            self._before = resident_mb()

    def mb(self) -> float:
        """Return the MB at the peak so far, above those at the start."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._cuda else _resident("VmHWM")
        return peak - self._before


def resident_mb() -> float:
    """Return the MB that this process holds now."""
    return _resident("VmRSS")


def _resident(field: str) -> float:
    """Return a memory figure of this process in MB, from the kernel."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024
