"""A machine that is reached by SSH, as NNI's ``machineList`` or ``USER@HOST:PORT`` names it."""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

KNOWN_HOSTS = (".ssh", "known_hosts")
"""Below the home folder: where OpenSSH's client keeps the keys of the machines that a person has accepted."""

_LOST = (
    asyncssh.ConnectionLost, asyncssh.DisconnectError, asyncssh.ChannelOpenError, asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection, ConnectionError,
)  # fmt: skip
_SECONDS_TO_CONNECT = 30
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 10


class UnreachableError(OSError):
    """A machine cannot be reached, or is not let in; the message says why and what to do."""


class LostConnectionError(UnreachableError):
    """The connection to a machine broke while it was in use."""


@dataclass(frozen=True)
class Machine:
    """A machine that is reached by SSH.

    Attributes
    ----------
    host, port, user
        Where it is, and who logs in.
    key_file
        The private key to log in with; None for those of ``~/.ssh`` and of the running ``ssh-agent``.
    passphrase, password
        What unlocks the key, and what logs in without one. Neither is shown, logged or written.
    python_path
        The *folder* of the Python to use there (NNI's ``pythonPath``); empty for the first ``python3`` on the ``PATH``.
    """

    host: str
    port: int = 22
    user: str = field(default_factory=getpass.getuser)
    key_file: Path | None = None
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    python_path: str = ""

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"

    @classmethod
    def of_text(cls, text: str, *, python: str | None = None) -> Machine:
        """Return the machine that ``USER@HOST[:PORT]`` names; ``python`` is the Python there, or its folder.

        Raises
        ------
        ValueError
            If ``text`` is none.
        """
        found = re.fullmatch(r"(?:([^@\s]+)@)?(\[[^\]]+\]|[^@:\s]+)(?::(\d{1,5}))?", text)
        if found is None or not 0 < int(found[3] or 22) < 65536:
            raise ValueError(f"A machine is USER@HOST or USER@HOST:PORT, got {text!r}.")
        is_program = python is not None and re.fullmatch(r"python[\d.]*", python.rpartition("/")[2]) is not None
        folder = (python or "").rpartition("/")[0] if is_program else (python or "")
        return cls(found[2].strip("[]"), int(found[3] or 22), found[1] or getpass.getuser(), python_path=folder)

    @classmethod
    def of_nni(cls, entry: Mapping[str, Any]) -> Machine:
        """Return the machine of an entry of NNI's ``machineList``."""
        with_password = entry.get("password") is not None
        key_file = None if with_password else entry.get("sshKeyFile")
        return cls(
            entry["host"],
            int(entry.get("port", 22)),
            entry["user"],
            Path(key_file).expanduser() if key_file else None,
            entry.get("sshPassphrase"),
            entry.get("password"),
            entry.get("pythonPath") or "",
        )

    def python_command(self, *words: str) -> str:
        """Return the shell command that runs this machine's Python with ``words``."""
        path = f"PATH={shlex.quote(self.python_path)}:$PATH " if self.python_path else ""
        return f"{path}exec python3 {shlex.join(words)}"


@contextlib.asynccontextmanager
async def connected(machine: Machine) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Connect to ``machine``, whose host key has to be one that the person has accepted.

    Raises
    ------
    UnreachableError
        If it does not answer, is not the machine that it was, or does not let the user in; if the connection breaks
        inside the block, a :class:`LostConnectionError`.
    """
    options: dict[str, Any] = {"client_keys": [str(machine.key_file)]} if machine.key_file else {}
    try:
        connection = await asyncssh.connect(
            machine.host,
            machine.port,
            username=machine.user,
            passphrase=machine.passphrase,
            password=machine.password,
            ignore_encrypted=machine.passphrase is None,  # then ssh-agent may have it
            connect_timeout=_SECONDS_TO_CONNECT,
            login_timeout=_SECONDS_TO_CONNECT,
            keepalive_interval=_SECONDS_BETWEEN_SIGNS_OF_LIFE,
            **options,
        )
    except asyncssh.HostKeyNotVerifiable:
        raise UnreachableError(_of_host_key(machine)) from None
    except asyncssh.PermissionDenied:
        raise UnreachableError(
            f"{machine} does not let you in; make {_ssh(machine)} work without a password: "
            f"ssh-copy-id -p {machine.port} {machine.user}@{machine.host}"
        ) from None
    except asyncssh.KeyImportError as error:
        raise UnreachableError(
            f"The key {machine.key_file or 'in ~/.ssh'} cannot be used for {machine} ({error}); name a private key of "
            "OpenSSH's, such as ssh-keygen -t ed25519 makes."
        ) from None
    except (OSError, asyncssh.Error) as error:
        raise UnreachableError(f"{machine} cannot be reached ({error}); does {_ssh(machine)} work?") from None
    try:
        async with connection:
            yield connection
    except _LOST as error:
        raise LostConnectionError(f"The connection to {machine} broke ({error}).") from error
    except asyncssh.Error as error:
        raise UnreachableError(
            f"{machine} refuses what is needed ({error}); it has to allow commands and SFTP."
        ) from error


def _ssh(machine: Machine) -> str:
    return f"ssh -p {machine.port} {machine.user}@{machine.host}"


def _of_host_key(machine: Machine) -> str:
    name = machine.host if machine.port == 22 else f"[{machine.host}]:{machine.port}"
    known = Path.home().joinpath(*KNOWN_HOSTS)
    keys = asyncssh.match_known_hosts(str(known), machine.host, machine.host, machine.port)[0] if known.exists() else []
    if keys:
        return (
            f"{machine} shows another host key than {known} has of it: it was installed anew, or is not that machine. "
            f"If you know that it was: ssh-keygen -R {shlex.quote(name)}; then {_ssh(machine)} to accept the new one."
        )
    return (
        f"The host key of {machine} is not in {known}; {_ssh(machine)} shows it and accepts it, or, on a network that "
        f"you trust: ssh-keyscan -p {machine.port} {machine.host} >> {known}"
    )


async def run_python(
    machine: Machine, connection: asyncssh.SSHClientConnection, script: Path, *words: str, seconds: float = 600
) -> Any:
    """Run a Python file of ours on ``machine`` and return the JSON that it prints; nothing is left there.

    Parameters
    ----------
    machine, connection
        The machine, and the connection to it.
    script
        A file on this machine that needs only Python's standard library there.
    words
        Its arguments.
    seconds
        How long it may take.

    Raises
    ------
    OSError
        If there is no Python, or the file fails there.
    """
    command = machine.python_command("-", *words)
    try:
        done = await connection.run(command, input=script.read_text(), check=False, timeout=seconds, errors="replace")
    except asyncssh.TimeoutError:
        raise OSError(f"{machine} takes longer than {seconds:.0f} s to answer; run the same command again.") from None
    output, complaint = str(done.stdout or ""), str(done.stderr or "")
    lines: Sequence[str] = output.strip().splitlines()
    if done.exit_status or not lines:
        last = (complaint.strip().splitlines() or [f"status {done.exit_status}"])[-1]
        where = f"in {machine.python_path}" if machine.python_path else "on the PATH that SSH gives"
        raise OSError(f"python3 {where} of {machine} fails: {last}; name its folder as the machine's pythonPath.")
    return json.loads(lines[-1])
