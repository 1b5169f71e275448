from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nni_plugins.experiment import doctor, leftovers, nnictl
from nni_plugins.experiment.doctor import Finding, Package, Probed


def package(name: str, version: str | None, error: str = "") -> Package:
    return Package(doctor.requirements()[name], version, Probed(error=error))


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture(params=["", "127.0.0.1"], ids=["all interfaces", "loopback"])
def taken_port(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


class TestProbe:
    def test_values_and_errors(self) -> None:
        results = doctor.probe({"value": "value = [1, None]", "error": "1 / 0", "exit": "raise SystemExit(3)"})
        assert results == {
            "value": Probed([1, None]),
            "error": Probed(error="ZeroDivisionError: division by zero"),
            "exit": Probed(error="SystemExit: 3"),
        }

    def test_printing_code_does_not_disturb(self) -> None:
        assert doctor.probe({"loud": "print('[]', end=''); value = 1"}) == {"loud": Probed(1)}

    def test_code_after_a_crash_still_runs(self) -> None:
        results = doctor.probe({"crash": "import os; os.kill(os.getpid(), 11)", "after": "value = 5"})
        assert results["crash"].error == "it ended the Python process with status -11"
        assert results["after"] == Probed(5)

    def test_code_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_TIMEOUT", 1)
        results = doctor.probe({"before": "value = 4", "hangs": "import time; time.sleep(60)"})
        assert results == {"before": Probed(4), "hangs": Probed(error="it took longer than 1 seconds")}

    @pytest.mark.parametrize("module", ["pkg_resources", "torchvision", "pytorch_lightning", "onnxscript"])
    def test_broken_module_on_the_path(self, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in {module, "torch"}:
            (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is broken')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        assert doctor.probe({module: doctor.PROBES[module]})[module].error.endswith("is broken")


class TestPython:
    def test_this_one(self) -> None:
        assert doctor.check_python().ok

    @pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0)])
    def test_out_of_range(self, version: tuple[int, int, int]) -> None:
        finding = doctor.check_python(version)
        assert not finding.ok
        assert "<3.13,>=3.10 is needed" in finding.detail
        assert "PYTHON=3.11" in finding.fix

    @pytest.mark.parametrize("version", [(3, 10, 0), (3, 12, 11)])
    def test_in_range(self, version: tuple[int, int, int]) -> None:
        assert doctor.check_python(version).ok

    def test_nothing_else_is_checked_where_the_package_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [])
        (finding,) = doctor.diagnose()
        assert not finding.ok
        assert "not installed" in finding.detail
        assert finding.fix == "make .venv/.installed"


class TestPackages:
    def test_requirements_are_those_of_a_plain_installation(self) -> None:
        stated = doctor.requirements()
        assert "80.9.0" in stated["setuptools"].specifier
        assert "pytest" not in stated

    def test_in_order(self) -> None:
        assert doctor.check_package(package("onnx", "1.23.2")) == Finding("onnx", True, "1.23.2")

    def test_local_and_prerelease_versions_count_as_their_series(self) -> None:
        assert doctor.check_package(package("torch", "2.11.0+cu128")).ok
        assert doctor.check_package(package("torch", "2.12.0a0+git1234")).ok

    @pytest.mark.parametrize(
        ("version", "error", "detail"),
        [
            (None, "", "not installed, <0.8,>=0.7 is needed"),
            ("0.5.7", "", "0.5.7, but <0.8,>=0.7 is needed"),
            ("0.7.2", "ImportError: no", "0.7.2 cannot be used: ImportError: no"),
        ],
    )
    def test_out_of_order(self, version: str | None, error: str, detail: str) -> None:
        finding = doctor.check_package(package("onnxscript", version, error))
        assert (finding.ok, finding.detail) == (False, detail)
        words = shlex.split(finding.fix)
        assert words[1:5] == ["pip", "install", "--python", sys.executable]
        assert words[5:] == ["--reinstall-package=onnxscript", "onnxscript<0.8,>=0.7"]

    def test_setuptools_without_pkg_resources(self) -> None:
        finding = doctor.check_setuptools(package("setuptools", "82.0.0", "ModuleNotFoundError"))
        assert not finding.ok
        assert finding.detail == "82.0.0, but <81,>=77 is needed (nnictl imports its pkg_resources)"
        assert "setuptools<81" in finding.fix
        assert doctor.check_setuptools(package("setuptools", "80.9.0")).ok

    def test_torch_and_torchvision_are_fixed_together(self) -> None:
        torch = package("torch", "2.13.0")
        assert doctor.check_torch_pair(torch, package("torchvision", "0.28.0")).ok
        broken = package("torchvision", "0.28.0", "RuntimeError: operator torchvision::nms does not exist")
        finding = doctor.check_torch_pair(torch, broken)
        assert not finding.ok
        assert "torchvision::nms does not exist" in finding.detail
        assert {"torch<2.14,>=2.11", "torchvision<0.29,>=0.26"} <= set(shlex.split(finding.fix))

    def test_lightning_beside_pytorch_lightning_is_named(self) -> None:
        alone = doctor.check_lightning(package("pytorch-lightning", "2.6.6"), None)
        assert alone == Finding("pytorch-lightning", True, "2.6.6")
        both = doctor.check_lightning(package("pytorch-lightning", "2.6.6"), "2.6.5")
        assert both.ok
        assert "import nothing from lightning 2.6.5" in both.detail
        assert not doctor.check_lightning(package("pytorch-lightning", "1.9.0"), "2.6.5").ok


class TestNode:
    def test_the_bundled_one_starts(self) -> None:
        finding = doctor.check_node(doctor.bundled_node())
        assert finding.ok
        assert finding.detail.startswith("v")

    def test_without_nni(self) -> None:
        finding = doctor.check_node(None)
        assert not finding.ok
        assert finding.fix.endswith("nni==3.0")

    def test_not_executable(self, tmp_path: Path) -> None:
        node = tmp_path / "node"
        node.write_bytes(b"\x7fELF")
        assert "does not start" in doctor.check_node(node).detail

    def test_that_fails(self, tmp_path: Path) -> None:
        finding = doctor.check_node(program(tmp_path / "node", "#!/bin/sh\necho GLIBC_2.28 not found >&2\nexit 1\n"))
        assert not finding.ok
        assert "GLIBC_2.28 not found" in finding.detail


class TestNnictl:
    def test_first_on_the_path(self, tmp_path: Path) -> None:
        program(tmp_path / "nnictl", f"#!{sys.executable}\n")
        assert doctor.check_nnictl(str(tmp_path), tmp_path) == Finding("nnictl", True, str(tmp_path / "nnictl"))

    def test_not_on_the_path(self, tmp_path: Path) -> None:
        program(tmp_path / "bin/nnictl", f"#!{sys.executable}\n")
        finding = doctor.check_nnictl(str(tmp_path), tmp_path / "bin")
        assert finding.ok
        assert f"export PATH={tmp_path}/bin" in finding.detail

    def test_missing(self, tmp_path: Path) -> None:
        finding = doctor.check_nnictl(str(tmp_path), tmp_path)
        assert (finding.ok, finding.detail) == (False, f"{tmp_path}/nnictl is missing")

    def test_of_an_environment_that_was_moved(self, tmp_path: Path) -> None:
        program(tmp_path / "nnictl", f"#!{tmp_path}/gone/python\n")
        assert f"{tmp_path}/gone/python, which is gone" in doctor.check_nnictl(str(tmp_path), tmp_path).detail

    def test_of_another_environment(self, tmp_path: Path) -> None:
        program(tmp_path / "own/nnictl", f"#!{sys.executable}\n")
        other = program(tmp_path / "other/nnictl", f"#!{sys.executable}\n")
        search_path = f"{tmp_path}/other{os.pathsep}{tmp_path}/own"
        finding = doctor.check_nnictl(search_path, tmp_path / "own")
        assert not finding.ok
        assert str(other) in finding.detail
        shell = ["/bin/sh", "-c", f"{finding.fix}; command -v nnictl"]
        found = subprocess.run(shell, env={"PATH": search_path}, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == str(tmp_path / "own/nnictl")


class TestPort:
    def test_taken(self, taken_port: int) -> None:
        finding = doctor.check_port(taken_port)
        assert not finding.ok
        assert f"process {os.getpid()} " in finding.detail
        assert doctor.check_port(int(finding.fix.rpartition("--port ")[2])).ok

    def test_free(self) -> None:
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = listener.getsockname()[1]
        assert doctor.check_port(port) == Finding(f"port {port}", True, "free")


# As NNI's script prints them.
ONE_GPU = {"success": True, "gpuNumber": 1, "driverVersion": "570.1", "gpus": [{"index": 0, "model": "H100"}]}
NO_GPU = {"success": False, "failures": ["init: NVML Shared Library Not Found"]}


class TestGpus:
    def test_none_is_fine(self) -> None:
        assert doctor.check_gpus(NO_GPU, Probed([0, None])) == Finding("GPUs", True, "none; searches run on the CPU")

    def test_seen_by_both(self) -> None:
        assert doctor.check_gpus(ONE_GPU, Probed([1, "13.0"])) == Finding("GPUs", True, "1: H100")

    def test_torch_for_the_cpu(self) -> None:
        finding = doctor.check_gpus(ONE_GPU, Probed([0, None]))
        assert finding.detail == "NNI sees 1, torch can use 0: it is a build for the CPU, the driver is 570.1"
        assert "--torch-backend=auto" in finding.fix

    def test_driver_older_than_torch(self) -> None:
        finding = doctor.check_gpus(ONE_GPU, Probed([0, "13.0"]))
        assert not finding.ok
        assert "built for CUDA 13.0, the driver is 570.1" in finding.detail

    def test_hidden_from_torch(self) -> None:
        assert doctor.check_gpus(ONE_GPU, Probed([0, "13.0"]), "").fix == "unset CUDA_VISIBLE_DEVICES"

    def test_hidden_from_nni(self) -> None:
        finding = doctor.check_gpus(NO_GPU, Probed([1, "13.0"]))
        assert "NVML Shared Library Not Found" in finding.detail
        assert finding.fix.endswith("nvidia-ml-py")

    def test_torch_is_broken(self) -> None:
        finding = doctor.check_gpus(ONE_GPU, Probed(error="ImportError: libcudart"))
        assert not finding.ok
        assert "libcudart" in finding.detail


class TestExperimentFolder:
    def test_writable(self, tmp_path: Path) -> None:
        assert doctor.check_experiment_folder(tmp_path / "a/nni-experiments").ok
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        folder = tmp_path / "nni experiments"
        folder.touch()
        finding = doctor.check_experiment_folder(folder)
        assert not finding.ok
        assert "Not a directory" in finding.detail
        subprocess.run(["sh", "-c", finding.fix], check=True)
        assert doctor.check_experiment_folder(folder).ok

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        finding = doctor.check_experiment_folder(tmp_path / "nni-experiments")
        assert not finding.ok
        assert finding.fix == f'sudo chown "$USER" {tmp_path}'


class TestPage:
    @pytest.fixture
    def manager(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
        """A process that looks like NNI's manager and listens at the address that is asked for."""
        script = tmp_path / "nni_node" / "main.js"
        script.parent.mkdir()
        code = "import socket, sys; s = socket.create_server((sys.argv[1], 0)); print(flush=True); s.accept()"
        words = [sys.executable, "-c", code, request.param, str(script), "--experiment-id", "abc123"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield
            process.kill()

    @pytest.mark.parametrize("manager", ["0.0.0.0"], indirect=True)
    def test_a_manager_that_is_open_to_other_machines_is_named(self, manager: None) -> None:
        finding = doctor.check_page()
        assert not finding.ok and "abc123" in finding.detail
        stop, close, resume = re.split(r"; (?=export |nnictl resume)", finding.fix)
        assert "nnictl stop abc123" in stop and "closed_manager.js" in close and "nnictl resume abc123" in resume

    @pytest.mark.parametrize("manager", ["127.0.0.1"], indirect=True)
    def test_a_closed_manager_is_well(self, manager: None) -> None:
        assert "abc123" not in doctor.check_page().detail


class TestLeftovers:
    def test_a_trial_without_its_manager(self) -> None:
        variables = {**os.environ, "NNI_PLATFORM": "local", "NNI_EXP_ID": "abc123", "NNI_TRIAL_JOB_ID": "t1"}
        with subprocess.Popen(["cat"], env=variables, stdin=subprocess.PIPE) as orphan:
            finding = doctor.check_leftovers()
            assert not finding.ok and finding.fix == "nni-plugins leftovers"
            assert f"trial t1 of experiment abc123 (process {orphan.pid})" in finding.detail
            assert leftovers.main("abc123", yes=True) == 0
            assert orphan.poll() is not None
        assert leftovers.main("abc123") == 0


@pytest.mark.parametrize("closed", [True, False])
def test_main_prints_the_line_that_closes_nnis_page(
    closed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda port: [])
    monkeypatch.setenv("NODE_OPTIONS", nnictl.closed()["NODE_OPTIONS"] if closed else "")
    assert doctor.main() == 0
    assert (nnictl.export_line() in capsys.readouterr().out) is not closed


@pytest.mark.end_to_end
def test_main_prints_the_command_for_what_fails_and_says_so_in_its_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert doctor.main(port) == 1
    printed = capsys.readouterr().out
    assert "FAILS" in printed
    fixes = printed.partition("To fix:")[2].strip().splitlines()
    assert len(fixes) == printed.count("FAILS")
    assert any(line.strip().startswith("nnictl create") and line.endswith(f"# port {port}") for line in fixes)


def test_main_is_content_when_every_check_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda port: [Finding("Python", True, "[3.11]")])
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert "[3.11]" in printed
    assert "All is well." in printed


def test_every_requirement_that_is_checked_is_stated() -> None:
    checked = {"setuptools", "torch", "torchvision", "pytorch-lightning", "onnx", "onnxscript", "onnxruntime"}
    assert checked <= doctor.requirements().keys()
    assert doctor.requirements()["nni"] == Requirement("nni==3.0")
