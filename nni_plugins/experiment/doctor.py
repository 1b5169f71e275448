"""What usually breaks an installation, each with the command that fixes it: ``nni-plugins doctor``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import ipaddress
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nni_plugins.experiment.leftovers import find_leftovers, managers
from nni_plugins.experiment.nnictl import export_line, is_closed

NNICTL_PORT = 8080
"""The port that ``nnictl create`` takes when no ``--port`` is given."""

_TIMEOUT = 120  # seconds; a first import of torch from a cold disk takes a good part of a minute


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name
        What was checked.
    ok
        Whether it is as it should be.
    detail
        What is there, or what is wrong with it.
    fix
        The shell command that fixes it; empty when ``ok``.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Probed:
    """The result of a probe in another Python process: its ``value``, or the ``error`` that stopped it."""

    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class Package:
    """The facts about one package: its range, its installed version (None if it is missing), the result of using it."""

    requirement: Requirement
    version: str | None
    probed: Probed


# Each is run in a fresh process, as NNI's own processes will import them; `value` is what it hands back.
PROBES = {
    "pkg_resources": "import pkg_resources",
    "torch": "import torch; value = torch.__version__",
    "torchvision": (
        "import torch, torchvision; value = torchvision.__version__; "
        "torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)"
    ),
    "pytorch_lightning": "import pytorch_lightning",
    "onnx": "import onnx",
    "onnxscript": "import onnxscript",
    "onnxruntime": "import onnxruntime",
    "cuda": "import torch; value = [torch.cuda.device_count(), torch.version.cuda]",
}

_PROBE_LOOP = """
import json, sys, warnings
warnings.simplefilter("ignore")
for name, code in json.loads(sys.argv[1]).items():
    scope = {}
    try:
        exec(code, scope)
        error = ""
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
    sys.__stdout__.write("\\n" + json.dumps(["probe", name, scope.get("value"), error]) + "\\n")
    sys.__stdout__.flush()
"""


def probe(probes: Mapping[str, str]) -> dict[str, Probed]:
    """Run pieces of Python code in another process, so that none of them can end this one.

    Parameters
    ----------
    probes
        Code by name, run in this order; what it binds to ``value`` (anything JSON can hold) is the result's value.

    Returns
    -------
    dict[str, Probed]
        One result for each name. Code that ends the process (a segmentation fault) is an error of its own, and the
        code after it is run in a new process.
    """
    results: dict[str, Probed] = {}
    waiting = dict(probes)
    while waiting:
        try:
            process = subprocess.run(
                [sys.executable, "-c", _PROBE_LOOP, json.dumps(waiting)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT,
            )
            output, ending = process.stdout, f"it ended the Python process with status {process.returncode}"
        except subprocess.TimeoutExpired as expired:
            output = (expired.stdout or b"").decode(errors="replace")
            ending = f"it took longer than {_TIMEOUT} seconds"
        for line in output.splitlines():
            if line.startswith('["probe", '):
                _, name, value, error = json.loads(line)
                results[name] = Probed(value, error)
        waiting = {name: code for name, code in waiting.items() if name not in results}
        if waiting:
            culprit = next(iter(waiting))
            results[culprit] = Probed(error=ending)
            del waiting[culprit]
    return results


def requirements() -> dict[str, Requirement]:
    """Return the ranges of pyproject.toml as the installed package states them, by name; empty if not installed."""
    try:
        stated = importlib.metadata.requires("nni-plugins") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(line) for line in stated]
    return {requirement.name: requirement for requirement in parsed if requirement.marker is None}


def installed_version(distribution: str) -> str | None:
    """Return the installed version of ``distribution``; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install(*what: str | Requirement, options: tuple[str, ...] = ()) -> str:
    """Return the command that installs ``what`` anew and touches nothing else that fits."""
    uv = "uv" if shutil.which("uv") else ".uv/bin/uv"  # where `make` puts it on a machine without one
    anew = [f"--reinstall-package={Requirement(str(one)).name}" for one in what]
    return shlex.join([uv, "pip", "install", "--python", sys.executable, *options, *anew, *map(str, what)])


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Finding:
    """Check whether this Python is one that the package supports."""
    number = ".".join(map(str, version))
    try:
        supported = SpecifierSet(importlib.metadata.metadata("nni-plugins")["Requires-Python"])
    except importlib.metadata.PackageNotFoundError:
        return Finding("Python", False, f"nni-plugins is not installed in {sys.executable}", "make .venv/.installed")
    if number in supported:
        return Finding("Python", True, f"{number}, {sys.executable}")
    fix = "rm -rf .venv && make .venv/.installed PYTHON=3.11"
    return Finding("Python", False, f"{number}, but {supported} is needed", fix)


def check_package(package: Package) -> Finding:
    """Check whether a package is there, in a version that is in range, and can be imported."""
    requirement, version = package.requirement, package.version
    name, fix = requirement.name, _install(requirement)
    if version is None:
        return Finding(name, False, f"not installed, {requirement.specifier} is needed", fix)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, False, f"{version}, but {requirement.specifier} is needed", fix)
    if package.probed.error:
        return Finding(name, False, f"{version} cannot be used: {package.probed.error}", fix)
    return Finding(name, True, version)


def check_setuptools(setuptools: Package) -> Finding:
    """Check whether setuptools still brings ``pkg_resources``, which nnictl and NNI's trial runner import."""
    finding = check_package(setuptools)
    detail = finding.detail + (", with pkg_resources" if finding.ok else " (nnictl imports its pkg_resources)")
    return replace(finding, detail=detail)


def check_torch_pair(torch: Package, torchvision: Package) -> Finding:
    """Check whether torch and torchvision are in range and were built for each other: ``torchvision.ops.nms`` runs."""
    findings = [check_package(torch), check_package(torchvision)]
    ok = all(finding.ok for finding in findings)
    detail = ", ".join(f"{finding.name} {finding.detail}" for finding in findings)
    # In one command: only together are they resolved to a pair that fits.
    return Finding(
        "torch and torchvision", ok, detail, "" if ok else _install(torch.requirement, torchvision.requirement)
    )


def check_lightning(pytorch_lightning: Package, lightning: str | None) -> Finding:
    """Check whether ``pytorch_lightning`` works; point out ``lightning`` beside it, whose objects NNI refuses."""
    finding = check_package(pytorch_lightning)
    if not finding.ok or lightning is None:
        return finding
    return replace(finding, detail=f"{finding.detail}; import nothing from lightning {lightning}, which is there too")


def bundled_node() -> Path | None:
    """Return the node binary inside NNI's wheel, which serves the web UI; None if NNI is missing."""
    found = importlib.util.find_spec("nni_node")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0], "node")


def check_node(node: Path | None) -> Finding:
    """Check whether the node binary that NNI's manager runs on starts on this machine."""
    name, fix = "NNI's node", _install("nni==3.0")
    if node is None:
        return Finding(name, False, "NNI is not installed", fix)
    try:
        process = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Finding(name, False, f"{node} does not start: {problem}", fix)
    if process.returncode:
        return Finding(name, False, f"{node} fails: {process.stderr.strip() or process.returncode}", fix)
    return Finding(name, True, process.stdout.strip())


def check_nnictl(search_path: str | None = None, programs: Path = Path(sys.executable).parent) -> Finding:
    """Check whether ``nnictl`` is there and the shell finds this environment's, not another one's.

    Parameters
    ----------
    search_path
        Folders to look in, as in the variable ``PATH``, which is the default.
    programs
        The folder of this environment's programs.
    """
    name = "nnictl"
    own = programs / "nnictl"
    if not os.access(own, os.X_OK):
        return Finding(name, False, f"{own} is missing", _install("nni==3.0"))
    interpreter = own.read_bytes().split(b"\n", 1)[0].removeprefix(b"#!").decode(errors="replace").strip()
    if not Path(interpreter).exists():
        detail = f"{own} was installed for {interpreter}, which is gone: has the environment been moved?"
        return Finding(name, False, detail, _install("nni==3.0"))
    # The trials' own command, `python -m nni_plugins.trial`, is looked for along the same path.
    fix = f'export PATH={shlex.quote(str(programs))}:"$PATH"'
    first = shutil.which("nnictl", path=search_path)
    if first is None or os.path.samefile(first, own):
        return Finding(name, True, str(own) if first else f"{own}; before calling it outside make: {fix}")
    return Finding(name, False, f"the shell finds {first} of another environment before {own}", fix)


def check_port(port: int = NNICTL_PORT) -> Finding:
    """Check whether ``nnictl create`` can serve the web UI at ``port`` of this machine."""
    name = f"port {port}"
    if _is_free(port):
        return Finding(name, True, "free")
    other = next((number for number in range(port + 1, 65536) if _is_free(number)), None)
    fix = f"nnictl create --config examples/bnas_v2.yml --port {other}"
    return Finding(name, False, f"taken by {_listener(port)}; stop that, or choose another port", fix)


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        # As node does: a port whose last connections are only winding down counts as free.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            candidate.bind(("", port))
            return True
    return False


def _listener(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another user's process"


def check_page() -> Finding:
    """Check whether running managers are closed to other machines; NNI's own listens to all, without a login."""
    name = "NNI's page"
    listening = {name: _listening_addresses(manager.pid) for manager, name in managers()}
    opened = [
        name for name, found in listening.items() if not all(ipaddress.ip_address(ip).is_loopback for ip in found)
    ]
    if not opened:
        return Finding(name, True, f"{len(listening)} running, closed to other machines" if listening else "none runs")
    detail = f"open to other machines, without a login: experiment {', '.join(opened)}"
    stopped = "; ".join(f"nnictl stop {one}" for one in opened)
    resumed = "; ".join(f"nnictl resume {one}" for one in opened)
    return Finding(name, False, detail, f"{stopped}; {export_line()}; {resumed}")


def _listening_addresses(pid: int) -> list[str]:
    with contextlib.suppress(psutil.Error):
        connections = psutil.net_connections("tcp")
        return [one.laddr.ip for one in connections if one.pid == pid and one.status == psutil.CONN_LISTEN]
    return []


def check_leftovers() -> Finding:
    """Check whether killed managers have left tuners or trials running, which disturb a resumed experiment."""
    name, leftovers = "leftovers", find_leftovers()
    if not leftovers:
        return Finding(name, True, "none")
    return Finding(name, False, f"outlived their manager: {', '.join(map(str, leftovers))}", "nni-plugins leftovers")


def gpus_as_nni_sees_them() -> Mapping[str, Any]:
    """Return what the script says that NNI's manager runs to learn of the GPUs."""
    command = [sys.executable, "-W", "ignore", "-m", "nni.tools.nni_manager_scripts.collect_gpu_info", "--detail"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        facts = json.loads(process.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as problem:
        return {"success": False, "failures": [f"NNI's GPU script fails: {problem}"]}
    return dict(facts)


def check_gpus(nni: Mapping[str, Any], torch: Probed, visible_devices: str | None = None) -> Finding:
    """Check whether NNI, which hands out the GPUs, and torch, which computes on them, see the same ones.

    Parameters
    ----------
    nni
        What NNI's own script says (:func:`gpus_as_nni_sees_them`).
    torch
        The number of GPUs torch can use and the CUDA version it was built for (None for a CPU build), or torch's error.
    visible_devices
        The variable ``CUDA_VISIBLE_DEVICES``, None where it is not set.
    """
    name = "GPUs"
    if torch.error:
        return Finding(name, False, f"torch cannot be asked: {torch.error}", _install(*_torch_ranges()))
    usable, cuda = torch.value
    seen = nni.get("gpuNumber", 0)
    if seen == usable:
        models = ", ".join(gpu.get("model", "unknown model") for gpu in nni.get("gpus", []))
        return Finding(name, True, f"{seen}: {models}" if seen else "none; searches run on the CPU")
    detail = f"NNI sees {seen}, torch can use {usable}"
    if visible_devices is not None:
        return Finding(name, False, f"{detail}: CUDA_VISIBLE_DEVICES={visible_devices}", "unset CUDA_VISIBLE_DEVICES")
    if not seen:
        reason = "; ".join(nni.get("failures", [])) or "no reason given"
        return Finding(name, False, f"{detail}: {reason}", _install("nvidia-ml-py"))
    build = f"built for CUDA {cuda}" if cuda else "a build for the CPU"
    detail += f": it is {build}, the driver is {nni.get('driverVersion', 'unknown')}"
    return Finding(name, False, detail, _install(*_torch_ranges(), options=("--torch-backend=auto",)))


def _torch_ranges() -> list[str]:
    stated = requirements()
    return [str(stated.get(name, name)) for name in ("torch", "torchvision")]


def check_experiment_folder(folder: Path | None = None) -> Finding:
    """Check whether NNI can write to its folder, by default ``~/nni-experiments``; nothing is left behind there."""
    folder = Path.home() / "nni-experiments" if folder is None else folder
    name = "experiment folder"
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Finding(name, True, str(folder))
    except OSError as problem:
        place = shlex.quote(str(existing))
        fix = f'sudo chown "$USER" {place}' if existing.is_dir() else f"mv {place} {place}.old"
        return Finding(name, False, f"{folder} cannot be written: {problem.strerror}", fix)


def diagnose(port: int = NNICTL_PORT) -> list[Finding]:
    """Make every check on this machine and this Python; takes about as long as importing torch and Lightning does.

    Parameters
    ----------
    port
        The port that the web UI is to be served at.

    Returns
    -------
    list[Finding]
        One finding for each check. If nni-plugins itself is not installed, that is the only one.
    """
    ranges = requirements()
    if not ranges:
        return [check_python()]
    with ThreadPoolExecutor() as pool:
        asking_nni = pool.submit(gpus_as_nni_sees_them)
        results = probe(PROBES)
        nni_gpus = asking_nni.result()

    def package(name: str, module: str) -> Package:
        return Package(ranges[name], installed_version(name), results[module])

    return [
        check_python(),
        check_setuptools(package("setuptools", "pkg_resources")),
        check_torch_pair(package("torch", "torch"), package("torchvision", "torchvision")),
        check_lightning(package("pytorch-lightning", "pytorch_lightning"), installed_version("lightning")),
        *(check_package(package(name, name)) for name in ("onnx", "onnxscript", "onnxruntime")),
        check_node(bundled_node()),
        check_nnictl(),
        check_port(port),
        check_page(),
        check_leftovers(),
        check_gpus(nni_gpus, results["cuda"], os.environ.get("CUDA_VISIBLE_DEVICES")),
        check_experiment_folder(),
    ]


def diagnose_start(ports: Sequence[int], *, uses_gpus: bool) -> list[Finding]:
    """Make the checks without which ``nnictl create`` cannot start an experiment; they take about a second.

    Parameters
    ----------
    ports
        Those that the manager is to listen on.
    uses_gpus
        Whether trials are to get GPUs of this machine.

    Returns
    -------
    list[Finding]
        One finding for each check.
    """
    name, ranges = "setuptools", requirements()
    probed = Probed() if importlib.util.find_spec("pkg_resources") else Probed(error="it has no pkg_resources")
    findings = [check_nnictl(), check_node(bundled_node()), *map(check_port, ports), check_experiment_folder()]
    if name in ranges:
        findings.append(check_setuptools(Package(ranges[name], installed_version(name), probed)))
    if uses_gpus:
        cuda = probe({"cuda": PROBES["cuda"]})["cuda"]
        findings.append(check_gpus(gpus_as_nni_sees_them(), cuda, os.environ.get("CUDA_VISIBLE_DEVICES")))
    return findings


def main(port: int = NNICTL_PORT) -> int:
    """Print what :func:`diagnose` finds, and below it the command that fixes each failure.

    Returns
    -------
    int
        The exit status: 0 only when all is well.
    """
    console = Console()
    with console.status("Importing what a search needs ..."):
        findings = diagnose(port)
    show(console, findings)
    if not is_closed():
        console.print("Before nnictl create, resume or view, so that NNI's page is closed to other machines:")
        console.print(f"  {export_line()}", markup=False, highlight=False, soft_wrap=True)
    return show_fixes(console, findings)


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Print what was found, as a table."""
    table = Table("check", "", "finding")
    for finding in findings:
        table.add_row(finding.name, "[green]ok[/]" if finding.ok else "[red]FAILS[/]", escape(finding.detail))
    console.print(table)


def show_fixes(console: Console, findings: Sequence[Finding]) -> int:
    """Print the command that fixes each failure; return the exit status, 0 only when all is well."""
    failures = [finding for finding in findings if not finding.ok]
    if not failures:
        console.print("All is well.")
        return 0
    console.print("To fix:")
    for finding in failures:
        # Whole on one line, however narrow the terminal, so that it can be copied.
        console.print(f"  {finding.fix}  # {finding.name}", markup=False, highlight=False, soft_wrap=True)
    return 1
