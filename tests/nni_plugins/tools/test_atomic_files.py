from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nni_plugins.tools.atomic_files import (
    FullDiskError,
    append_lines,
    atomic_directory,
    atomic_write,
    naming_a_full_disk,
    refuse_existing,
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


class TestRefuseExisting:
    def test_free(self, tmp_path: Path) -> None:
        assert refuse_existing(str(tmp_path / "free")) == tmp_path / "free"

    def test_taken(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError, match="exists already; choose another output folder, or pass --force"):
            refuse_existing(tmp_path)
        assert refuse_existing(tmp_path, force=True) == tmp_path


class TestAtomicDirectory:
    def test_appears_whole_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a/result"
        with atomic_directory(path) as folder:
            assert folder.parent == path.parent
            (folder / "one").write_text("1")
            assert not path.exists()
        assert (path / "one").read_text() == "1"
        assert path.stat().st_mode & 0o777 == 0o755
        assert list(path.parent.iterdir()) == [path]

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def fail() -> None:
            with atomic_directory(tmp_path / "result") as folder:
                (folder / "one").write_text("1")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_nothing_and_names_the_folder(self, tmp_path: Path, room: Room) -> None:
        path = tmp_path / "result"
        sentence = f"no room to write {path} "
        with room(10_000), pytest.raises(FullDiskError, match=sentence), atomic_directory(path) as folder:
            (folder / "one").write_text("1" * 20_000)
        assert list(tmp_path.iterdir()) == []

    def test_existing_is_refused_before_any_work(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError), atomic_directory(tmp_path):
            pytest.fail("the block ran")

    def test_what_appears_meanwhile_is_not_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "result"

        def race() -> None:
            with atomic_directory(path):
                path.mkdir()
                (path / "theirs").touch()

        with pytest.raises(FileExistsError):
            race()
        assert [file.name for file in path.iterdir()] == ["theirs"]
        assert list(tmp_path.iterdir()) == [path]

    def test_force_replaces_all_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "result"
        path.mkdir()
        (path / "old").touch()
        with atomic_directory(path, force=True) as folder:
            (folder / "new").touch()
        assert [file.name for file in path.iterdir()] == ["new"]
        assert list(tmp_path.iterdir()) == [path]

    def test_force_that_fails_leaves_the_old_one(self, tmp_path: Path) -> None:
        path = tmp_path / "result"
        path.mkdir()
        (path / "old").touch()

        def fail() -> None:
            with atomic_directory(path, force=True):
                raise RuntimeError("search stopped")

        with pytest.raises(RuntimeError, match="search stopped"):
            fail()
        assert [file.name for file in path.iterdir()] == ["old"]
        assert list(tmp_path.iterdir()) == [path]
