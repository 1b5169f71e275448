"""What lets a bilevel search decide on the embedded digits."""

from __future__ import annotations

from types import MappingProxyType

DECIDES = MappingProxyType({"arch_learning_rate": 0.15})
"""For ``MethodSpec.quick``. Adam moves alpha by about its rate in a step, and a quick search has 176 steps: at the
published rates of 3e-4 and 6e-4 no operation would lead by more than 0.001 of weight."""
