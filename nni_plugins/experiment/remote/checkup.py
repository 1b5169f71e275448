"""What a remote machine lacks for trials, each with the command that fixes it: ``nni-plugins doctor --remote``."""

from __future__ import annotations

import asyncio
import importlib.metadata
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh
from packaging.specifiers import SpecifierSet
from rich.console import Console

from nni_plugins.experiment.doctor import Finding, installed_version, requirements, show, show_fixes
from nni_plugins.experiment.remote import probe
from nni_plugins.experiment.remote.machine import Machine, connected, run_python

ENOUGH_MEGABYTES = 2000
"""Free disk below which a machine is called full: code, checkpoints and results of a few trials."""


def diagnose_remote(machine: Machine) -> list[Finding]:
    """Make every check on ``machine``; takes about as long as importing torch there does.

    Returns
    -------
    list[Finding]
        One finding for each check. If it cannot be reached, or has no Python, that is the only one.
    """
    try:
        facts = asyncio.run(_facts(machine))
    except OSError as error:
        return [Finding(str(machine), False, str(error), _there(machine, "true"))]
    return findings_of(machine, facts, {name: installed_version(name) for name in _packages()})


def _packages() -> list[str]:
    return sorted(requirements())


async def _facts(machine: Machine) -> dict[str, Any]:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"reached")
        await writer.drain()
        writer.close()

    here = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with here, connected(machine) as connection:
        port = 0
        try:
            way_back = await connection.forward_remote_port("127.0.0.1", 0, *here.sockets[0].getsockname()[:2])
            port = way_back.get_port()
        except asyncssh.ChannelListenError:
            pass  # the probe says so
        words = (",".join(_packages()), str(port))
        return dict(await run_python(machine, connection, Path(probe.__file__), *words))


def findings_of(machine: Machine, facts: Mapping[str, Any], here: Mapping[str, str | None]) -> list[Finding]:
    """Return what the facts of :mod:`~nni_plugins.experiment.remote.probe` mean.

    Parameters
    ----------
    machine
        The machine that they are of.
    facts
        What the probe has printed there.
    here
        Versions of the packages on this machine.
    """
    return [
        _python(machine, facts),
        _versions(machine, facts, here),
        _imports(machine, facts),
        _gpus(machine, facts),
        _disk(machine, facts),
        _folder(machine, facts),
        _way_back(machine, facts),
    ]


def _there(machine: Machine, command: str) -> str:
    return f"ssh -p {machine.port} {machine.user}@{machine.host} {shlex.quote(command)}"


def _pip(machine: Machine, facts: Mapping[str, Any], *words: str) -> str:
    return _there(machine, shlex.join([facts["executable"], "-m", "pip", "install", *words]))


def _python(machine: Machine, facts: Mapping[str, Any]) -> Finding:
    number, supported = facts["python"], SpecifierSet(importlib.metadata.metadata("nni-plugins")["Requires-Python"])
    if number in supported:
        return Finding("Python", True, f"{number}, {facts['executable']}")
    fix = _there(machine, "python3.11 -m venv ~/nni-plugins")
    detail = f"{number}, but {supported} is needed; then name its folder: --python ~/nni-plugins/bin"
    return Finding("Python", False, detail, fix)


def _versions(machine: Machine, facts: Mapping[str, Any], here: Mapping[str, str | None]) -> Finding:
    there = facts["packages"]
    wrong = {name: version for name, version in here.items() if version is not None and there.get(name) != version}
    if not wrong:
        return Finding("packages", True, f"{len(there)} in the same versions as here")
    detail = ", ".join(f"{name} {there.get(name) or 'is missing'}, here {version}" for name, version in wrong.items())
    return Finding("packages", False, detail, _pip(machine, facts, *(f"{name}=={wrong[name]}" for name in wrong)))


def _imports(machine: Machine, facts: Mapping[str, Any]) -> Finding:
    if not facts["import"]:
        return Finding("imports", True, "torch, torchvision, nni and pytorch_lightning can be imported")
    return Finding("imports", False, facts["import"], _pip(machine, facts, "--force-reinstall", "torch", "torchvision"))


def _gpus(machine: Machine, facts: Mapping[str, Any]) -> Finding:
    models, usable = facts["driver_gpus"], facts["torch_gpus"] or "0"
    if usable == str(len(models)):
        return Finding("GPUs", True, f"{usable}: {', '.join(models)}" if models else "none; trials run on the CPU")
    detail = f"the driver has {len(models)}, torch can use {usable}"
    return Finding("GPUs", False, detail, _pip(machine, facts, "--force-reinstall", "torch", "torchvision"))


def _disk(machine: Machine, facts: Mapping[str, Any]) -> Finding:
    free, folder = facts["free_megabytes"], facts["folder"]
    if free >= ENOUGH_MEGABYTES:
        return Finding("disk", True, f"{free} MB free for {folder}")
    detail = f"{free} MB free for {folder}, {ENOUGH_MEGABYTES} are needed; this shows what old experiments take"
    return Finding("disk", False, detail, _there(machine, f"du -sh {shlex.quote(folder)}/*"))


def _folder(machine: Machine, facts: Mapping[str, Any]) -> Finding:
    folder = facts["folder"]
    if not facts["not_writable"]:
        return Finding("experiment folder", True, folder)
    fix = _there(machine, f'sudo install -d -o "$USER" {shlex.quote(folder)}')
    return Finding("experiment folder", False, f"{folder} cannot be written: {facts['not_writable']}", fix)


def _way_back(machine: Machine, facts: Mapping[str, Any]) -> Finding:
    if facts["way_back"]:
        return Finding("way back", True, "it reaches this machine through the SSH connection")
    fix = _there(machine, "sudo sed -i '1i AllowTcpForwarding yes' /etc/ssh/sshd_config && sudo systemctl reload ssh")
    return Finding("way back", False, "its SSH server does not let it reach this machine, where NNI's manager is", fix)


def main(machine: Machine) -> int:
    """Print what :func:`diagnose_remote` finds, and below it the command that fixes each failure.

    Returns
    -------
    int
        The exit status: 0 only when all is well.
    """
    console = Console()
    with console.status(f"Asking {machine} ..."):
        findings = diagnose_remote(machine)
    show(console, findings)
    return show_fixes(console, findings)
