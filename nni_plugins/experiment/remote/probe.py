"""Print, as JSON, what of a machine matters to a trial. It is run there through SSH, by the standard library alone.

    python3 - PACKAGES PORT < probe.py

``PACKAGES`` are names separated by commas, ``PORT`` is where 127.0.0.1 leads back to the machine that asks; 0 for none.
"""

from __future__ import annotations

import json
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

_SECONDS = 300  # a first import of torch from a cold disk


def main(packages: str, port: str) -> dict[str, Any]:
    """Return the facts."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in packages.split(",")},
        "import": _ends("import torch, torchvision, nni, pytorch_lightning")[0],
        "torch_gpus": _ends("import torch; print(torch.cuda.device_count())")[1],
        "driver_gpus": _driver_gpus(),
        "folder": str(_folder()),
        "free_megabytes": shutil.disk_usage(_existing(_folder())).free >> 20,
        "not_writable": _not_writable(_existing(_folder())),
        "way_back": _reaches(int(port)),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ends(code: str) -> tuple[str, str]:
    """The last line of the error that Python code ends with, and the last line of what it prints."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {_SECONDS} seconds", ""
    error = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""
    return error, (done.stdout.strip().splitlines() or [""])[-1]


def _driver_gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _folder() -> Path:
    return Path.home() / "nni-experiments"


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _not_writable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return str(error.strerror)


def _reaches(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            return connection.recv(7) == b"reached"
    except OSError:
        return False


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
