"""DARTS (arXiv 1806.09055), PC-DARTS (1907.05737), RF-DARTS and RF-PCDARTS (2208.08835).

DARTS mixes all candidates of an edge with the softmax of alpha and searches w and alpha in turn. It likes skip
connections too much: they help the other candidates to train, and are picked for that. RF-DARTS trains nothing of the
supernet but BatchNorm:

    alpha  <-  alpha - lr * grad_alpha L_val(gamma, beta, alpha; w_0)
    gamma, beta  <-  descent on L_train(gamma, beta, alpha; w_0)        w_0: convolutions as they were drawn

so that candidates put out random features, a skip connection has no one's training to help, and the competition is
fair. PC-DARTS mixes a quarter of the channels and normalises edges; RF-PCDARTS does both.

Where the paper of RF-DARTS is silent (classifier, initialisation, learning rates, order) see
:class:`~nni_plugins.methods.bilevel.trainable.BatchNormOnly`; rates, weight decay and order are those of the base
method.
"""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.strategy import BilevelSearch
from nni_plugins.methods.bilevel.trainable import BatchNormOnly
from nni_plugins.supernet.channels import PartialChannels
from nni_plugins.supernet.relaxation import EdgeNormalisation


class FirstOrderDARTS(BilevelSearch):
    """First-order DARTS as released: softmax over all candidates, ``none`` among them, alpha's Adam at 3e-4.

    NNI's own ``DARTS`` adds a further zero candidate to every edge and derives by raw logits.
    """


class SecondOrderDARTS(BilevelSearch):
    """DARTS with the unrolled architecture gradient."""

    preset = MappingProxyType({"unrolled": True})


class PCDARTS(BilevelSearch):
    """PC-DARTS: a quarter of the channels is mixed, edges are normalised, alpha and beta rest for 15 epochs."""

    preset = MappingProxyType(
        {
            "relaxation": EdgeNormalisation(),
            "channels": PartialChannels(4),
            "arch_learning_rate": 6e-4,
            "warmup_epochs": 15,
        }
    )


class RFDARTS(BilevelSearch):
    """RF-DARTS: first-order DARTS in which only BatchNorm trains."""

    preset = MappingProxyType({"trains": BatchNormOnly()})


class RFPCDARTS(BilevelSearch):
    """RF-PCDARTS: PC-DARTS in which only BatchNorm trains."""

    preset = MappingProxyType({**PCDARTS.preset, **RFDARTS.preset})
