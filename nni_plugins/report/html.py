"""Pages that read without a network and without a script: jinja2 templates, pictures inline, every text escaped."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jinja2

NONE = "–"
"""What stands where there is no number."""
_SPACE = "\N{NO-BREAK SPACE}"

_PROLOG = re.compile(r"^\s*(?:<\?xml.*?\?>|<!DOCTYPE.*?>|\s+)+", re.DOTALL)
_DISPENSABLE = re.compile(r"<metadata>.*?</metadata>|<style\b.*?</style>|<defs>\s*</defs>", re.DOTALL)
_NAME = re.compile(r"""(\bid="|\bhref="\#|\burl\(\#)""")


def render(template: str, **values: Any) -> str:
    """Return a page: the template of :mod:`nni_plugins.report` with ``values``, all but inline pictures escaped."""
    return _environment().get_template(template).render(**values)


def inline_svg(svg: str, name: str) -> str:
    """Return a picture as part of a page; its ids begin with ``name``, so that those of several pictures differ.

    Parameters
    ----------
    svg
        A picture that this package has drawn; templates put it in as it is, by ``safe``.
    name
        Unlike that of any other picture of the page.
    """
    bare = _DISPENSABLE.sub("", _PROLOG.sub("", svg))
    return _NAME.sub(rf"\g<1>{name}-", bare).strip()


def percent(value: Any, digits: int = 2) -> str:
    """Return a number of percent, such as ``97.21 %``."""
    return f"{value:.{digits}f}{_SPACE}%" if _is_number(value) else NONE


def number(value: Any, digits: int | None = None) -> str:
    """Return a number with its thousands apart, floats with ``digits`` after the point or four significant ones."""
    if not _is_number(value):
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if digits is None else f"{value:,.{digits}f}"


def milliseconds(value: Any) -> str:
    """Return a time, such as ``0.39 ms``."""
    return f"{value:.2f}{_SPACE}ms" if _is_number(value) else NONE


def amount(value: Any) -> str:
    """Return a large number with a unit, such as ``3.99 M`` or ``482 k``."""
    if not _is_number(value):
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{_SPACE}{unit}"
    return f"{value:g}"


def readable(value: Any) -> str:
    """Return a setting's value as it is typed after ``--set NAME=``."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(readable, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={readable(part)}" for name, part in value.items())
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nni_plugins.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= {
        each.__name__: each for each in (percent, number, milliseconds, amount, readable, inline_svg)
    }
    return environment
