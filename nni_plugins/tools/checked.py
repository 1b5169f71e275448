"""Dataclasses that check themselves: every field states what it takes, and a bad value is refused in one sentence.

    @dataclass(frozen=True)
    class Recipe(Checked):
        epochs: int = setting(50, at_least=1)
        gradient_clip_val: float | None = setting(5.0, above=0, none="no clipping")

The kind of a value is its annotation, its range is in :func:`setting`; :meth:`Checked.check` is for what several fields
must fulfil together.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Self = TypeVar("Self", bound="Checked")


@dataclass(frozen=True)
class Accepts:
    """What a field takes beyond its annotation; see :func:`setting`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    none: str = ""
    example: str = ""
    convert: Callable[[Any], Any] | None = None

    def holds(self, number: float) -> bool:
        """Return whether a number lies in the range."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def in_words(self, noun: str) -> str:
        """Return the range in words, such as ``a whole number of at least 1``, ``positive``, ``from 0 to below 1``."""
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            start = f"above {low:g}" if self.above is not None else f"from {low:g}"
            end = f"below {high:g}" if self.below is not None else f"{high:g}"
            return f"{noun} {start} {'and' if self.above is not None else 'to'} {end}"
        if self.above == 0:
            return "positive" if noun == "a number" else f"{noun} above 0"
        if low is not None:
            return f"{noun} {'above' if self.above is not None else 'of at least'} {low:g}"
        if high is not None:
            return f"{noun} {'below' if self.below is not None else 'of at most'} {high:g}"
        return noun


def setting(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **accepts: Any) -> Any:
    """Declare a field of a :class:`Checked` dataclass.

    Parameters
    ----------
    default, factory
        Default value, or a function that makes it.
    **accepts
        ``at_least``, ``above``, ``at_most``, ``below``: range of a number; ``none``: what None means, for an optional
        field; ``example``: how a part is written; ``convert``: a function that returns the value to keep, or raises a
        ValueError whose text follows the field's name.
    """
    metadata = {"accepts": Accepts(**accepts)}
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


class Checked:
    """Base of frozen dataclasses whose fields are checked when an instance is made.

    Raises
    ------
    ValueError
        With the field, what it takes and what it was given.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            accepts = each.metadata.get("accepts", Accepts())
            kept = _checked(each.name, getattr(self, each.name), hints[each.name], accepts)
            object.__setattr__(self, each.name, kept)
        self.check()

    def check(self) -> None:
        """Refuse values that are valid one by one and not together; overridden where there are such."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the fields, in the order of the docstring."""
        return [each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]

    @classmethod
    def of(cls: type[Self], values: Mapping[str, Any], *, prefix: str = "") -> Self:
        """Make an instance from names and values.

        Parameters
        ----------
        prefix
            How the caller writes these names, such as ``retrain.``; messages do the same.

        Raises
        ------
        ValueError
            If a name is not a field, or a value is not valid.
        """
        refuse_unknown(values, cls.names(), prefix=prefix)
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{prefix}{error}") from None


def refuse_unknown(given: Mapping[str, Any], known: list[str], *, prefix: str = "", owner: str = "There is") -> None:
    """Refuse the first name in ``given`` that is not in ``known``.

    Parameters
    ----------
    owner
        Start of the sentence: who has no such setting.

    Raises
    ------
    ValueError
        With the names that are valid.
    """
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        expected = ", ".join(prefix + name for name in known)
        raise ValueError(f"{owner} no setting {prefix + unknown!r}; expected one of {expected}.")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(name: str, value: Any, hint: Any, accepts: Accepts) -> Any:
    """Return the value to keep."""
    if accepts.convert is not None:
        try:
            return accepts.convert(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional = types.NoneType in kinds
    if value is None and optional:
        return None
    (kind,) = [kind for kind in kinds if kind is not types.NoneType]
    words, kept, fits = _by_kind(kind, value, accepts)
    if not fits:
        otherwise = f", or None for {accepts.none}" if accepts.none else ", or None" if optional else ""
        raise ValueError(f"{name} must be {words}{otherwise}, got {_shown(value)}.")
    return kept


def _by_kind(kind: Any, value: Any, accepts: Accepts) -> tuple[str, Any, bool]:
    """Return what is expected in words, the value to keep, and whether the value fits."""
    if kind is bool:
        return "true or false", value, isinstance(value, bool)
    if kind is int:
        return accepts.in_words("a whole number"), value, type(value) is int and accepts.holds(value)
    if kind is float:
        fits = is_number(value) and accepts.holds(value)
        return accepts.in_words("a number"), float(value) if fits else value, fits
    if kind is str:
        return "a text", value, isinstance(value, str)
    if get_origin(kind) is Literal:
        options = get_args(kind)
        return f"one of {', '.join(map(str, options))}", value, isinstance(value, str) and value in options
    fits = not isinstance(value, type) and isinstance(value, kind)
    return f"a part such as {accepts.example}", value, fits


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a real number, and neither a truth value nor a text."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"the class {value.__name__} (write {value.__name__}(...))" if isinstance(value, type) else repr(value)
