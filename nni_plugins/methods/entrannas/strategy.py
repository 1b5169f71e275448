"""EnTranNAS and EnTranNAS-DST (arXiv 2101.11342): Engine-cells search, Transit-cells only run what is derived so far.

    Engine-cell:   x_j = sum over i < j, k of  p[i, j, k] * f[i, k]
    Transit-cell:  x_j = sum over (i, k) in S_j of  f[i, k]

with ``f[i, k] = o_k(x_i)`` computed once per source and used by all later nodes, ``p`` the softmax of alpha over the
operations of each edge, and ``S_j`` the connections that alpha derives for node j after every architecture step.
Gradients reach alpha through the Engine-cells only; in a Transit-cell what is not derived costs nothing, and so the
supernet may be as deep as the network that is evaluated. One Engine-cell of each kind does: the first.

EnTranNAS-DST makes the topology learnable. A threshold per node, ``t_j = sigmoid(beta_j)``, cuts off what is weak:

    q[i, j, k] = relu( p[i, j, k] / max over (i, k) of p[i, j, k]  -  t_j ),    qhat = q / sum over k of q,

``qhat`` takes the place of ``p`` and ``S_j = {(i, k): qhat[i, j, k] > 0}``: a node may keep any number of connections,
at least one. With one operation left on every live edge, Engine-cell, Transit-cell and derived cell are one function.

No code was released. Not stated in the paper: which cells are Engine-cells, the temperature 1, and the settings of the
search, which are those of ISTA-NAS by the same first author.
"""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.strategy import BilevelSearch
from nni_plugins.supernet.features import PerSource
from nni_plugins.supernet.threshold import SparseThreshold


class EnTranNAS(BilevelSearch):
    """EnTranNAS: one Engine-cell of each kind, features shared per source, two connections per node as in DARTS."""

    preset = MappingProxyType({"features": PerSource(), "engine_cells": "first", "arch_learning_rate": 6e-4})


class EnTranNASDST(BilevelSearch):
    """EnTranNAS with a learnable topology; for spaces whose nodes keep any number of connections, as ``darts_any``."""

    preset = MappingProxyType({**EnTranNAS.preset, "relaxation": SparseThreshold()})
