"""Compiled cells: the same search to rounding, the same names, and a refusal where nothing can be compiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from nni_plugins import BilevelSearch
from nni_plugins.data import load_data
from nni_plugins.run import compiled
from nni_plugins.run.compiled import CompiledSteps, compile_cells
from nni_plugins.run.rehearsal import rehearse
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import Stage
from tests.nni_plugins.methods.searching import OneCell, OwnSpace, Probe, mutated, search


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    compiled._why_not.cache_clear()
    yield
    compiled._why_not.cache_clear()


def test_a_machine_without_a_compiler_is_refused_before_any_work() -> None:
    from torch._inductor import config

    settings = Settings.of(strategy="bnas_d", overrides={"compile": True})
    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(
            ValueError, match=r"^compile=true needs a C\+\+ compiler such as g\+\+, .*no-such-compiler"
        ) as error,
    ):
        rehearse(settings, load_data("digits"))
    assert "\n" not in str(error.value)


def test_a_space_without_cells_is_refused() -> None:
    class Layer(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Linear(1, 1), nn.Identity()], label="layer")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    with pytest.raises(ValueError, match="has no Cell; leave compile out"):
        compile_cells(mutated(BilevelSearch(), Layer))


def test_what_runs_one_architecture_at_a_time_has_no_such_setting() -> None:
    with pytest.raises(ValueError, match="no setting 'compile'"):
        Settings.of(strategy="relative_nas", overrides={"compile": True})


def test_a_search_resumes_with_and_without() -> None:
    stages = [Stage.of_search(Settings.of(overrides={"compile": choice}), "sha") for choice in (False, True)]
    assert stages[0] == stages[1]


def test_names_stay_and_a_copy_is_not_compiled() -> None:
    supernet = mutated(BilevelSearch(), OneCell)
    names = list(supernet.state_dict())
    compile_cells(supernet)
    assert list(supernet.state_dict()) == names
    assert supernet.cell._compiled_call_impl is not None
    assert copy.deepcopy(supernet).cell._compiled_call_impl is None


def test_transit_cells_are_not_compiled() -> None:
    supernet = mutated(BilevelSearch(), OwnSpace)
    supernet.second.engine = False
    compile_cells(supernet)
    assert supernet.first._compiled_call_impl is not None
    assert supernet.second._compiled_call_impl is None


def test_only_training_steps_run_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    stances: list[str] = []
    monkeypatch.setattr(torch.compiler, "set_stance", stances.append)

    class Steps(Probe):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            stances.append("step")
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            stances.append("validation")
            super().validation_step(batch, batch_idx)

    strategy = BilevelSearch()
    search(strategy, mutated(strategy), Steps(), steps=1, callbacks=[CompiledSteps()])
    one_step = ["default", "step", "step", "force_eager"]  # of the architecture, then of the weights
    assert stances == ["force_eager", *one_step, "validation", "default"]
