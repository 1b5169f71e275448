"""A result folder as a network: the logits of its reference, and one sentence where a file is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nni_plugins.run.result import load_net

EXAMPLE = Path(__file__).parents[3] / "exported" / "example"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "result"))


def change_report(folder: Path, *names: str, value: Any) -> None:
    report = json.loads((folder / "report.json").read_text())
    section = report
    for name in names[:-1]:
        section = section[name]
    section[names[-1]] = value
    (folder / "report.json").write_text(json.dumps(report))


def test_the_network_has_the_logits_of_the_reference() -> None:
    net = load_net(EXAMPLE)
    reference = np.load(EXAMPLE / "reference.npz")
    assert not net.training
    with torch.no_grad():
        found = net(torch.from_numpy(reference["images"]))
    np.testing.assert_allclose(found.numpy(), reference["logits"], atol=1e-4)


@pytest.mark.parametrize("name", ["genotype.json", "weights.safetensors", "report.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder} has no {name}; give a folder"):
        load_net(folder)


def test_other_weights_are_refused(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that was exported"):
        load_net(folder)


@pytest.mark.parametrize(
    ("names", "value", "message"),
    [
        (("settings", "net_arguments"), {"channels": 32}, "do not belong together .*restore the folder from a copy"),
        (("data",), {}, "do not belong together .*'classes'"),
        (("data", "classes"), 11, "do not belong together"),
    ],
)
def test_a_report_of_something_else_is_refused(names: tuple[str, ...], value: Any, message: str, folder: Path) -> None:
    change_report(folder, *names, value=value)
    with pytest.raises(ValueError, match=message):
        load_net(folder)


def test_an_own_space_is_not_imported_because_a_file_says_so(folder: Path) -> None:
    genotype = json.loads((folder / "genotype.json").read_text())
    (folder / "genotype.json").write_text(json.dumps({**genotype, "space": "os:system"}))
    change_report(folder, "settings", "space", value="os:system")
    with pytest.raises(ValueError, match="only the command line may name"):
        load_net(folder)
