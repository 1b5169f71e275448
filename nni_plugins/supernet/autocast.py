"""Autocast for convolutions with a backward pass of their own.

Inside ``torch.autograd.Function`` autocast would cast for the forward pass alone, and the backward pass would meet
inputs and gradients of two precisions. Where the casts come before the function, autograd undoes them.

Lightning switches autocast's own cache of weights off. It would keep nothing here: it holds leaves that require a
gradient, until the step ends, and a step of a search uses every one of them once (the architecture step's weights
require none). What does not train at all is cast once, by :class:`CastOnce`.
"""

from __future__ import annotations

import torch


def autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return ``tensors`` in the precision in which autocast would run a convolution on them; as they are without it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


class CastOnce:
    """A tensor cast as :func:`autocast` does; where it does not train, again only after it has changed."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._cast: torch.Tensor | None = None

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor``, which must be the same one in every call, in the precision of a convolution on it."""
        device = tensor.device.type
        if tensor.requires_grad or torch.compiler.is_compiling() or not torch.is_autocast_enabled(device):
            return autocast(tensor)[0]
        state = (tensor.data_ptr(), tensor._version, torch.get_autocast_dtype(device))
        if self._cast is None or self._of != state:
            self._of, (self._cast,) = state, autocast(tensor)
        return self._cast
