"""Dataclasses that check themselves: every kind of field, every range, and the sentence of each refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from nni_plugins import Confident, Constant
from nni_plugins.methods.bilevel.schedules import Schedule
from nni_plugins.tools.checked import Checked, setting


def _even(value: Any) -> int:
    if value % 2:
        raise ValueError(f"must be even, got {value}.")
    return int(value)


@dataclass(frozen=True)
class Sample(Checked):
    count: int = setting(1, at_least=1)
    share: float = setting(0.5, at_least=0, below=1)
    open_share: float = setting(0.5, above=0, below=1)
    closed: float = setting(0.5, at_least=0, at_most=1)
    rate: float = setting(0.1, above=0)
    decay: float = setting(0.0, at_least=0)
    clip: float | None = setting(None, above=0, none="no clipping")
    on: bool = False
    name: str | None = None
    mode: Literal["fast", "slow"] = "fast"
    schedule: Schedule = setting(factory=Constant, example="Confident(power=2)")
    pair: int = setting(2, convert=_even)

    def check(self) -> None:
        if self.decay > self.rate:
            raise ValueError(f"decay must be at most rate, got {self.decay}.")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("count", 0, "count must be a whole number of at least 1, got 0."),
        ("count", True, "count must be a whole number of at least 1, got True."),
        ("count", 2.0, "count must be a whole number of at least 1, got 2.0."),
        ("count", "3", "count must be a whole number of at least 1, got '3'."),
        ("count", None, "count must be a whole number of at least 1, got None."),
        ("share", 1, "share must be a number from 0 to below 1, got 1."),
        ("share", -0.1, "share must be a number from 0 to below 1, got -0.1."),
        ("open_share", 0, "open_share must be a number above 0 and below 1, got 0."),
        ("closed", 1.5, "closed must be a number from 0 to 1, got 1.5."),
        ("rate", 0, "rate must be positive, got 0."),
        ("rate", float("inf"), "rate must be positive, got inf."),
        ("rate", float("nan"), "rate must be positive, got nan."),
        ("rate", False, "rate must be positive, got False."),
        ("decay", -1, "decay must be a number of at least 0, got -1."),
        ("clip", 0, "clip must be positive, or None for no clipping, got 0."),
        ("on", 1, "on must be true or false, got 1."),
        ("on", "yes", "on must be true or false, got 'yes'."),
        ("name", 3, "name must be a text, or None, got 3."),
        ("mode", "medium", "mode must be one of fast, slow, got 'medium'."),
        ("mode", ["fast"], "mode must be one of fast, slow, got ['fast']."),
        ("schedule", 0.1, "schedule must be a part such as Confident(power=2), got 0.1."),
        (
            "schedule",
            Confident,
            "schedule must be a part such as Confident(power=2), got the class Confident (wr",
        ),
        ("pair", 3, "pair must be even, got 3."),
    ],
)
def test_refusals(field: str, value: object, sentence: str) -> None:
    settings: Any = {field: value}
    with pytest.raises(ValueError, match=r"^\w") as caught:
        Sample(**settings)
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"^retrain\.{field} must"):
        Sample.of({field: value}, prefix="retrain.")


def test_what_fits_is_kept() -> None:
    kept = Sample(count=3, share=0, clip=2, on=True, name="x", mode="slow", schedule=Confident(power=3), pair=4)
    assert (kept.count, kept.share, kept.clip, kept.on, kept.name, kept.mode) == (3, 0.0, 2.0, True, "x", "slow")
    assert type(kept.share) is float and type(kept.clip) is float, "a whole number is a number"
    assert kept.schedule == Confident(power=3) and kept.pair == 4


def test_fields_that_do_not_go_together_and_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"^decay must be at most rate, got 0\.5\.$"):
        Sample(decay=0.5)
    with pytest.raises(ValueError, match=r"^There is no setting 'net\.cont'; expected one of net\.count, net\.share"):
        Sample.of({"cont": 1}, prefix="net.")
