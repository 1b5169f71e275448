"""Results on disk, written so that a reader never sees half of one, and every JSON parser reads them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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
    FullDiskError
        If there is no room for it.
    """
    path = Path(path)
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
    """Check, before any work is done, that a result folder may be written at ``path``.

    Raises
    ------
    FileExistsError
        If something is there already and ``force`` is not set.
    """
    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another output folder, or pass --force to replace it.")
    return path


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Collect files in a temporary folder that becomes ``path`` only if the block ends well.

    Parameters
    ----------
    path
        The folder to make.
    force
        Replace what is at ``path``; without it an existing ``path`` is refused.

    Yields
    ------
    Path
        A temporary folder beside ``path`` to write into.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``force`` is not set.
    FullDiskError
        If there is no room for what the block writes.
    """
    path = refuse_existing(path, force=force)
    with naming_a_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            temporary.chmod(0o755)
            refuse_existing(path, force=force)
            if path.is_dir():
                replaced = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
                os.replace(path, replaced)
                os.replace(temporary, path)
                shutil.rmtree(replaced)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
