"""Mixed cells compiled by torch.compile, an option of a search (``compile=true``).

Compiled is what both steps of a search run: the cells that mix, in training. Validation, the derived sub-graph and the
Hessian (a compiled graph has no second derivative) run the same cells as they are, and so do Transit-cells, whose graph
changes with the architecture. Cells are compiled in place: names in the state dict stay, and a search may resume with
or without.
"""

from __future__ import annotations

import functools
import secrets
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from nni_plugins.supernet.cell import MixedCell

VARIANTS = 8
"""Graphs of a cell at most: what asks for gradients differs from step to step."""


def compile_cells(supernet: nn.Module) -> None:
    """Let the mixing cells of ``supernet`` be compiled when they first run; :class:`CompiledSteps` says when.

    Cells of the same shapes share what is compiled.

    Raises
    ------
    ValueError
        If there is none.
    """
    cells = [module for module in supernet.modules() if isinstance(module, MixedCell) and module.engine]
    if not cells:
        raise ValueError(
            "compile=true compiles the cells of a search space, but this one has no Cell; leave compile out."
        )
    from torch import _dynamo

    _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, VARIANTS * len(cells))
    for cell in cells:
        cell.compile(dynamic=False)


class CompiledSteps(pl.Callback):
    """Run compiled modules compiled within training steps, and as they are everywhere else."""

    def on_fit_start(self, *_: Any) -> None:
        torch.compiler.set_stance("force_eager")

    def on_train_batch_start(self, *_: Any) -> None:
        torch.compiler.set_stance("default")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.compiler.set_stance("force_eager")

    def teardown(self, *_: Any, **__: Any) -> None:
        torch.compiler.set_stance("default")

    def on_exception(self, *_: Any) -> None:
        torch.compiler.set_stance("default")


def refuse_without_compiler(device: str) -> None:
    """Refuse ``compile=true`` on a machine where torch.compile does not work, by compiling a line for ``device``.

    Raises
    ------
    ValueError
        With the reason.
    """
    if (reason := _why_not(device)) is not None:
        need = "Triton" if device == "cuda" else "a C++ compiler such as g++"
        raise ValueError(
            f"compile=true needs {need}, and torch.compile fails on this machine ({reason}); install it, or leave "
            "compile out."
        )


@functools.cache
def _why_not(device: str) -> str | None:
    """Return why torch cannot compile for ``device``; None if it can."""
    size = secrets.randbelow(2**16) + 2  # what was compiled once would be taken from the disk
    try:
        torch.compile(torch.sin, dynamic=False)(torch.zeros(size, device=device))
    except Exception as error:
        return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
    return None
