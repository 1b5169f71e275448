"""``nni-plugins doctor``: what usually breaks in an installation."""

from __future__ import annotations

import argparse

from nni_plugins.commands.arguments import port

HELP = "check what usually breaks in the installation, here or on a remote machine"
PARSER = {"description": "Check the installation and tell each fix; exit status 0 only when all is well."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=8080, help="port of NNI's web UI (default: %(default)s)")
    parser.add_argument("--remote", metavar="USER@HOST[:PORT]", help="a machine for trials, reached by SSH, to check")
    parser.add_argument("--python", metavar="PATH", help="Python on that machine, or its folder: NNI's pythonPath")


def run(arguments: argparse.Namespace) -> int:
    if arguments.remote is not None:
        from nni_plugins.experiment.remote import checkup
        from nni_plugins.experiment.remote.machine import Machine

        return checkup.main(Machine.of_text(arguments.remote, python=arguments.python))
    if arguments.python is not None:
        raise ValueError("--python is the Python of a remote machine; name the machine: --remote USER@HOST.")
    from nni_plugins.experiment import doctor

    return doctor.main(arguments.port)
