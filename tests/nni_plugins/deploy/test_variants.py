"""How variants are measured, on functions and profiles made up."""

from __future__ import annotations

import numpy as np
import pytest

from nni_plugins.deploy.variants import (
    OperatorTime,
    Predict,
    Profile,
    predict_classes,
    refuse_unknown_provider,
    slower_operators,
    time_in_turns,
)


def profile(**milliseconds: float) -> Profile:
    return Profile(tuple(OperatorTime(name, 1, time) for name, time in milliseconds.items()), (), True)


def test_an_operator_is_compared_with_its_float_counterpart() -> None:
    quantised = profile(QLinearConv=5.0, QuantizeLinear=2.0, QLinearAdd=1.5, Slice=0.2)
    assert slower_operators(quantised, profile(Conv=6.0, Add=1.0, Slice=0.2, Relu=3.0)) == [
        "QuantizeLinear +2.00 ms",
        "QLinearAdd +0.50 ms",
    ]


def test_variants_take_turns_of_ten_after_an_untimed_run() -> None:
    calls: list[str] = []

    def called(name: str) -> Predict:
        def predict(images: np.ndarray) -> np.ndarray:
            calls.append(name)
            return images

        return predict

    timings = time_in_turns({"a": called("a"), "b": called("b")}, np.zeros((3, 1)), threads=2, runs=14)
    assert "".join(calls) == "a" * 11 + "b" * 11 + "a" * 5 + "b" * 5
    for timing in timings.values():
        assert (timing.batch_size, timing.threads, timing.runs) == (3, 2, 14)
        assert 0 <= timing.p50_ms <= timing.p90_ms <= timing.p99_ms


def test_every_batch_has_the_size_of_the_first() -> None:
    sizes = []

    def predict(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return np.eye(5)[images[:, 0]]

    batches = [np.array([[3], [1], [4]]), np.array([[2]])]
    assert predict_classes(predict, batches).tolist() == [3, 1, 4, 2]
    assert sizes == [3, 3]


def test_an_unknown_provider_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"has no TeapotExecutionProvider; choose one of .*CPUExecutionProvider"):
        refuse_unknown_provider("TeapotExecutionProvider")
