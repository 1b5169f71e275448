"""The texts of settings: ``--set NAME=VALUE`` and NNI's parameters, from text to value and back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

_WORDS = {"true": True, "false": False, "none": None}


def parse_value(text: Any) -> Any:
    """Read a setting's text: a Python literal, ``true``/``false``/``none``, a part such as ``Confident(power=2)``.

    Anything else stays a text, and what is not a text stays as it is.

    Raises
    ------
    ValueError
        If a part or its arguments are not valid.
    """
    if not isinstance(text, str):
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"\w+\(.*\)", text):
        return _part(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _part(text: str) -> Any:
    """Return the part that a text such as ``Confident(power=2)`` names; only literals are read, nothing is run."""
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        if call.args:
            raise ValueError(f"Write the arguments of {call.func.id} with their names: {call.func.id}(name=value).")
        arguments = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not a part; expected something like Confident(power=2).") from None
    from nni_plugins.methods.bilevel.choices import PARTS

    parts = {part.__name__: part for part in PARTS}
    name = call.func.id
    if name not in parts:
        raise ValueError(f"Unknown part {name!r}; expected one of {', '.join(parts)}.")
    return parts[name].of(arguments, prefix=f"{name}.")


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise SyntaxError from None


def plain_value(value: Any) -> Any:
    """Return ``value`` as JSON has it, a part as the text that :func:`parse_value` reads."""
    return value if value is None or isinstance(value, (bool, int, float, str, list, tuple)) else repr(value)


def parse_assignments(texts: Iterable[str]) -> dict[str, str]:
    """Return ``["epochs=8", "lr=0.1"]`` as a dict of texts.

    Raises
    ------
    ValueError
        If a text has no ``=``.
    """
    assignments = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set {text!r} is not an assignment; write --set NAME=VALUE, such as --set epochs=8.")
        assignments[name.strip()] = value.strip()
    return assignments
