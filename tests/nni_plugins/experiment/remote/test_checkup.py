from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from nni_plugins.experiment.doctor import Finding
from nni_plugins.experiment.remote import listing, probe
from nni_plugins.experiment.remote.checkup import diagnose_remote, findings_of
from nni_plugins.experiment.remote.machine import Machine

MACHINE = Machine("gpu1", 2222, "alice")
HERE = {"nni": "3.0", "torch": "2.13.0", "gone": None}
FACTS: dict[str, Any] = {
    "python": "3.11.7",
    "executable": "/opt/venv/bin/python3",
    "packages": {"nni": "3.0", "torch": "2.13.0"},
    "import": "",
    "torch_gpus": "2",
    "driver_gpus": ["GPU A, 80 GiB", "GPU B, 80 GiB"],
    "folder": "/here/nni-experiments",
    "free_megabytes": 50_000,
    "not_writable": "",
    "way_back": True,
}


def found(**changes: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings_of(MACHINE, {**FACTS, **changes}, HERE)}


def test_a_machine_that_lacks_nothing() -> None:
    findings = found()
    assert len(findings) == 7 and all(finding.ok and not finding.fix for finding in findings.values())
    assert findings["GPUs"].detail == "2: GPU A, 80 GiB, GPU B, 80 GiB"


@pytest.mark.parametrize(
    ("changes", "name", "detail", "fix"),
    [
        ({"python": "3.9.2"}, "Python", "3.9.2, but <3.13,>=3.10 is needed", "'python3.11 -m venv ~/nni-plugins'"),
        (
            {"packages": {"nni": "3.0", "torch": "2.12.0"}},
            "packages",
            "torch 2.12.0, here 2.13.0",
            "'/opt/venv/bin/python3 -m pip install torch==2.13.0'",
        ),
        ({"packages": {"torch": "2.13.0"}}, "packages", "nni is missing, here 3.0", "nni==3.0"),
        ({"import": "ImportError: libcudart"}, "imports", "ImportError: libcudart", "--force-reinstall torch"),
        ({"torch_gpus": "0"}, "GPUs", "the driver has 2, torch can use 0", "--force-reinstall torch"),
        ({"free_megabytes": 10}, "disk", "10 MB free for /here/nni-experiments", "'du -sh /here/nni-experiments/*'"),
        ({"not_writable": "Permission denied"}, "experiment folder", "cannot be written: Permission denied", "sudo"),
        ({"way_back": False}, "way back", "does not let it reach this machine", "AllowTcpForwarding yes"),
    ],
)
def test_what_is_missing_comes_with_its_fix(changes: dict[str, Any], name: str, detail: str, fix: str) -> None:
    findings = found(**changes)
    assert [finding.name for finding in findings.values() if not finding.ok] == [name]
    assert detail in findings[name].detail
    assert findings[name].fix.startswith("ssh -p 2222 alice@gpu1 '") and fix in findings[name].fix


def test_a_machine_that_does_not_answer_is_the_only_finding() -> None:
    (finding,) = diagnose_remote(Machine("127.0.0.1", 1, "alice"))
    assert not finding.ok and "alice@127.0.0.1:1 cannot be reached" in finding.detail


@pytest.mark.parametrize("script", [probe.__file__, listing.__file__])
def test_what_runs_on_the_machine_needs_only_the_standard_library(script: str) -> None:
    code = f"import runpy; runpy.run_path({script!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
