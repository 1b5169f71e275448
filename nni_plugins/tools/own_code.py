"""A user's own code by name, ``module:attribute``, which is imported only if the command line says so.

NNI's page starts trials for whoever reaches it, and genotypes, reports and checkpoints come from anywhere. So a name in
such data never leads to an import: a door of the program (:mod:`nni_plugins.cli`, :mod:`nni_plugins.trial`) calls
:func:`allow` with what stands on its own command line, and everything else calls :func:`own`, which knows only that.
Python code that wants a name resolved calls :func:`allow` itself.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

OPTIONS = {"strategy": "strategy", "space": "search space", "data": "data set"}
"""Options that may name a user's own code, and what it is to be."""

FILE_FORMS = ("npz", "imagefolder")
"""Words before the colon of ``--data`` that say how a file is to be read."""

_allowed: dict[str, Any] = {}


def is_own(name: str) -> bool:
    """Return whether ``name`` has the form of a user's own code."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, (*module.split("."), *attribute.split("."))))


def allow(name: str, what: str) -> Any:
    """Import ``module:attribute`` and let :func:`own` return it from now on.

    Modules are looked for in the current folder too, where an installed command would not look by itself.

    Parameters
    ----------
    name
        The name, as it stands on the command line.
    what
        What it is to be, for messages: ``search space``, ``data set`` or ``strategy``.

    Raises
    ------
    ValueError
        If there is no such module or no such attribute in it, or the module itself fails.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{what} {name!r}: there is no module {module_name!r}; start from the folder that has it, or install "
                "it."
            ) from None
        raise ValueError(f"{what} {name!r}: {module_name} needs {error.name!r}, which is not installed.") from None
    except Exception as error:
        raise ValueError(f"{what} {name!r}: {module_name} fails when it is imported: {in_short(error)}.") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{what} {name!r}: {module_name} has no {attribute!r}; define it there.")
        found = getattr(found, part)
    _allowed[name] = found
    return found


def allow_own_code(arguments: argparse.Namespace) -> None:
    """Allow the code that the options ``--strategy``, ``--space`` and ``--data`` of a command line name.

    Raises
    ------
    ValueError
        As :func:`allow`.
    """
    for option, what in OPTIONS.items():
        name = getattr(arguments, option, None)
        if name is not None and is_own(name) and name.partition(":")[0] not in FILE_FORMS:
            allow(name, what)


def allowed_names() -> tuple[str, ...]:
    """Return the names of all code that has been allowed, for a process that is to be allowed the same."""
    return tuple(_allowed)


def own(name: str, what: str, option: str) -> Any:
    """Return what the command line has allowed under ``name``.

    Parameters
    ----------
    what, option
        For messages: what it is to be, and the option that gives it.

    Raises
    ------
    ValueError
        If the command line has not named it.
    """
    if name not in _allowed:
        raise ValueError(
            f"The {what} {name!r} is code to be imported, which only the command line may name; pass {option} {name} "
            "if you trust that code."
        )
    return _allowed[name]


def in_short(error: BaseException) -> str:
    """Return an error of a user's code in a few words: its kind, its text, and the line of that code that raised it."""
    caller = frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = ""
    if frame is not None and frame is not caller:
        where = f" ({os.path.basename(frame.tb_frame.f_code.co_filename)}, line {frame.tb_lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"
