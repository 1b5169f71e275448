"""The error of a training that has diverged, apart from the code that notices it, which needs torch."""

from __future__ import annotations


class Diverged(RuntimeError):
    """A loss is not finite."""
