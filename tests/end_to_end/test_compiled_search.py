"""A compiled search against the same one as it is; compiling even one small cell takes the better part of a minute."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch

from nni_plugins import BilevelSearch
from nni_plugins.run.compiled import CompiledSteps, compile_cells, refuse_without_compiler
from tests.nni_plugins.methods.searching import OneCell, Probe, mutated, search

pytestmark = pytest.mark.end_to_end


def test_the_same_search_to_rounding() -> None:
    try:
        refuse_without_compiler("cpu")
    except ValueError as error:
        pytest.skip(str(error))
    strategy = BilevelSearch(arch_learning_rate=0.01)
    supernet = mutated(strategy, OneCell).double()
    faster = copy.deepcopy(supernet)
    compile_cells(faster)
    settings: dict[str, Any] = {"steps": 3, "prepare": torch.Tensor.double}
    search(strategy, supernet, Probe(), **settings)
    search(strategy, faster, Probe(), **settings, callbacks=[CompiledSteps()])
    as_is, as_compiled = supernet.state_dict(), faster.state_dict()
    assert list(as_compiled) == list(as_is)
    for name, value in as_is.items():
        torch.testing.assert_close(as_compiled[name], value, msg=partial("{}: {}".format, name))
