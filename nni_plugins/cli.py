"""The command ``nni-plugins``: its commands are the modules of :mod:`nni_plugins.commands`.

Only what a command needs is imported: help, mistakes in names, ``draw``, ``check``, ``predict``, ``compare``, ``score``
and ``list`` (but for the settings) load neither torch nor NNI.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn, cast

from nni_plugins.commands import COMMANDS, Command
from nni_plugins.tools.console import complain, quiet_libraries
from nni_plugins.tools.diverged import Diverged
from nni_plugins.tools.own_code import allow_own_code
from nni_plugins.tools.stopping import Stopped, end_unread, output_is_unread, say_stopped, stopping_on_signals

RESUME_ADVICE = "run the same command again to resume after the last finished epoch."


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, as all of ours."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where help is, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def command(name: str) -> Command:
    """Return a command by its name."""
    return cast(Command, importlib.import_module(f"nni_plugins.commands.{name}"))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(
        prog="nni-plugins",
        description="Find, train, export and check convolutional networks with NAS methods for NNI.",
        epilog="Start with: nni-plugins search --out exported/first",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        each = command(name)
        each.add_arguments(commands.add_parser(name, help=each.HELP, **each.PARSER))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0 if all is well, 1 if a check failed or nobody reads the output on, 2 for a mistake in the command, 130 after
        Ctrl-C and 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with stopping_on_signals():
            return _run(words)
    except Stopped as stopped:
        resumable = words[:1] in (["search"], ["retrain"])
        return say_stopped(stopped, RESUME_ADVICE if resumable else "")


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["check"]:  # has a parser of its own, since it also stands alone
        return command("check").run(argparse.Namespace(words=words[1:]))
    arguments = build_parser().parse_args(words)
    quiet_libraries()
    try:
        allow_own_code(arguments)
        status = command(arguments.command).run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        return end_unread() if output_is_unread() else complain(error)
    except (ValueError, OSError, MemoryError, Diverged) as error:
        return complain(error)


if __name__ == "__main__":
    sys.exit(main())
