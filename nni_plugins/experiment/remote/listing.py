"""Print, as JSON, what a trial has left on this machine. It is run there through SSH, by the standard library alone.

    python3 - FOLDER RECORD < listing.py

``FOLDER`` is the trial's ``NNI_OUTPUT_DIR``; the file ``RECORD`` in it, if there is one, names the result folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

_LOCK_FILES = ("run.lock", "run.holder")


def listing(folder: str, record: str) -> dict[str, Any]:
    """Return the files of a trial that are worth bringing home.

    Parameters
    ----------
    folder
        The trial's ``NNI_OUTPUT_DIR``.
    record
        Name of the file in it that says, under ``result``, where the result is to lie.

    Returns
    -------
    dict
        Under ``work`` and ``result`` the folder's path, and of each file its path below that, its size in bytes and its
        SHA-256. Of the checkpoints of a stage there is only the newest; hidden files, locks and links are left out. A
        folder that is not there is None.
    """
    work = Path(folder).expanduser()
    result = _result_of(work / record)
    return {"work": _contents(work), "result": None if result is None else _contents(result)}


def _result_of(record: Path) -> Path | None:
    try:
        return Path(json.loads(record.read_text())["result"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # a trial that is none of ours
        return None


def _contents(folder: Path) -> dict[str, Any] | None:
    if not folder.is_dir():
        return None
    files = []
    for parent, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        checkpoints = sorted(name for name in names if name.startswith("epoch-") and name.endswith(".ckpt"))
        for name in sorted(names):
            superseded = name.startswith("epoch-") and not (checkpoints and name.startswith(checkpoints[-1]))
            if superseded or name.startswith(".") or name in _LOCK_FILES:
                continue
            try:
                content = _fingerprint(Path(parent, name))
            except FileNotFoundError:  # the trial is running, and has replaced it
                continue
            if content is not None:
                path = Path(parent, name).relative_to(folder).as_posix()
                files.append({"path": path, "size": content[0], "sha256": content[1]})
    return {"folder": str(folder), "files": files}


def _fingerprint(path: Path) -> tuple[int, str] | None:
    """Size and SHA-256 of what is in a file now: the trial may be appending to it."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return None
    size, digest = 0, hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(listing(*sys.argv[1:])))
