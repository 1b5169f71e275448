"""Families of operations: their colours and their order in every picture."""

from __future__ import annotations

from collections.abc import Iterable

from search_spaces.operation_names import DARTS_OPERATIONS

FAMILIES = {
    "separable convolution": ("#dbe9fb", "#2f6db5"),
    "dilated convolution": ("#e7defa", "#7146b8"),
    "convolution": ("#d8f1f0", "#17807b"),
    "pooling": ("#fde8d2", "#c26a12"),
    "skip connection": ("#def2dc", "#3b8a36"),
    "none": ("#f0f0f0", "#8a8a8a"),
    "other": ("#f9dfe6", "#b03a5b"),
}
"""Family of operations: fill and line colour."""


def operation_family(operation: str) -> str:
    """Return the family of an operation, which decides its colour and its place in the legend."""
    if operation.startswith("sep_conv"):
        return "separable convolution"
    if operation.startswith("dil_conv"):
        return "dilated convolution"
    if "conv" in operation:
        return "convolution"
    if "pool" in operation:
        return "pooling"
    if operation.startswith(("skip", "identity")):
        return "skip connection"
    return "none" if operation == "none" else "other"


def in_order(operations: Iterable[str]) -> list[str]:
    """Return the different operations by family, within a family in the order of DARTS, the others by name."""
    return sorted(set(operations), key=lambda name: (list(FAMILIES).index(operation_family(name)), _number(name), name))


def _number(operation: str) -> int:
    return DARTS_OPERATIONS.index(operation) if operation in DARTS_OPERATIONS else len(DARTS_OPERATIONS)
