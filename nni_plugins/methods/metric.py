"""A metric of an epoch: its name and meaning, and where people see it.

A metric is declared once, beside the code that measures it, and says there whether it stands on the line that a search
prints every epoch and on NNI's page. All of them are in the history of ``report.json`` and in TensorBoard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number that an epoch has.

    Parameters
    ----------
    name
        Its name in every file and on every page.
    meaning
        What it is, with its unit.
    on_line, on_page
        Whether it stands on the line of an epoch, and on NNI's page.
    unmeasured
        What NNI's page shows for an epoch that has no value (a warm-up, say), so that the metric is on the page from
        the first epoch on: NNI takes its list of metrics from there. None leaves such a metric out.
    """

    name: str
    meaning: str
    on_line: bool = True
    on_page: bool = True
    unmeasured: float | None = None


Metrics = Mapping[Metric, float | None]
"""Values of an epoch; None where a metric was not measured in this epoch."""

DEFAULT = Metric(
    "default",
    "what NNI's charts show and its tuners go by: validation accuracy, of a retraining training accuracy, percent",
    on_line=False,
)
VALIDATION_ACCURACY = Metric("validation_accuracy", "accuracy on the architecture half, percent", on_page=False)
VALIDATION_LOSS = Metric("validation_loss", "mean cross-entropy on the architecture half, nats")
TRAINING_ACCURACY = Metric("training_accuracy", "accuracy on the training batches as they came, percent")
TRAINING_LOSS = Metric("training_loss", "mean cross-entropy on the training batches as they came, nats")
TEST_ACCURACY = Metric("test_accuracy", "accuracy on the test set, percent")
DECIDED = Metric("decided", "how far the search has moved from undecided, from 0 to 1; each method says how it counts")
ALPHA_GAP = Metric("alpha_gap", "mean lead of an edge's best operation in weight")
CHANGED_SINCE_FIRST = Metric(
    "changed_since_first", "share of the derived connections that the first epoch's cell has not", on_line=False
)
EPOCHS_UNCHANGED = Metric("epochs_unchanged", "epochs since the derived cell last changed", on_line=False)
PARAMETER_FREE = Metric("parameter_free", "derived connections without convolutions")
SKIP_CONNECT = Metric("skip_connect", "derived skip connections", on_line=False)
SECONDS = Metric("seconds", "duration of the epoch, seconds")
MEMORY_MB = Metric(
    "memory_mb", "largest memory so far, of the GPU where there is one, else of the process, MB", on_line=False
)
