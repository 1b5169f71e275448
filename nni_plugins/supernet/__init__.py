"""The supernet: mixed cells and choices, relaxations, partial channels. Pure torch on NNI's module base class."""

import nni.nas.strategy  # noqa: F401  must come before nni.nas.oneshot, or NNI's own DARTS is left unusable
