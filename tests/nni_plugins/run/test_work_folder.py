"""One run works in a folder at a time, and each stage of it only on what began there: same settings, same data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nni_plugins.data import ImageData, load_data
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import Stage, claim, leave
from nni_plugins.tools.atomic_files import FullDiskError
from nni_plugins.tools.folder_lock import locked, reserved
from search_spaces import published


@pytest.fixture
def data(tiny_data: str) -> ImageData:
    data = load_data(tiny_data)
    assert isinstance(data, ImageData)
    return data


@pytest.fixture
def settings(tiny_data: str) -> Settings:
    return Settings.of(data=tiny_data)


def checkpoint(work: Path, stage: str = "search", epoch: int = 1) -> Path:
    path = work / stage / f"epoch-{epoch:04d}.ckpt"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
    return path


CELL = published("bnas_v2_clr_v1")


# Which run it is


def test_the_same_stage_resumes_and_the_folder_says_what_it_is(tmp_path: Path, settings: Settings) -> None:
    for _ in range(2):
        assert Stage.of_search(settings, "f00d").enter(tmp_path) == (torch.get_num_threads(),)
        checkpoint(tmp_path)
    written = json.loads((tmp_path / "search" / "settings.json").read_text())
    assert written["depends_on"]["strategy"] == settings.strategy
    assert written["data_sha256"] == "f00d"
    assert written["threads"] == [torch.get_num_threads()]


Change = Callable[[Settings], Settings]
SEED: Change = lambda settings: replace(settings, seed=9)  # noqa: E731
SEARCH: Change = lambda settings: replace(settings, search=replace(settings.search, lr=0.7))  # noqa: E731
RETRAINING: Change = lambda settings: replace(settings, retrain=replace(settings.retrain, lr=0.7))  # noqa: E731
NET: Change = lambda settings: replace(settings, net_arguments={"channels": 4})  # noqa: E731


@pytest.mark.parametrize("change", [SEED, SEARCH], ids=["seed", "lr"])
def test_a_search_with_other_settings_is_refused_once_an_epoch_is_done(
    change: Change, tmp_path: Path, settings: Settings
) -> None:
    Stage.of_search(settings, "f00d").enter(tmp_path)
    Stage.of_search(change(settings), "f00d").enter(tmp_path)  # there is nothing to lose yet
    checkpoint(tmp_path)
    before = (tmp_path / "search" / "settings.json").read_bytes()
    with pytest.raises(ValueError, match=f"^{tmp_path}/search holds a search with other settings"):
        Stage.of_search(settings, "f00d").enter(tmp_path)
    assert (tmp_path / "search" / "settings.json").read_bytes() == before


def test_a_search_whose_table_of_latencies_has_changed_is_refused(tmp_path: Path, settings: Settings) -> None:
    table = tmp_path / "table.json"
    aware = replace(settings, search=replace(settings.search, latency_table=str(table)))
    table.write_text("{}")
    Stage.of_search(aware, "f00d").enter(tmp_path)
    checkpoint(tmp_path)
    Stage.of_search(aware, "f00d").enter(tmp_path)
    table.write_text('{"places": []}')
    with pytest.raises(ValueError, match="holds a search with other settings"):
        Stage.of_search(aware, "f00d").enter(tmp_path)


@pytest.mark.parametrize("change", [RETRAINING, NET], ids=["retrain.lr", "net.channels"])
def test_a_search_does_not_depend_on_the_retraining(change: Change, tmp_path: Path, settings: Settings) -> None:
    Stage.of_search(settings, "f00d").enter(tmp_path)
    checkpoint(tmp_path)
    Stage.of_search(change(settings), "f00d").enter(tmp_path)


@pytest.mark.parametrize("change", [RETRAINING, NET], ids=["retrain.lr", "net.channels"])
def test_a_later_stage_with_other_settings_begins_anew_and_loses_nothing(
    change: Change, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    Stage.of_retraining(settings, CELL, "f00d").enter(tmp_path, first=False)
    checkpoint(tmp_path, "retrain", epoch=7)
    Stage.of_retraining(change(settings), CELL, "f00d").enter(tmp_path, first=False)
    assert f"is kept in {tmp_path}/retrain-1; rename it to retrain to resume that" in caplog.text
    checkpoint(tmp_path, "retrain", epoch=3)
    Stage.of_retraining(settings, published("bnas_v2_pc_v1"), "f00d").enter(tmp_path, first=False)
    assert not list((tmp_path / "retrain").glob("*.ckpt"))
    (tmp_path / "retrain").rename(tmp_path / "third")
    (tmp_path / "retrain-1").rename(tmp_path / "retrain")
    Stage.of_retraining(settings, CELL, "f00d").enter(tmp_path)
    assert (tmp_path / "retrain" / "epoch-0007.ckpt").is_file()
    assert (tmp_path / "retrain-2" / "epoch-0003.ckpt").is_file()


def test_a_first_stage_of_another_cell_is_refused(tmp_path: Path, settings: Settings) -> None:
    for make, name in ((Stage.of_retraining, "retrain"), (Stage.of_evaluation, "evaluate")):
        make(settings, CELL, "f00d").enter(tmp_path)
        checkpoint(tmp_path, name)
        make(settings, CELL, "f00d").enter(tmp_path)
        with pytest.raises(ValueError, match=f"^{tmp_path}/{name} holds a {name} with other settings"):
            make(settings, published("bnas_v2_pc_v1"), "f00d").enter(tmp_path)


@pytest.mark.parametrize("first", [True, False])
def test_other_data_is_refused(first: bool, tmp_path: Path, settings: Settings) -> None:
    Stage.of_search(settings, "f00d").enter(tmp_path)
    checkpoint(tmp_path)
    sentence = f"^The data {settings.data} has changed since the run in {tmp_path} began; bring the same images"
    with pytest.raises(ValueError, match=sentence):
        Stage.of_search(settings, "beef").enter(tmp_path, first=first)
    Stage.of_search(settings, "f00d").enter(tmp_path)


@pytest.mark.parametrize("first", [True, False])
def test_what_another_version_began_is_refused(first: bool, tmp_path: Path, settings: Settings) -> None:
    Stage.of_search(settings, "f00d").enter(tmp_path)
    path = checkpoint(tmp_path).with_name("settings.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "version": "0.0.7"}))
    sentence = rf"holds a search that nni-plugins 0\.0\.7 began, and this is {re.escape(record['version'])}; install"
    with pytest.raises(ValueError, match=sentence):
        Stage.of_search(settings, "f00d").enter(tmp_path, first=first)
    assert json.loads(path.read_text())["version"] == "0.0.7"


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "{}", '{"threads": []}'])
def test_damaged_settings_are_named(content: str | None, tmp_path: Path, settings: Settings) -> None:
    path = checkpoint(tmp_path).with_name("settings.json")
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path} is missing or damaged; restore it"):
        Stage.of_search(settings, "f00d").enter(tmp_path)
    assert (path.read_text() if path.exists() else None) == content


def test_a_run_that_has_its_result_leaves_only_logs(tmp_path: Path) -> None:
    for stage in ("search", "retrain", "retrain-1", "tensorboard"):
        (tmp_path / stage).mkdir()
    leave(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_a_full_disk_during_a_run_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FullDiskError, match=f"^There is no room to write {tmp_path} "), claim(tmp_path):
        os.write(os.open("/dev/full", os.O_WRONLY), b"a line of a log")


# The fingerprint of data


def test_a_fingerprint_is_of_what_the_set_holds_and_not_of_how_it_lies_in_memory(data: ImageData) -> None:
    copy = replace(data, name="other", x_train=data.x_train.transpose(2, 3).contiguous().transpose(2, 3))
    assert copy.fingerprint() == data.fingerprint()
    assert len(data.fingerprint()) == hashlib.sha256().digest_size * 2
    others = [
        replace(data, flip=not data.flip),
        replace(data, num_classes=3, class_names=()),
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
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def enter(number: int) -> tuple[int, ...]:
        with threads(number):
            return Stage.of_search(settings, "f00d").enter(tmp_path)

    assert enter(1) == (1,)
    assert enter(2) == (2,), "nothing was computed with one"
    checkpoint(tmp_path)
    assert enter(2) == (2,)
    assert caplog.text == ""
    assert enter(1) == (2, 1)
    assert "2 CPU threads and resumes with 1: its result will differ in the last bits" in caplog.text
    caplog.clear()
    assert enter(1) == (2, 1)
    assert caplog.text == ""


# One process at a time


def hold(folder: Path, more: str = "") -> subprocess.Popen[str]:
    """A process that holds ``folder``, does ``more`` and then waits."""
    script = f"""
        import os, time
        from pathlib import Path
        from nni_plugins.tools.folder_lock import locked
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


def test_a_folder_in_use_is_refused_by_name_until_its_process_dies(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        for _ in range(2):
            with pytest.raises(BlockingIOError, match=rf"^{tmp_path} is in use by process {process.pid} on \S+; wait "):
                claim(tmp_path).__enter__()
    finally:
        end(process)
    with claim(tmp_path):
        assert json.loads((tmp_path / "run.holder").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run.holder").exists()


def test_a_worker_that_outlives_a_killed_process_is_waited_for(tmp_path: Path) -> None:
    """As the data loader's workers do: a fork has the lock's file open too."""
    end(hold(tmp_path, more="os.fork() or (time.sleep(1.5), os._exit(0))"))
    with locked(tmp_path, tmp_path / "run.lock"):
        pass


def test_two_runs_for_one_result_folder(tmp_path: Path) -> None:
    out = tmp_path / "result"
    with (
        claim(tmp_path / "one", out=out),
        pytest.raises(BlockingIOError, match=rf"^{out} is in use by process {os.getpid()} on "),
    ):
        claim(tmp_path / "other", out=out).__enter__()
    with reserved(out):
        assert not out.exists()


@contextlib.contextmanager
def by_nobody() -> Iterator[None]:
    """Do what is in the block without the rights of root, who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def public() -> Iterator[Path]:
    """A temporary folder that nobody may look into; pytest's own lie in a folder of the user alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("which", ["work", "out"])
def test_a_read_only_folder_is_named_before_any_work(which: str, public: Path) -> None:
    folders = {"work": public / "work_in", "out": public / "out_in"}
    for folder in folders.values():
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    folders[which].chmod(0o555)
    sentence = rf"^{folders[which]}(/run)? may not be written \(Permission denied\); choose a folder"
    with by_nobody(), pytest.raises(PermissionError, match=sentence):
        claim(folders["work"] / "run", out=folders["out"] / "result").__enter__()
    assert not any((folders["out"]).iterdir())


def test_what_a_killed_export_left_is_cleared_by_the_next_run_alone(tmp_path: Path) -> None:
    left = tmp_path / ".result.abcdefgh.partial"
    left.mkdir()
    with reserved(tmp_path / "other"):
        assert left.exists()
    with reserved(tmp_path / "result"):
        assert not left.exists()
