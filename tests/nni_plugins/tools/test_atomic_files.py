from __future__ import annotations

import os
from pathlib import Path

import pytest

from nni_plugins.tools.atomic_files import atomic_directory, atomic_write, refuse_existing


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

    def test_a_failure_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        path.write_text("old")

        def full(handle: int) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            atomic_write(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


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
