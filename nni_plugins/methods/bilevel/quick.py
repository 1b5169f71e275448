"""What lets a bilevel search decide on the embedded digits."""

from __future__ import annotations

from types import MappingProxyType

DECIDES = MappingProxyType({"arch_learning_rate": 0.25})
"""For ``MethodSpec.quick``. Adam moves alpha by about its rate in a step, and a quick search has 110 steps: at the
published rates of 3e-4 and 6e-4 no operation would lead by more than 0.001 of weight."""

DECIDES_WITH_CONFIDENCE = MappingProxyType({"arch_learning_rate": 0.5})
"""The confident learning rate is 0.44 of it on average."""

DECIDES_AFTER_WARMUP = MappingProxyType({"arch_learning_rate": 0.5})
"""Two of the five epochs leave alpha as it is."""
