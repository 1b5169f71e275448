"""A checkpoint that is not what was written is noticed, named and passed over; none is deleted for it."""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from nni_plugins.data import load_data
from nni_plugins.run.checkpoint import DamagedCheckpointError, VerifiedCheckpointIO, checkpoints, newest_intact
from nni_plugins.run.retrain import retrain
from nni_plugins.run.settings import Settings
from nni_plugins.tools.atomic_files import FullDiskError
from search_spaces import published


def write(folder: Path, epoch: int) -> Path:
    path = folder / f"epoch-{epoch:04d}.ckpt"
    content = {"epoch": epoch, "state_dict": {"w": torch.arange(8.0), "b": torch.ones(2, 3)}, "names": ["a", "b"]}
    VerifiedCheckpointIO().save_checkpoint(content, path)
    return path


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    again = VerifiedCheckpointIO().load_checkpoint(path)
    assert again["epoch"] == 3 and torch.equal(again["state_dict"]["w"], torch.arange(8.0))
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}.sha256"]
    subprocess.run(["sha256sum", "--check", "--strict", f"{path.name}.sha256"], cwd=tmp_path, check=True)


def test_200_of_200_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path, generator = write(tmp_path, 1), random.Random(0)
    bits = 8 * path.stat().st_size
    for bit in generator.sample(range(bits), 200):
        flip(path, bit)
        with pytest.raises(DamagedCheckpointError, match=f"The checkpoint {path} is damaged"):
            VerifiedCheckpointIO().load_checkpoint(path)
        flip(path, bit)
    assert newest_intact(tmp_path) == path


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no checksum", "empty checksum"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    previous, newest = write(tmp_path, 1), write(tmp_path, 2)
    checksum = newest.with_name(f"{newest.name}.sha256")
    {
        "flipped": lambda: flip(newest, 4321),
        "cut": lambda: newest.write_bytes(newest.read_bytes()[:-500]),
        "empty": lambda: newest.write_bytes(b""),
        "no checksum": checksum.unlink,
        "empty checksum": lambda: checksum.write_text(""),
    }[damage]()
    with caplog.at_level(logging.WARNING):
        assert newest_intact(tmp_path) == previous
    assert f"The checkpoint {newest} is damaged (" in caplog.text
    assert f"Resuming from {previous}" in caplog.text
    assert checkpoints(tmp_path) == [newest, previous]


def test_a_clock_that_was_set_back_does_not_change_which_is_the_newest(tmp_path: Path) -> None:
    previous, newest = write(tmp_path, 1), write(tmp_path, 2)
    os.utime(previous, (2e9, 2e9))
    os.utime(newest, (1e9, 1e9))
    assert newest_intact(tmp_path) == newest


def test_when_all_are_damaged_none_is_deleted_and_the_run_is_refused(tmp_path: Path) -> None:
    previous, newest = write(tmp_path, 1), write(tmp_path, 2)
    for path in (previous, newest):
        flip(path, 4321)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    sentence = f"^Every checkpoint is damaged: {newest} and {previous}. Nothing was deleted; .* move them away to start"
    with pytest.raises(DamagedCheckpointError, match=sentence):
        newest_intact(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert newest_intact(tmp_path / "none") is None


def test_a_checkpoint_that_carries_code_is_not_executed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "epoch-0001.ckpt"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    VerifiedCheckpointIO().save_checkpoint({"state_dict": Evil()}, path)  # its checksum is right
    with pytest.raises(DamagedCheckpointError, match=path.name):
        newest_intact(tmp_path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the code does run where it is let"


# A run


def retraining(data: str, folder: Path) -> list[dict[str, Any]]:
    overrides = {
        "retrain.epochs": 3, "retrain.batch_size": 16, "retrain.cutout": 0, "net.channels": 4, "net.deep_cells": 0,
        "net.enhancement_cells": 1,
    }  # fmt: skip
    settings = Settings.of(data=data, seed=1, overrides=overrides)
    return retrain(published("bnas_v2_clr_v1"), settings, load_data(data), folder).history


def test_a_run_keeps_two_checkpoints_and_a_flipped_bit_does_not_change_its_result(
    tiny_data: str, tmp_path: Path
) -> None:
    retraining(tiny_data, tmp_path / "whole")
    whole = tmp_path / "whole" / "retrain"
    kept = [f"epoch-000{epoch}.ckpt{end}" for epoch in (2, 3) for end in ("", ".sha256")]
    assert sorted(path.name for path in whole.iterdir()) == kept
    expected = VerifiedCheckpointIO().load_checkpoint(whole / "epoch-0003.ckpt")["state_dict"]

    damaged = tmp_path / "damaged" / "retrain"
    shutil.copytree(whole, damaged)
    (damaged / ".epoch-0003.ckpt.killed").touch()
    flip(damaged / "epoch-0003.ckpt", 54321)
    retraining(tiny_data, tmp_path / "damaged")
    assert sorted(path.name for path in damaged.iterdir()) == kept
    found = VerifiedCheckpointIO().load_checkpoint(damaged / "epoch-0003.ckpt")["state_dict"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_full_disk_is_one_sentence_that_names_the_checkpoint(
    tiny_data: str, tmp_path: Path, room: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "retrain" / "epoch-0001.ckpt"
    with room(10_000), pytest.raises(FullDiskError, match=f"^There is no room to write {path} "):
        retraining(tiny_data, tmp_path)
    assert checkpoints(path.parent) == []
