"""Sparse relaxation with a learnable threshold per node: which connections a node keeps, and how many [EnTranNAS-DST].

    q[i, j, k]    = relu( p[i, j, k] / max over (i, k) of p[i, j, k]  -  sigmoid(beta_j) )
    qhat[i, j, k] = q[i, j, k] / sum over k of q[i, j, k]    on every edge with some q > 0, else 0

with ``p`` the softmax of alpha over the operations of each edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nni_plugins.supernet.relaxation import Derived, Tempered, initial_alpha
from search_spaces.cell_graph import CellGraph

HIGHEST_THRESHOLD = 1 - 1e-6
"""The strongest operation of a node has ``p / max p = 1``, above this threshold: a node is never left empty."""


@dataclass(frozen=True)
class SparseThreshold(Tempered):
    """Mixture weights ``qhat``; the derived cell is exactly what has ``qhat > 0`` [EnTranNAS, section on DST].

    Not stated in the paper: beta starts at 0, belongs to alpha's optimiser, and its gradient passes the maximum.

    Parameters
    ----------
    normalize
        Whether the weights of every live ``"edge"`` add up to 1, or those of every ``"node"``. With ``"edge"`` and one
        operation left on every live edge, mixture and derived cell are the same function.
    tau, tau_decay
        As in :class:`Tempered`.

    Raises
    ------
    ValueError
        If there is no such ``normalize``, or the temperature is out of range.
    """

    normalize: Literal["edge", "node"] = "edge"

    learns_topology: ClassVar[bool] = True

    def init(self, graph: CellGraph) -> dict[str, torch.Tensor]:
        return {"alpha": initial_alpha(graph), "beta": torch.zeros(graph.num_nodes)}

    def weights(
        self, parameters: Mapping[str, torch.Tensor], graph: CellGraph
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # at least single precision: in half precision the highest threshold would round to 1
        precision = torch.promote_types(parameters["alpha"].dtype, torch.float32)
        p = parameters["alpha"].to(precision).softmax(-1)
        thresholds = parameters["beta"].to(precision).sigmoid().clamp(max=HIGHEST_THRESHOLD)
        by_node = []
        for target, threshold in zip(graph.targets, thresholds, strict=True):
            strengths = p[graph.rows(target)]
            q = (strengths / strengths.amax() - threshold).relu()
            total = q.sum(-1, keepdim=True) if self.normalize == "edge" else q.sum()
            by_node.append(q / total.where(total > 0, 1.0))
        qhat = torch.cat(by_node)
        return qhat, qhat.sum(-1)

    def derive(self, parameters: Mapping[str, torch.Tensor], graph: CellGraph) -> dict[int, list[Derived]]:
        """Return everything above its node's threshold, by input and operation (all is kept, so no order matters)."""
        alive = self.weights(parameters, graph)[0].detach().cpu() > 0
        return {
            target: [Derived(k, source) for source, k in alive[graph.rows(target)].nonzero().tolist()]
            for target in graph.targets
        }
