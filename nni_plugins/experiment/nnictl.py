"""NNI's command line, run so that its manager is closed to other machines and other pages (closed_manager.js)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import psutil

from nni_plugins.experiment.client import Experiment, NoAnswer
from nni_plugins.experiment.known import running_managers

CLOSED_MANAGER = Path(__file__).with_name("closed_manager.js")
"""What node loads before NNI's manager; it says what it closes."""

OPEN = "NNI_PLUGINS_OPEN_PAGE"
"""The variable that tells closed_manager.js to serve NNI's page to other machines too."""

ATTEMPTS = 5

_COLOUR = re.compile(r"\x1b\[\d*m")


def closed(environment: Mapping[str, str] = os.environ, *, opened: bool = False) -> dict[str, str]:
    """Return ``environment`` with what closes NNI's manager, and with this Python's programs first on its ``PATH``.

    Parameters
    ----------
    environment
        Variables.
    opened
        Let other machines reach NNI's page; requests of other pages are refused all the same.
    """
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join(filter(None, [programs, environment.get("PATH", "")]))
    kept = {name: value for name, value in environment.items() if name != OPEN}
    return {**kept, "NODE_OPTIONS": _node_options(environment), "PATH": path, **({OPEN: "1"} if opened else {})}


def is_closed(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a manager that is started in ``environment`` is closed."""
    return _load_option() in environment.get("NODE_OPTIONS", "") and OPEN not in environment


def export_line() -> str:
    """Return the line for a shell after which ``nnictl create``, ``resume`` and ``view`` start closed managers."""
    return f"export NODE_OPTIONS={shlex.quote(_node_options(os.environ))}"


def _node_options(environment: Mapping[str, str]) -> str:
    options = environment.get("NODE_OPTIONS", "")
    return options if _load_option() in options else f"{options} {_load_option()}".strip()


def _load_option() -> str:
    return f"--require {json.dumps(str(CLOSED_MANAGER), ensure_ascii=False)}"  # node's quotation marks are JSON's


def program() -> str:
    """Return the path of this environment's ``nnictl``, or of the one on the ``PATH``."""
    own = Path(sys.executable).with_name("nnictl")
    return str(own) if own.is_file() else shutil.which("nnictl") or str(own)


def nnictl(
    *words: str,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    opened: bool = False,
) -> str:
    """Run ``nnictl WORDS`` and return what it prints.

    Parameters
    ----------
    words
        The command and its options.
    environment
        Variables of the command; what closes the manager is added to them.
    folder
        Where to run it, by default the current folder.
    opened
        As in :func:`closed`.

    Raises
    ------
    NoAnswer
        If the manager did not answer ``nnictl`` in time, which ends the manager.
    OSError
        If the command fails for another reason; the message is the last line that it printed.
    """
    # Its warnings of its own imports would hide what it fails for.
    command = [sys.executable, "-W", "ignore", "-m", "nni_plugins.experiment.patient_nnictl", *words]
    done = subprocess.run(
        command,
        env=closed(environment, opened=opened),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C of the terminal is for the caller, who ends what has been started
    )
    if done.returncode:
        last = _COLOUR.sub("", done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        kind = NoAnswer if "HTTPConnectionPool" in done.stdout + done.stderr else OSError
        raise kind(f"nnictl {words[0]} failed: {' '.join(last) or f'status {done.returncode}'}")
    return done.stdout


def start(
    *words: str,
    port: int,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    opened: bool = False,
) -> Experiment:
    """Start a closed manager with ``nnictl WORDS --port PORT`` and return its experiment as soon as a trial has begun.

    A manager that does not answer in time, as on a machine that is busy otherwise, is started again.

    Parameters
    ----------
    words
        ``create --config FILE``, or ``resume ID``.
    port
        The port that the page is to be served at.
    environment, folder, opened
        As in :func:`nnictl`.

    Raises
    ------
    OSError
        If the command fails, or the experiment ends without a trial; nothing of it is left running.
    """
    call = partial(nnictl, *words, "--port", str(port), environment=environment, folder=folder, opened=opened)
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(NoAnswer):
            return _attempt(call, port, environment)
    return _attempt(call, port, environment)


def _attempt(call: Callable[[], str], port: int, environment: Mapping[str, str]) -> Experiment:
    experiment, others = Experiment(port), set(running_managers())
    try:
        call()
        experiment.wait_until_begun()
    except BaseException:
        stop(experiment, environment)
        _end_manager(port, others)
        raise
    return experiment


def _end_manager(port: int, others: Collection[str]) -> None:
    """End a manager that has not got as far as to have its experiment; never one of the ``others``, there before."""
    for name, manager in running_managers().items():
        if manager.port == port and name not in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                manager.process.terminate()


def stop(experiment: Experiment, environment: Mapping[str, str] = os.environ) -> None:
    """End the manager of ``experiment`` and all that it runs, if it is there."""
    if experiment.id:
        subprocess.run([program(), "stop", experiment.id], env=closed(environment), capture_output=True, check=False)


def free_port(first: int = 8080, *, together: int = 1) -> int:
    """Return the first port from ``first`` on that nothing listens on, nor on those next to it.

    Parameters
    ----------
    first
        Where to begin.
    together
        How many in a row have to be free: a manager of remote machines takes two.

    Raises
    ------
    OSError
        If a hundred are taken.
    """
    for port in range(first, first + 100):
        if not any(_is_taken(each) for each in range(port, port + together)):
            return port
    raise OSError(f"All ports from {first} to {first + 99} are taken; stop an old experiment with nnictl stop --all.")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0
