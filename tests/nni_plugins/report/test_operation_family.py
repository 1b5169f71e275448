"""Families of operations and their order."""

from __future__ import annotations

import pytest

from nni_plugins.report.operation_family import in_order, operation_family


@pytest.mark.parametrize(
    ("operation", "family"),
    [
        ("sep_conv_5x5", "separable convolution"),
        ("dil_conv_3x3", "dilated convolution"),
        ("conv_1x1", "convolution"),
        ("max_pool_3x3", "pooling"),
        ("skip_connect", "skip connection"),
        ("none", "none"),
        ("attention", "other"),
    ],
)
def test_family(operation: str, family: str) -> None:
    assert operation_family(operation) == family


def test_order_is_by_family_then_as_in_darts_then_by_name() -> None:
    names = ["skip_connect", "noise", "dil_conv_3x3", "conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3"]
    assert in_order([*names, "sep_conv_3x3", "conv_1x1", "skip_connect"]) == [
        "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "conv_1x1", "conv_3x3", "max_pool_3x3", "avg_pool_3x3",
        "skip_connect", "noise",
    ]  # fmt: skip
