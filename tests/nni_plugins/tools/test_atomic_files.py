from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nni_plugins.tools.atomic_files import (
    FullDiskError,
    append_lines,
    atomic_directory,
    atomic_write,
    clear_killed,
    naming_a_full_disk,
    refuse_existing,
    refuse_existing_folder,
    strict_json,
)

Room = Callable[[int], AbstractContextManager[None]]


class TestAtomicWrite:
    @pytest.mark.parametrize(("content", "on_disk"), [("β = 1\n", b"\xce\xb2 = 1\n"), (b"\x00\xff", b"\x00\xff")])
    def test_text_and_bytes(self, content: str | bytes, on_disk: bytes, tmp_path: Path) -> None:
        path = tmp_path / "new/folder/file"
        assert atomic_write(path, content) == path
        assert path.read_bytes() == on_disk

    def test_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("longer than what comes")
        atomic_write(str(path), "short")
        assert path.read_text() == "short"
        assert path.stat().st_mode & 0o777 == 0o644

    def test_a_full_disk_leaves_the_old_file_and_nothing_else_and_says_what_to_free(
        self, tmp_path: Path, room: Room
    ) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        sentence = (
            rf"^There is no room to write {path} \(File too large, \d+ MB free on its disk\); free some, such as "
        )
        with room(10_000), pytest.raises(FullDiskError, match=sentence):
            atomic_write(path, "new" * 5_000)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class TestFullDisk:
    def test_a_device_that_is_full(self) -> None:
        with (
            pytest.raises(FullDiskError, match=r"no room to write /dev/full \(No space left on device, "),
            naming_a_full_disk("/dev/full"),
            open("/dev/full", "w") as file,
        ):
            file.write("a")

    def test_other_errors_are_left_as_they_are(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), naming_a_full_disk(tmp_path):
            (tmp_path / "none").read_text()


class TestStrictJson:
    def test_numbers_that_are_not_finite_become_null_wherever_they_stand(self) -> None:
        value = {"a": math.nan, "b": [1.5, (math.inf, {"c": -math.inf, "d": "NaN"})], "e": None, "f": True, "g": 3}
        expected = {"a": None, "b": [1.5, [None, {"c": None, "d": "NaN"}]], "e": None, "f": True, "g": 3}
        text = strict_json(value)
        assert json.loads(text, parse_constant=pytest.fail) == expected
        assert text.startswith('{\n  "a": null')
        assert strict_json([math.nan, 1], indent=None) == "[null, 1]"


class TestAppendLines:
    def test_appends_and_makes(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        append_lines(path, ["α", "b"])
        append_lines(str(path), ["c"])
        assert path.read_text(encoding="utf-8") == "α\nb\nc\n"

    def test_a_line_that_a_crash_cut_short_is_ended_first(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_text("whole\nhal")
        append_lines(path, ["next"])
        assert path.read_text() == "whole\nhal\nnext\n"

    @pytest.mark.parametrize("end", ["\n", ""])
    def test_a_full_disk_leaves_the_file_as_it_was(self, end: str, tmp_path: Path, room: Room) -> None:
        path = tmp_path / "lines"
        path.write_text("x" * 9_990 + end)
        before = path.read_bytes()
        with room(10_000), pytest.raises(FullDiskError, match=f"no room to write {path}"):
            append_lines(path, ["a line of more than ten bytes"])
        assert path.read_bytes() == before

    @pytest.mark.parametrize(("place", "kind"), [("folder", "a folder"), ("pipe", "a device, pipe or socket")])
    def test_only_a_file_is_replaced(self, place: str, kind: str, tmp_path: Path) -> None:
        path = tmp_path / place
        path.mkdir() if place == "folder" else os.mkfifo(path)
        for write in (lambda: atomic_write(path, "new"), lambda: refuse_existing(path, force=True)):
            with pytest.raises(FileExistsError, match=f"^{path} is {kind}, not a file; choose another file to write"):
                write()
        assert path.is_dir() or path.is_fifo()
        assert list(tmp_path.iterdir()) == [path]


class TestRefuseExisting:
    def test_free(self, tmp_path: Path) -> None:
        assert refuse_existing(str(tmp_path / "free")) == tmp_path / "free"

    def test_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "taken"
        path.touch()
        with pytest.raises(FileExistsError, match="exists already; choose another file, or pass --force to replace it"):
            refuse_existing(path)
        assert refuse_existing(path, force=True) == path


OURS = ("new", "old", "mark")
Making = contextlib.AbstractContextManager[Path]


def making(path: str | Path, *, force: bool = False) -> Making:
    return atomic_directory(path, ours=OURS, mark="mark", force=force)


class TestRefuseExistingFolder:
    def refused(self, path: Path, *, force: bool) -> str:
        with pytest.raises(FileExistsError) as error:
            refuse_existing_folder(path, ours=OURS, mark="mark", force=force)
        return str(error.value)

    def test_free_and_empty(self, tmp_path: Path) -> None:
        for path, force in ((tmp_path / "free", False), (tmp_path, True)):
            assert refuse_existing_folder(path, ours=OURS, mark="mark", force=force) == path
        assert self.refused(tmp_path, force=False).startswith(f"{tmp_path} exists already; ")

    def test_a_complete_one_says_so(self, tmp_path: Path) -> None:
        for name in ("mark", "theirs"):
            (tmp_path / name).touch()
        assert self.refused(tmp_path, force=False) == (
            f"{tmp_path} holds a complete result already; choose another output folder, or pass --force to replace it."
        )
        assert refuse_existing_folder(tmp_path, ours=OURS, mark="mark", force=True) == tmp_path

    def test_what_is_no_result_is_named_and_refused_in_any_case(self, tmp_path: Path) -> None:
        for name in ("d", "b", "old", "a", "c", "e"):
            (tmp_path / name).touch()
        sentence = f"{tmp_path} holds a, b, c and 2 more and no mark, so that it is not a result to replace; choose "
        assert all(self.refused(tmp_path, force=force).startswith(sentence) for force in (False, True))
        for path, kind in ((tmp_path / "a", "a file"), (Path("/dev/null"), "a device, pipe or socket")):
            assert self.refused(path, force=True).startswith(f"{path} is {kind}, not a folder; choose another")


class TestAtomicDirectory:
    def test_appears_whole_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a/result"
        with making(path) as folder:
            assert folder.parent == path.parent
            (folder / "one").write_text("1")
            assert not path.exists()
        assert (path / "one").read_text() == "1"
        assert path.stat().st_mode & 0o777 == 0o755
        assert list(path.parent.iterdir()) == [path]

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def fail() -> None:
            with making(tmp_path / "result") as folder:
                (folder / "one").write_text("1")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_nothing_and_names_the_folder(self, tmp_path: Path, room: Room) -> None:
        path = tmp_path / "result"
        sentence = f"no room to write {path} "
        with room(10_000), pytest.raises(FullDiskError, match=sentence), making(path) as folder:
            (folder / "one").write_text("1" * 20_000)
        assert list(tmp_path.iterdir()) == []

    def test_existing_is_refused_before_any_work(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError), making(tmp_path):
            pytest.fail("the block ran")

    def test_what_appears_meanwhile_is_not_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "result"

        def race() -> None:
            with making(path):
                path.mkdir()
                (path / "theirs").touch()

        with pytest.raises(FileExistsError):
            race()
        assert [file.name for file in path.iterdir()] == ["theirs"]
        assert list(tmp_path.iterdir()) == [path]

    @pytest.fixture
    def result(self, tmp_path: Path) -> Path:
        path = tmp_path / "result"
        (path / "theirs").mkdir(parents=True)
        (path / "theirs" / "file").write_text("kept")
        for name in ("old", "mark"):
            (path / name).touch()
        (path / "link").symlink_to("nowhere")
        return path

    def test_force_replaces_what_is_ours_and_keeps_all_else(self, result: Path) -> None:
        with making(result, force=True) as folder:
            (folder / "new").touch()
        assert sorted(file.name for file in result.iterdir()) == ["link", "new", "theirs"]
        assert (result / "theirs" / "file").read_text() == "kept"
        assert list(result.parent.iterdir()) == [result]

    def test_force_through_a_link_replaces_what_it_points_to(self, result: Path) -> None:
        link = result.with_name("latest")
        link.symlink_to(result)
        with making(link, force=True) as folder:
            (folder / "new").touch()
        assert link.is_symlink() and (result / "new").is_file()

    def test_force_that_fails_leaves_the_old_one(self, result: Path) -> None:
        before = sorted(result.iterdir())

        def fail() -> None:
            with making(result, force=True):
                raise RuntimeError("search stopped")

        with pytest.raises(RuntimeError, match="search stopped"):
            fail()
        assert sorted(result.iterdir()) == before
        assert list(result.parent.iterdir()) == [result]


class TestKilled:
    """A killed process cleans nothing up; each test is killed, for real, at one moment."""

    SCRIPT = """
        import os, signal, sys
        from pathlib import Path
        import nni_plugins.tools.atomic_files as atomic_files
        from nni_plugins.tools.atomic_files import atomic_directory

        path, moment = Path(sys.argv[1]), int(sys.argv[2])
        renames, replace = iter(range(10)), os.replace

        def replace_or_die(*words):
            if next(renames) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*words)

        atomic_files.os.replace = replace_or_die
        with atomic_directory(path, ours=("new", "mark"), mark="mark", force=True) as folder:
            (folder / "new").write_text("new")
    """

    @pytest.mark.parametrize("moment", [0, 1], ids=["before the old one is moved", "before the new one is in place"])
    def test_the_next_run_clears_its_leftovers_and_puts_the_old_one_back(self, moment: int, tmp_path: Path) -> None:
        path = tmp_path / "result"
        path.mkdir()
        for name in ("mark", "theirs"):
            (path / name).write_text("old")
        neighbours = [tmp_path / ".result.abcdefgh.partial2", tmp_path / ".result.x.abcdefgh.partial"]
        for neighbour in neighbours:
            neighbour.mkdir()
        words = [sys.executable, "-c", textwrap.dedent(self.SCRIPT), str(path), str(moment)]
        assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
        assert path.exists() == (moment == 0) and len(list(tmp_path.iterdir())) > 3
        clear_killed(path)
        assert sorted(tmp_path.iterdir()) == sorted([path, *neighbours])
        assert {file.name: file.read_text() for file in path.iterdir()} == {"mark": "old", "theirs": "old"}

    def test_where_there_is_nothing(self, tmp_path: Path) -> None:
        clear_killed(tmp_path / "none" / "result")
        assert list(tmp_path.iterdir()) == []
