"""Memory that is freed and asked for again, thousands of times a step.

The C library gives a large block back to the system as soon as it is freed, and the system hands out the next one page
by page, filled with zeros. For a step that keeps hundreds of features of a megabyte each that takes as long as the
arithmetic. What is freed is kept here for the next block; a process that has once been large stays so.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of these parameters in glibc's malloc.h."""

_LARGEST_BLOCK = 32 * 1024**2
"""The highest threshold that glibc takes; larger blocks still come from the system."""


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed; return whether it is one that can (glibc, on Linux)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
