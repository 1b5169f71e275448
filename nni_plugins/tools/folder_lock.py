"""One live process per folder: a lock of the operating system, which ends with its process, however that ends.

Beside the lock file, a file with the ending ``.holder`` names the process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from nni_plugins.tools.atomic_files import atomic_write, clear_killed, strict_json

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

WORKERS_OUTLIVE = 10.0
"""Seconds for which the data loader's workers of a killed process may hold its lock: they look for it every five."""


@contextlib.contextmanager
def reserved(out: Path) -> Iterator[None]:
    """Hold the result folder ``out``, which need not exist, by a hidden lock file beside it; see :func:`locked`.

    What killed processes have left of an export to ``out`` is cleared.
    """
    with locked(out, out.with_name(f".{out.name}.lock")):
        clear_killed(out)
        yield


@contextlib.contextmanager
def locked(folder: Path, lock_file: Path) -> Iterator[None]:
    """Hold ``folder`` inside the block; a file beside ``lock_file``, with the ending ``.holder``, names this process.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    PermissionError
        If the lock file's folder may not be written.
    OSError
        If the file system has no locks.
    """
    lock, holder_file = FileLock(lock_file), lock_file.with_suffix(".holder")
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WORKERS_OUTLIVE if _has_died(_read_holder(holder_file)) else 0)
    except Timeout:
        raise BlockingIOError(
            f"{folder} is in use by {_read_holder(holder_file) or 'another process'}; wait until it ends, or end it, "
            "then run the same again."
        ) from None
    except NotImplementedError:
        raise OSError(f"The file system of {folder} cannot lock files; choose a folder on another one.") from None
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        raise PermissionError(
            f"{lock_file.parent} may not be written ({os.strerror(error.errno)}); choose a folder that you own."
        ) from error
    try:
        # not inside the lock file, which filelock empties whenever a process asks for the lock
        atomic_write(holder_file, strict_json({"host": socket.gethostname(), "pid": os.getpid()}, indent=None))
        yield
    finally:
        holder_file.unlink(missing_ok=True)
        lock.release()


@dataclass(frozen=True)
class _Holder:
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _read_holder(path: Path) -> _Holder | None:
    try:
        return _Holder(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # the holder has not written it yet, or the disk damaged it
        return None


def _has_died(holder: _Holder | None) -> bool:
    return holder is not None and holder.host == socket.gethostname() and not psutil.pid_exists(holder.pid)
