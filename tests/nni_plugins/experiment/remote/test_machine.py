from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from nni_plugins.experiment.remote.machine import Machine


class TestOfText:
    @pytest.mark.parametrize(
        ("text", "user", "host", "port"),
        [
            ("alice@gpu1", "alice", "gpu1", 22),
            ("alice@gpu1.example.org:2222", "alice", "gpu1.example.org", 2222),
            ("gpu1", getpass.getuser(), "gpu1", 22),
            ("alice@[::1]:2222", "alice", "::1", 2222),
        ],
    )
    def test_user_host_and_port(self, text: str, user: str, host: str, port: int) -> None:
        machine = Machine.of_text(text)
        assert (machine.user, machine.host, machine.port) == (user, host, port)

    @pytest.mark.parametrize("text", ["", "a@b@c", "alice@gpu1:0", "alice@gpu1:65536", "alice@gpu1:ssh", "alice @gpu1"])
    def test_what_is_no_machine(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"A machine is USER@HOST or USER@HOST:PORT, got "):
            Machine.of_text(text)

    @pytest.mark.parametrize(
        ("python", "folder"),
        [
            ("/opt/venv/bin", "/opt/venv/bin"),
            ("/opt/venv/bin/python3.11", "/opt/venv/bin"),
            ("/opt/venv/bin/python", "/opt/venv/bin"),
            (None, ""),
        ],
    )
    def test_a_python_or_its_folder(self, python: str | None, folder: str) -> None:
        assert Machine.of_text("alice@gpu1", python=python).python_path == folder


def test_of_nni_takes_a_password_or_a_key_and_shows_neither_secret() -> None:
    entry = {"host": "gpu1", "user": "alice", "sshKeyFile": "~/.ssh/id_ed25519", "sshPassphrase": "phrase"}
    machine = Machine.of_nni(entry)
    assert machine.key_file == Path.home() / ".ssh" / "id_ed25519" and machine.port == 22
    with_password = Machine.of_nni({**entry, "password": "word"})
    assert with_password.key_file is None and with_password.password == "word"
    assert "phrase" not in repr(machine) and "word'" not in repr(with_password)
    assert str(machine) == "alice@gpu1:22"


def test_python_command_is_safe_in_a_shell() -> None:
    machine = Machine("gpu1", user="alice", python_path="/opt/my venv/bin")
    assert machine.python_command("-", "a b", "$(id)") == "PATH='/opt/my venv/bin':$PATH exec python3 - 'a b' '$(id)'"
    assert Machine("gpu1", user="alice").python_command("-") == "exec python3 -"
