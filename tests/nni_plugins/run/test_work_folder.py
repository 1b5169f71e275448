"""One run works in a folder at a time, and only the run that began there: the same settings, the same data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nni_plugins.data import ImageData, load_data
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import claim, locked, reserved
from nni_plugins.tools.atomic_files import FullDiskError
from search_spaces import published


@pytest.fixture
def data(tiny_data: str) -> ImageData:
    data = load_data(tiny_data)
    assert isinstance(data, ImageData)
    return data


@pytest.fixture
def settings(tiny_data: str) -> Settings:
    return Settings.of(data=tiny_data)


def checkpoint(work: Path) -> None:
    (work / "search").mkdir()
    (work / "search" / "epoch-0001.ckpt").touch()


# Which run it is


def test_the_same_run_resumes_and_the_folder_says_what_it_is(
    tmp_path: Path, settings: Settings, data: ImageData
) -> None:
    for _ in range(2):
        with claim(tmp_path / "work", settings, data) as claimed:
            assert claimed.data_sha256 == data.fingerprint()
    written = json.loads((tmp_path / "work" / "settings.json").read_text())
    assert written["strategy"] == settings.strategy
    assert written["data_sha256"] == data.fingerprint()
    assert written["threads"] == [torch.get_num_threads()]


def test_other_settings_or_another_cell_are_refused(tmp_path: Path, settings: Settings, data: ImageData) -> None:
    with claim(tmp_path, settings, data, genotype=published("bnas_v2_clr_v1")):
        pass
    before = (tmp_path / "settings.json").read_bytes()
    for other, genotype in [
        (replace(settings, seed=9), published("bnas_v2_clr_v1")),
        (settings, published("bnas_v2_pc_v1")),
        (settings, None),
    ]:
        with pytest.raises(ValueError, match=f"^{tmp_path} holds a run with other settings"):
            claim(tmp_path, other, data, genotype=genotype).__enter__()
    assert (tmp_path / "settings.json").read_bytes() == before


def test_one_changed_pixel_or_label_is_refused(tmp_path: Path, settings: Settings, data: ImageData) -> None:
    with claim(tmp_path, settings, data):
        pass
    for key in ("x_train", "y_train", "x_test", "y_test"):
        changed = getattr(data, key).clone()
        changed.view(-1)[0] = 1 - min(int(changed.view(-1)[0]), 1)
        sentence = f"^The data {settings.data} has changed since the run in {tmp_path} began; bring the same images"
        with pytest.raises(ValueError, match=sentence):
            claim(tmp_path, settings, replace(data, **{key: changed})).__enter__()
    with claim(tmp_path, settings, data):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_settings_are_named(content: str, tmp_path: Path, settings: Settings, data: ImageData) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path} is damaged; restore it"):
        claim(tmp_path, settings, data).__enter__()
    assert path.read_text() == content


def test_a_full_disk_during_a_run_names_the_folder(tmp_path: Path, settings: Settings, data: ImageData) -> None:
    with pytest.raises(FullDiskError, match=f"^There is no room to write {tmp_path} "), claim(tmp_path, settings, data):
        os.write(os.open("/dev/full", os.O_WRONLY), b"a line of a log")


# The fingerprint of data


def test_a_fingerprint_is_of_what_the_set_holds_and_not_of_how_it_lies_in_memory(data: ImageData) -> None:
    copy = replace(data, name="other", x_train=data.x_train.transpose(2, 3).contiguous().transpose(2, 3))
    assert copy.fingerprint() == data.fingerprint()
    assert len(data.fingerprint()) == hashlib.sha256().digest_size * 2
    others = [
        replace(data, flip=not data.flip),
        replace(data, num_classes=3),
        replace(data, x_train=data.x_train[:-1], y_train=data.y_train[:-1]),
        replace(data, x_train=data.x_test, y_train=data.y_test, x_test=data.x_train, y_test=data.y_train),
    ]
    assert len({each.fingerprint() for each in [data, *others]}) == 5


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = generator.integers(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_a_folder_of_images_is_told_apart_by_names_sizes_and_labels(image_folder: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        return load_data(f"imagefolder:{folder}").fingerprint()

    first = fingerprint(image_folder)
    moved = tmp_path / "elsewhere"
    image_folder.rename(moved)
    assert fingerprint(moved) == first
    found = {first}
    (moved / "train" / "cat" / "0.png").rename(moved / "train" / "cat" / "2.png")
    found.add(fingerprint(moved))
    with (moved / "val" / "dog" / "0.png").open("ab") as file:
        file.write(b"\0")
    found.add(fingerprint(moved))
    (moved / "train" / "cat" / "1.png").rename(moved / "train" / "dog" / "3.png")
    found.add(fingerprint(moved))
    assert len(found) == 4


# The number of threads


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_resume_with_other_threads_says_that_the_last_bits_will_differ(
    tmp_path: Path, settings: Settings, data: ImageData, caplog: pytest.LogCaptureFixture
) -> None:
    with threads(1), claim(tmp_path, settings, data) as claimed:
        assert claimed.threads == (1,)
    with threads(2), claim(tmp_path, settings, data) as claimed:  # nothing was computed with one
        assert claimed.threads == (2,)
    checkpoint(tmp_path)
    with threads(2), claim(tmp_path, settings, data) as claimed:
        assert claimed.threads == (2,)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING), threads(1), claim(tmp_path, settings, data) as claimed:
        assert claimed.threads == (2, 1)
    assert "2 CPU threads and resumes with 1: its result will differ in the last bits" in caplog.text
    caplog.clear()
    with threads(1), claim(tmp_path, settings, data) as claimed:
        assert claimed.threads == (2, 1)
    assert caplog.text == ""


# One process at a time


def hold(folder: Path, more: str = "") -> subprocess.Popen[str]:
    """A process that holds ``folder``, does ``more`` and then waits."""
    script = f"""
        import os, time
        from pathlib import Path
        from nni_plugins.run.work_folder import locked
        with locked(Path({str(folder)!r}), Path({str(folder)!r}) / "run.lock"):
            {more}
            print("holds", flush=True)
            time.sleep(100)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_folder_in_use_is_refused_by_name_until_its_process_dies(
    tmp_path: Path, settings: Settings, data: ImageData
) -> None:
    process = hold(tmp_path)
    try:
        for _ in range(2):
            with pytest.raises(BlockingIOError, match=rf"^{tmp_path} is in use by process {process.pid} on \S+; wait "):
                claim(tmp_path, settings, data).__enter__()
        assert not (tmp_path / "settings.json").exists()
    finally:
        end(process)
    with claim(tmp_path, settings, data):
        assert json.loads((tmp_path / "run.holder").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run.holder").exists()


def test_a_worker_that_outlives_a_killed_process_is_waited_for(tmp_path: Path) -> None:
    """As the data loader's workers do: a fork has the lock's file open too."""
    end(hold(tmp_path, more="os.fork() or (time.sleep(1.5), os._exit(0))"))
    with locked(tmp_path, tmp_path / "run.lock"):
        pass


def test_two_runs_for_one_result_folder(tmp_path: Path, settings: Settings, data: ImageData) -> None:
    out = tmp_path / "result"
    with (
        claim(tmp_path / "one", settings, data, out=out),
        pytest.raises(BlockingIOError, match=rf"^{out} is in use by process {os.getpid()} on "),
    ):
        claim(tmp_path / "other", settings, data, out=out).__enter__()
    with reserved(out):
        assert not out.exists()
