"""Every registered method on every space that it is for keeps what all methods promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from nni_plugins.methods.registry import method_specs
from tests.nni_plugins.methods import conformance
from tests.nni_plugins.methods.conformance import Case

# s2 to s4 are s1's class with other candidates
CASES = [
    Case(spec.name, space)
    for spec in method_specs().values()
    for space in spec.spaces
    if space not in ("s2", "s3", "s4")
]
MERGED = [
    Case("bnas_v2_pc", "bcnn", (("merge_edges", True),)),
    Case("rf_darts", "nasbench201", (("merge_edges", True),)),
]


@pytest.mark.parametrize(
    "case", [*CASES, *MERGED], ids=lambda case: "-".join([case.strategy, case.space, *dict(case.differing)])
)
def test_a_method_keeps_its_promises(case: Case, tmp_path: Path) -> None:
    found = conformance.check_export(case, tmp_path)
    conformance.check_frozen_parts(case, tmp_path)
    conformance.check_kill_and_resume(case, tmp_path, found)
    conformance.check_another_seed(case, tmp_path, found)


@pytest.mark.parametrize("name", list(method_specs()))
def test_a_method_refuses_what_it_cannot_do(name: str) -> None:
    conformance.check_refusals(Case(name, next(iter(method_specs()[name].spaces))))
