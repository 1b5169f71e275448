"""Results on disk, written so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def atomic_write(path: str | Path, content: str | bytes) -> Path:
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
    """
    path = Path(path)
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
    """
    path = refuse_existing(path, force=force)
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
