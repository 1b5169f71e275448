"""RelativeNAS (arXiv 2009.06193): slow-fast learning over a continuous encoding of architectures.

``slow_fast`` is the evolution as pure functions and ``encoding`` what its vectors mean; ``one_shot`` searches with a
weight set, ``multi_trial`` with a model per candidate in ``NasExperiment``, ``tuner`` with a trial per candidate under
``nnictl``.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Not imported above: NNI gives the tuner, which needs neither torch nor NNI's strategies, ten seconds to start.
    if name == "SPECS":
        from nni_plugins.methods.relative_nas.one_shot import SPECS

        return SPECS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
