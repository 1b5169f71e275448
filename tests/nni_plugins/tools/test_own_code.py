"""Code is imported because the command line says so, and for no other reason."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from nni_plugins.data import load_data
from nni_plugins.run.networks import make_space
from nni_plugins.run.settings import Settings
from nni_plugins.tools import own_code
from nni_plugins.tools.own_code import allow, allow_own_code, is_own, own


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_code, "_allowed", {})
    (tmp_path / "mine_good.py").write_text("class Holder:\n    @staticmethod\n    def make(): return 3\n")
    (tmp_path / "mine_needs.py").write_text("import a_package_that_is_missing\n")
    (tmp_path / "mine_fails.py").write_text("x = 1\nraise RuntimeError('no\\nluck')\n")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef f(**_): return None\n")
    return tmp_path


def test_what_the_command_line_names_is_found_from_the_current_folder(folder: Path) -> None:
    allow("mine_good:Holder.make", "data set")
    assert own("mine_good:Holder.make", "data set", "--data")() == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine_none:f", "there is no module 'mine_none'; start from the folder that has it"),
        ("mine_needs:f", "mine_needs needs 'a_package_that_is_missing', which is not installed"),
        ("mine_fails:f", r"mine_fails fails when it is imported: RuntimeError: no luck \(mine_fails.py, line 2\)"),
        ("mine_good:other", "mine_good has no 'other'; define it there"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        allow(name, "search space")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["evil:f", "torch.hub:load", "os:system"])
def test_a_name_in_data_is_never_imported(folder: Path, name: str) -> None:
    for use, option in (
        (lambda: make_space(name, num_classes=2, in_channels=1), "--space"),
        (lambda: load_data(name), "--data"),
        (lambda: Settings.of(strategy=name), "--strategy"),
    ):
        with pytest.raises(ValueError, match=f"only the command line may name; pass {option} {name}"):
            use()
    assert not (folder / "ran").exists()


def test_options_that_are_no_code_allow_nothing(folder: Path) -> None:
    allow_own_code(argparse.Namespace(strategy="darts", space=None, data="npz:evil"))
    assert own_code._allowed == {}
    allow_own_code(argparse.Namespace(strategy="darts", space="mine_good:Holder", data="digits"))
    assert list(own_code._allowed) == ["mine_good:Holder"]


@pytest.mark.parametrize("text", ["digits", "npz:some/file.npz", ":f", "a:", "a b:c", "a:b:c", "../a:b"])
def test_what_is_no_name_of_code(text: str) -> None:
    assert not is_own(text)
