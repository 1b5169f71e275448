"""BNAS-D, BNAS-v2-CLR and BNAS-v2-PC (arXiv 2009.08886): differentiable search of broad CNNs.

BNAS-D relaxes the broad space as DARTS does. Its cheap, shallow supernet makes the architecture gradient unfair to
operations whose weights have not been trained yet; BNAS-v2 offers two cures:

- CLR, the confident learning rate: ``lr_alpha(e) = lr_alpha * ((e + 1) / E) ** p``;
- PC, partial channels with edge normalisation, and a warm-up of the weights.

They work on any space of this package or of NNI's hub; :class:`search_spaces.BCNN` is the paper's.
"""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.schedules import Confident
from nni_plugins.methods.bilevel.strategy import BilevelSearch
from nni_plugins.methods.darts.strategy import PCDARTS


class BNASD(BilevelSearch):
    """BNAS-D: softmax relaxation, constant architecture learning rate of 3e-4."""


class BNASv2CLR(BilevelSearch):
    """BNAS-v2-CLR: BNAS-D whose architecture learning rate grows with ``((e + 1) / E) ** 2``."""

    preset = MappingProxyType({"arch_lr": Confident(power=2)})


class BNASv2PC(BilevelSearch):
    """BNAS-v2-PC: what PC-DARTS adds to DARTS, added to BNAS-D.

    A quarter of the channels is mixed, edges are normalised, alpha and beta rest for 15 of 50 epochs, their Adam has
    the rate 6e-4.
    """

    preset = PCDARTS.preset
