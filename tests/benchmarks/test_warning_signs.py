"""When a search drops and which sign warned, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from warning_signs import drop_epoch, first_warnings, records


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([90.0, 92.0, 93.0], None),
        ([90.0, 88.0, 87.5, 70.0], 1),
        ([90.0, 85.0, 89.0, 80.0], 3),  # it comes back to within two points once
        ([90.0, 88.1, 88.1], None),
        ([90.0], None),
    ],
)
def test_a_drop_is_for_good(accuracies: list[float], expected: int | None) -> None:
    assert drop_epoch(accuracies) == expected


def history(**metrics: list[float]) -> list[dict[str, Any]]:
    epochs = len(next(iter(metrics.values())))
    quiet = {"skip_connect": 0, "parameter_free": 0, "alpha_gap": 0.0}
    return [
        {**quiet, "epoch": epoch, **{name: values[epoch] for name, values in metrics.items()}}
        for epoch in range(epochs)
    ]


def test_rules_of_one_epoch() -> None:
    found = first_warnings(
        history(skip_connect=[1, 2, 0, 0], parameter_free=[3, 3, 3, 4], alpha_gap=[0.0, 0.09, 0.1, 0.2])
    )
    assert found == {"skips": 1, "gap of alpha": 2, "parameter-free": 3}  # at random 3.6 of 6 have no convolution


def test_what_grows_is_a_moving_average_against_four_epochs_earlier() -> None:
    # at epoch 10 (the first that counts) the mean of the last five is 1.6, and 1 four epochs earlier: more than 1.3
    growing = [1.0] * 10 + [4.0, 4.0]
    assert first_warnings(history(hessian=growing)) == {"Hessian": 10}
    assert first_warnings(history(consistency_gap=growing)) == {"consistency": 10}
    # a hundredth of a point of consistency that grows four times is noise
    assert first_warnings(history(consistency_gap=[value / 100 for value in growing])) == {}
    assert first_warnings(history(hessian=[1.0] * 12)) == {}


def test_a_record_counts_warnings_ahead_and_false_alarms() -> None:
    falling, steady = [90.0, 90.0, 90.0, 50.0], [90.0] * 4
    found = records(
        [
            (history(skip_connect=[0, 2, 2, 2]), falling),
            (history(skip_connect=[0, 0, 0, 2]), falling),
            (history(skip_connect=[0, 0, 0, 0]), falling),
            (history(skip_connect=[2, 0, 0, 0]), steady),
            (history(skip_connect=[0, 0, 0, 0]), steady),
        ]
    )
    skips = found["skips"]
    assert (skips.dropped, skips.ahead, skips.sound, skips.false_alarms) == (3, (2, 0), 2, 1)
    late = records([(history(skip_connect=[0, 0, 0, 2]), [90.0, 50.0, 50.0, 50.0])])["skips"]
    assert (late.dropped, late.ahead) == (1, ())
