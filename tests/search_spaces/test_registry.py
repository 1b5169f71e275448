"""Search spaces by name: what each declares, and those that installed packages declare."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import search_spaces
from search_spaces import CellGraph, SpaceSpec, registry, space_names, space_spec

TOY = """\
from search_spaces import CellGraph, SpaceSpec

SPEC = SpaceSpec(
    name={name!r},
    layout={{"cell": CellGraph(("sep_conv_3x3", "skip_connect"), num_nodes=2, connections=1)}},
    network="toy_spaces:Network",
)
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def forget_what_was_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry._all_specs.cache_clear()
    yield
    sys.modules.pop("toy_spaces", None)
    registry._all_specs.cache_clear()


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, name: str = "toy", value: str = "toy_spaces:SPEC"
) -> None:
    """A package on the path with an entry point, laid out as pip leaves it."""
    (folder / "toy_spaces.py").write_text(TOY.format(name=name))
    metadata = folder / "toy_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[nni_plugins.spaces]\ntoy = {value}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_names() -> None:
    assert space_names() == ("bcnn", "darts", "darts_any", "s1", "s2", "s3", "s4", "nasbench201")
    assert [space_spec(name).name for name in space_names()] == list(space_names())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Unknown search space 'mobilenet'; expected one of bcnn, .*nasbench201, or"):
        space_spec("mobilenet")


@pytest.mark.parametrize("name", space_names())
def test_every_space_makes_its_network_at_its_quick_sizes(name: str) -> None:
    spec = space_spec(name)
    supernet_to_be = spec.load_network()(**spec.quick_search_sizes)
    kinds = {label.rpartition("/")[0] for label in supernet_to_be.simplify()}
    assert kinds == set(spec.layout)


def test_a_declaration_cannot_be_changed() -> None:
    spec = space_spec("bcnn")
    with pytest.raises(AttributeError):
        spec.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.published_sizes["cifar"]["channels"] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        spec.layout["convolution"] = CellGraph(())  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a:b"}, "The name of a search space is a word without a colon, got 'a:b'."),
        ({"network": "toy"}, "The network of the toy space is 'toy'; expected package.module:Class."),
        ({"layout": {}}, "there is at least one kind of them; the toy space has none."),
        ({"layout": {"a": CellGraph(("x",)), "b": CellGraph(("x",), num_inputs=1)}}, "has {'a': 2, 'b': 1}."),
    ],
)
def test_what_is_no_declaration(changes: dict, message: str) -> None:
    values = {"name": "toy", "layout": {"a": CellGraph(("x",))}, "network": "toy:Toy"}
    with pytest.raises(ValueError, match=re.escape(message)):
        SpaceSpec(**values | changes)


def test_candidates_for_some_edges_only_are_refused() -> None:
    with pytest.raises(ValueError, match="for 1 edges; expected equally many candidates for each of the 5 edges"):
        CellGraph(("x", "y"), num_nodes=2, edge_operations=(("x", "y"),))


# Spaces of other packages


def test_a_space_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert space_names()[-1] == "toy"
    spec = space_spec("toy")
    assert spec.layout["cell"].connections == 1
    cells: Any = {"cell": [[("skip_connect", 0)], [("sep_conv_3x3", 2)]]}
    genotype = search_spaces.Genotype("toy", cells)
    assert search_spaces.Genotype.from_sample(genotype.to_sample(), "toy") == genotype
    unknown: Any = {"cell": [[("dil_conv_3x3", 0)], [("sep_conv_3x3", 2)]]}
    with pytest.raises(ValueError, match="Unknown operation 'dil_conv_3x3' in the cell cell of the toy space"):
        search_spaces.Genotype("toy", unknown)


def test_a_space_of_this_package_needs_no_other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, value="no_such_module:SPEC")
    assert space_spec("darts").name == "darts"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("darts", "toy_spaces:SPEC",
         "The package toy-package declares a search space 'darts', but there is one of that name; rename it"),
        ("toy", "toy_spaces:NUMBER",
         "The package toy-package declares the search space 'toy' as toy_spaces:NUMBER, which is a int; expected"),
        ("toy", "toy_spaces:MISSING",
         "The package toy-package declares the search space 'toy' as toy_spaces:MISSING, which cannot be loaded"),
        ("toy", "no_such_module:SPEC",
         "The package toy-package declares the search space 'toy' as no_such_module:SPEC, which cannot be loaded"),
    ],
)  # fmt: skip
def test_wrong_declarations_are_refused(
    name: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, name=name, value=value)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        space_names()


# What is imported when


def run(code: str) -> str:
    completed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return completed.stdout.strip()


def test_a_genotype_is_read_without_torch_and_nni(tmp_path: Path) -> None:
    path = search_spaces.published("bnas_v2_clr_v1").save(tmp_path / "genotype.json")
    heavy = run(
        "import sys; from search_spaces.genotype import Genotype; import search_spaces\n"
        f"genotype = Genotype.load({str(path)!r}); genotype.to_sample()\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('torch', 'nni', 'numpy')])"
    )
    assert heavy == "[]"


@pytest.mark.parametrize("name", ["BCNN", "NASBench201", "evaluation_net"])
def test_what_needs_torch_is_there_and_leaves_nnis_darts_usable(name: str) -> None:
    code = (
        f"from search_spaces import {name}\nimport nni.nas.oneshot.pytorch.strategy as oneshot\n"
        "from nni.nas.strategy import DARTS\nprint(DARTS is oneshot.DARTS)"
    )
    assert run(code) == "True"


def test_every_exported_name_exists() -> None:
    assert {name for name in search_spaces.__all__ if not hasattr(search_spaces, name)} == set()
    with pytest.raises(AttributeError, match="no attribute 'Mobilenet'"):
        search_spaces.Mobilenet  # noqa: B018
