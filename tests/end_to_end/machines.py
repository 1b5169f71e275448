"""Machines for the tests: each an OpenSSH server of its own on a loopback address, with its own home and keys."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.experiment import BIN, any_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NO_SSHD = "there is no OpenSSH server here: apt-get install openssh-server"

needs_sshd = pytest.mark.skipif(SSHD is None, reason=NO_SSHD)


@dataclass
class TestMachine:
    """A machine that is reached by SSH.

    Attributes
    ----------
    host
        ``127.0.0.1``, ``127.0.0.2`` and so on.
    port
        Of its server.
    folder
        Where its server's files are; its users' home is ``home`` in it.
    client_key
        The key that it lets in.
    """

    __test__ = False

    host: str
    port: int
    folder: Path
    client_key: Path
    _server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def name(self) -> str:
        return f"{getpass.getuser()}@{self.host}:{self.port}"

    @property
    def known_hosts_line(self) -> str:
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        return f"[{self.host}]:{self.port} {kind} {key}\n"

    def entry(self) -> dict[str, object]:
        """This machine in NNI's ``machineList``."""
        return {
            "host": self.host,
            "port": self.port,
            "user": getpass.getuser(),
            "sshKeyFile": str(self.client_key),
            "pythonPath": str(BIN),
        }

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "host_key").exists():
            make_key(self.folder / "host_key")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a server that root starts drops its rights
        settings = {
            "ListenAddress": f"{self.host}:{self.port}",
            "HostKey": self.folder / "host_key",
            "AuthorizedKeysFile": self.client_key.with_suffix(".pub"),
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": 100,
            "SetEnv": f"HOME={self.home} OMP_NUM_THREADS=1 TEST_MACHINE={self.host}:{self.port}",
            "Subsystem": "sftp internal-sftp",
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        assert SSHD is not None
        command = [SSHD, "-D", "-f", str(config), "-E", str(self.folder / "sshd.log")]
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not self._listens():
            assert time.monotonic() < deadline and self._server.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)

    def _listens(self) -> bool:
        return any(
            one.laddr == (self.host, self.port)
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN
        )

    def processes(self) -> list[psutil.Process]:
        """Its server, the connections to it, and all that those have started."""
        found = [] if self._server is None or self._server.poll() is not None else [psutil.Process(self._server.pid)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TEST_MACHINE") == f"{self.host}:{self.port}":
                    found.append(process)
        for process in list(found):
            with contextlib.suppress(psutil.Error):
                found.extend(process.children(recursive=True))
        return list(dict.fromkeys(found))

    def trials(self) -> set[str]:
        """NNI's names of the trials of which there are processes on it."""
        names = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                names.add(process.environ().get("NNI_TRIAL_JOB_ID", ""))
        return names - {""}

    def cut(self) -> None:
        """Break all connections to it, at once; its server stays."""
        if self._server is not None and self._server.poll() is None:
            for process in psutil.Process(self._server.pid).children(recursive=False):
                with contextlib.suppress(psutil.Error):
                    for each in [*process.children(), process]:
                        if "sshd" in each.name():
                            each.send_signal(signal.SIGKILL)

    def kill(self) -> None:
        """End it as when its power fails."""
        found = self.processes()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=20)
        if self._server is not None:
            self._server.wait()


def make_key(path: Path) -> Path:
    """A key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@contextlib.contextmanager
def machines(folder: Path, number: int) -> Iterator[list[TestMachine]]:
    """``number`` running machines, at 127.0.0.1, 127.0.0.2 and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    key = make_key(folder / "client_key")
    started: list[TestMachine] = []
    try:
        for index in range(number):
            started.append(TestMachine(f"127.0.0.{index + 1}", any_port(), folder / f"machine{index + 1}", key))
            started[-1].folder.mkdir()
            started[-1].start()
        yield started
    finally:
        for machine in started:
            machine.kill()


def accept(home: Path, *accepted: TestMachine) -> None:
    """Accept the machines' host keys in the home folder of a person."""
    known = home / ".ssh" / "known_hosts"
    known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known.write_text("".join(machine.known_hosts_line for machine in accepted))
