"""Results on disk, written so that a reader never sees half of one, and every JSON parser reads them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullDiskError(OSError):
    """There is no room for a file; the message names it and says what to free."""


@contextlib.contextmanager
def naming_a_full_disk(path: str | Path) -> Iterator[None]:
    """Turn an operating system's "no space left" inside the block into a sentence.

    Parameters
    ----------
    path
        What is being written: a file, or a folder for all that is written below it.

    Raises
    ------
    FullDiskError
        If an error inside the block says that the disk is full, the quota used up or the file too large.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        reason = os.strerror(error.errno)
        raise FullDiskError(
            f"There is no room to write {path} ({reason}, {_free_megabytes(Path(path))} MB free on its disk); free "
            "some, such as the .run folders of runs that have ended, old results or old experiments in "
            "~/nni-experiments, then run the same again."
        ) from error


def _free_megabytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free // 2**20


def strict_json(value: Any, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON text; what JSON cannot say, a number that is not finite, becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Append ``lines`` to a text file, all of them or none.

    Parameters
    ----------
    path
        The file, made if it is missing. If it ends inside a line, cut short by a crash, that line is ended first.
    lines
        Texts without line breaks (written as UTF-8).

    Raises
    ------
    OSError
        If the write fails; the file is as it was before.
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    with naming_a_full_disk(path), open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            content = content if file.read(1) == b"\n" else b"\n" + content
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def atomic_write(path: str | Path, content: str | bytes | memoryview) -> Path:
    """Write ``content`` to ``path``, or leave ``path`` as it was if the write fails.

    Parameters
    ----------
    path
        The file to make or replace; its folder is made if it is missing.
    content
        Text (written as UTF-8) or bytes.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileExistsError
        If something other than a file is there: a folder, or a device, which would be lost by replacing it.
    FullDiskError
        If there is no room for it.
    """
    path = Path(path)
    _refuse_other_than_a_file(path)
    with naming_a_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return path


def refuse_existing(path: str | Path, *, force: bool = False) -> Path:
    """Return ``path`` if a file may be written there, to be asked before any work is done.

    Raises
    ------
    FileExistsError
        If a file is there already and ``force`` is not set; if something other than a file is there, in any case.
    """
    path = Path(path)
    _refuse_other_than_a_file(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another file, or pass --force to replace it.")
    return path


def _refuse_other_than_a_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, pipe or socket"
        raise FileExistsError(f"{path} is {kind}, not a file; choose another file to write.")


def refuse_existing_folder(path: str | Path, *, ours: Collection[str], mark: str, force: bool = False) -> Path:
    """Return ``path`` if a folder may be made or replaced there, to be asked before any work is done.

    Parameters
    ----------
    path
        The folder.
    ours
        Names of the files that such a folder consists of.
    mark
        The one that tells such a folder from any other.
    force
        Allow a folder that holds ``mark``, whose files are to be replaced, or an empty one.

    Raises
    ------
    FileExistsError
        If something is there that may not be replaced; the message says what.
    """
    path = Path(path)
    if not path.exists():
        return path
    if not path.is_dir():
        kind = "a file" if path.is_file() else "a device, pipe or socket"
        raise FileExistsError(f"{path} is {kind}, not a folder; choose another output folder.")
    complete = (path / mark).is_file()
    others = sorted(file.name for file in path.iterdir() if file.name not in ours)
    if others and not complete:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise FileExistsError(
            f"{path} holds {shown} and no {mark}, so that it is not a result to replace; choose another output folder."
        )
    if not force:
        state = "holds a complete result" if complete else "exists"
        raise FileExistsError(f"{path} {state} already; choose another output folder, or pass --force to replace it.")
    return path


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, ours: Collection[str], mark: str, force: bool = False) -> Iterator[Path]:
    """Collect files in a temporary folder that becomes ``path`` only if the block ends well.

    Parameters
    ----------
    path
        The folder to make.
    ours, mark
        As in :func:`refuse_existing_folder`.
    force
        Replace those of the files at ``path`` that are ``ours``, and keep all others; without it an existing ``path``
        is refused.

    Yields
    ------
    Path
        A temporary folder beside ``path`` to write into.

    Raises
    ------
    FileExistsError
        As :func:`refuse_existing_folder`.
    FullDiskError
        If there is no room for what the block writes.
    """

    def allowed() -> Path:
        return refuse_existing_folder(path, ours=ours, mark=mark, force=force)

    path = allowed().resolve()
    with naming_a_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _hidden_beside(path, _PARTIAL)
        try:
            yield temporary
            temporary.chmod(0o755)
            allowed()
            if path.exists():
                _copy_others(path, temporary, ours)
                replaced = _hidden_beside(path, _REPLACED)
                os.replace(path, replaced)
                os.replace(temporary, path)
                shutil.rmtree(replaced)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


_PARTIAL, _REPLACED = "partial", "replaced"


def _hidden_beside(path: Path, ending: str) -> Path:
    return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".{ending}"))


def _copy_others(source: Path, target: Path, ours: Collection[str]) -> None:
    """Copy what is not ours, rather than move it: a kill at any moment leaves it in one of the two places."""
    for entry in source.iterdir():
        if entry.name in ours or (target / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def clear_killed(path: str | Path) -> None:
    """Clear what killed processes have left of :func:`atomic_directory` beside ``path``.

    A folder that such a process had moved away and not yet replaced is put back. To be called only where no live
    process can be writing ``path``.
    """
    path = Path(path).resolve()
    hidden = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.({_PARTIAL}|{_REPLACED})")
    for left in list(path.parent.iterdir()) if path.parent.is_dir() else []:
        found = hidden.fullmatch(left.name)
        if found is None:
            continue
        if found.group(1) == _REPLACED and not path.exists() and any(left.iterdir()):
            os.replace(left, path)
        else:
            shutil.rmtree(left, ignore_errors=True)
