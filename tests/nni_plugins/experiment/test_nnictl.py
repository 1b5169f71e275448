from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nni_plugins.experiment import nnictl
from nni_plugins.experiment.doctor import bundled_node
from nni_plugins.experiment.known import running_managers

LISTEN = "const s = require('http').createServer().listen(0, () => { console.log(s.address().address); s.close(); })"


def node(script: Path, environment: dict[str, str]) -> str:
    done = subprocess.run([str(bundled_node()), script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def program(folder: Path, name: str) -> Path:
    script = folder / name / "main.js"
    script.parent.mkdir(parents=True)
    script.write_text(LISTEN)
    return script


class TestClosed:
    def test_what_it_adds(self) -> None:
        environment = nnictl.closed({"PATH": "/usr/bin", "NODE_OPTIONS": "--trace-warnings", "HOME": "/nowhere"})
        assert environment == {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin",
            "NODE_OPTIONS": f'--trace-warnings --require "{nnictl.CLOSED_MANAGER}"',
            "HOME": "/nowhere",
        }
        assert nnictl.is_closed(environment)
        assert nnictl.closed(environment)["NODE_OPTIONS"] == environment["NODE_OPTIONS"]
        assert not nnictl.is_closed({"NODE_OPTIONS": "--trace-warnings"})

    def test_it_is_opened_by_a_word_of_its_own_alone(self) -> None:
        opened = nnictl.closed({}, opened=True)
        assert opened[nnictl.OPEN] == "1" and not nnictl.is_closed(opened)
        assert nnictl.OPEN not in nnictl.closed(opened) and nnictl.is_closed(nnictl.closed(opened))

    @pytest.mark.parametrize("folder", ["plain", "two words", 'a "quoted" one', "back\\slash", "it's", "ü"])
    def test_the_export_line_of_a_shell_wherever_it_is_installed(
        self, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed = tmp_path / folder / "closed_manager.js"
        installed.parent.mkdir()
        for script in nnictl.CLOSED_MANAGER.parent.glob("*.js"):
            shutil.copy(script, installed.parent)
        monkeypatch.setattr(nnictl, "CLOSED_MANAGER", installed)
        monkeypatch.delenv("NODE_OPTIONS", raising=False)
        main = program(tmp_path, "nni_node")
        shell = ["sh", "-c", f'{nnictl.export_line()}; "$0" "$1"', str(bundled_node()), str(main)]
        # Without NNI's modules beside it, the script has nothing to wait for the tuner with.
        done = subprocess.run(shell, capture_output=True, text=True)
        assert "Cannot find module" in done.stderr and "tuner_command_channel" in done.stderr

    def test_other_programs_of_node_are_left_as_they_are(self, tmp_path: Path) -> None:
        main = program(tmp_path, "other")
        assert node(main, nnictl.closed({})) == node(main, {})


class TestNnictl:
    def test_a_failure_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"nnictl create failed: .*not a valid file"):
            nnictl.nnictl("create", "--config", str(tmp_path / "missing.yml"))

    def test_a_start_that_fails_ends_its_own_manager_alone(self, tmp_path: Path) -> None:
        main = program(tmp_path, "nni_node")
        main.write_text("setTimeout(() => {}, 300000)")
        words = [str(bundled_node()), str(main), "--port", "18080", "--experiment-id"]
        other = subprocess.Popen([*words, "other"])
        started: list[subprocess.Popen[bytes]] = []

        def call() -> str:
            started.append(subprocess.Popen([*words, "own"]))
            while "own" not in running_managers():
                time.sleep(0.1)
            raise KeyboardInterrupt

        try:
            while "other" not in running_managers():
                time.sleep(0.1)
            with pytest.raises(KeyboardInterrupt):
                nnictl._attempt(call, 18080, {})
            assert started[0].wait(30) == -signal.SIGTERM
            assert other.poll() is None
        finally:
            for each in (other, *started):
                each.kill()
                each.wait()

    def test_a_port_that_is_taken_is_passed_over(self) -> None:
        first = nnictl.free_port(28080)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", first))
            listener.listen()
            assert nnictl.free_port(first) > first
            assert nnictl.free_port(first - 1, together=2) > first
