"""Values that are checked by their annotations: a bad one is refused in one sentence that says what was expected.

    @checked_arguments
    def __init__(self, channels: Annotated[int, Accepts(at_least=2, even=True)] = 16) -> None:

The kind of a value is its annotation, its range an :class:`Accepts` beside it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Accepts:
    """What an argument or a field takes beyond its annotation.

    Parameters
    ----------
    at_least, above, at_most, below
        Range of a number.
    even
        Whether a whole number has to be even.
    none
        What None means, for an optional value.
    example
        How a part, or a value to convert, is written.
    convert
        A function that returns the value to keep, or raises a ValueError whose text follows the name.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    even: bool = False
    none: str = ""
    example: str = ""
    convert: Callable[[Any], Any] | None = None

    def holds(self, number: float) -> bool:
        """Return whether a number lies in the range."""
        return (
            math.isfinite(number)
            and not (self.even and number % 2)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def in_words(self, noun: str) -> str:
        """Return the range in words, such as ``a whole number of at least 1`` or ``positive``."""
        noun = noun.replace("a whole", "an even") if self.even else noun
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            start = f"above {low:g}" if self.above is not None else f"from {low:g}"
            end = f"below {high:g}" if self.below is not None else f"{high:g}"
            if self.above is not None:
                return f"{noun} {start} and {end if self.below is not None else f'at most {end}'}"
            return f"{noun} {start} to {end}"
        if self.above == 0:
            return "positive" if noun == "a number" else f"{noun} above 0"
        if low is not None:
            return f"{noun} {'above' if self.above is not None else 'of at least'} {low:g}"
        if high is not None:
            return f"{noun} {'below' if self.below is not None else 'of at most'} {high:g}"
        return noun


def checked_arguments(function: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor check its arguments by their annotations before it runs.

    Raises
    ------
    ValueError
        From the constructor, with the argument, what it takes and what it was given.
    """
    signature = inspect.signature(function)
    _declared[f"{function.__module__}.{function.__qualname__}"] = function

    @functools.wraps(function)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        refuse_unknown(kwargs, list(signature.parameters)[1:], noun="argument")
        bound = signature.bind(self, *args, **kwargs)
        hints = _hints(function)
        for name, value in list(bound.arguments.items())[1:]:
            bound.arguments[name] = checked_value(name, value, hints[name])
        function(*bound.args, **bound.kwargs)

    return checked


_declared: dict[str, Callable[..., None]] = {}
"""Constructors with :func:`checked_arguments` by full name; NNI's ModelSpace hides them behind one without names."""


class Argument(NamedTuple):
    """An argument of a constructor that checks them: its annotation and its default."""

    hint: Any
    default: Any


def declared_arguments(make: Callable[..., Any]) -> dict[str, Argument] | None:
    """Return the arguments by name of a class with :func:`checked_arguments`, None for another class.

    Parameters
    ----------
    make
        The class, or a ``partial`` of it, whose keywords then are none of its arguments.
    """
    for cls in getattr(getattr(make, "func", make), "__mro__", ()):
        function = _declared.get(f"{cls.__module__}.{cls.__qualname__}.__init__")
        if function is not None:
            hints = _hints(function)
            return {
                name: Argument(hints[name], parameter.default)
                for name, parameter in list(inspect.signature(function).parameters.items())[1:]
                if name not in getattr(make, "keywords", {})
            }
    return None


def check_arguments(make: Callable[..., Any], values: Mapping[str, Any], *, prefix: str = "") -> None:
    """Refuse arguments that a class does not take or that are not valid, if it has :func:`checked_arguments`.

    Parameters
    ----------
    make
        What will be called.
    values
        Its arguments.
    prefix
        How the caller writes their names, such as ``space.``; messages do the same.

    Raises
    ------
    ValueError
        With the argument, what is expected and what was given.
    """
    declared = declared_arguments(make)
    if declared is not None:
        refuse_unknown(values, list(declared), prefix=prefix, noun="argument")
        for name, value in values.items():
            checked_value(prefix + name, value, declared[name].hint)


@contextlib.contextmanager
def naming_unknown_arguments(owner: str) -> Iterator[None]:
    """Turn Python's complaint about an argument that a class does not take into a ValueError; for any class.

    Raises
    ------
    ValueError
        With ``owner``, whose class is called inside the block, and the argument.
    """
    try:
        yield
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ValueError(f"{owner} does not take these arguments: {error}.") from None


def refuse_unknown(
    given: Iterable[str], known: list[str], *, prefix: str = "", owner: str = "There is", noun: str = "setting"
) -> None:
    """Refuse the first name in ``given`` that is not in ``known``.

    Parameters
    ----------
    owner
        Start of the sentence: who has no such setting.
    noun
        What the names are of.

    Raises
    ------
    ValueError
        With the names that are valid.
    """
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        expected = f"one of {', '.join(prefix + name for name in known)}" if known else "none"
        raise ValueError(f"{owner} no {noun} {prefix + unknown!r}; expected {expected}.")


@functools.cache
def _hints(function: Any) -> dict[str, Any]:
    return get_type_hints(function, include_extras=True)


def checked_value(name: str, value: Any, hint: Any, accepts: Accepts | None = None) -> Any:
    """Return the value to keep under ``name``.

    Parameters
    ----------
    hint
        Annotation of the value: ``bool``, ``int``, ``float``, ``str``, a ``Literal`` of texts, a class or protocol of
        parts, one of these or None, or one of these as ``Annotated`` with an :class:`Accepts`.
    accepts
        What the value may be beyond its annotation; by default what the annotation says.

    Raises
    ------
    ValueError
        If the value is not valid.
    """
    hint, accepts = _split(hint, accepts or Accepts())
    if accepts.convert is not None:
        try:
            return accepts.convert(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    kind, optional = _kind(hint)
    if value is None and optional:
        return None
    if not _fits(kind, value, accepts):
        raise ValueError(f"{name} must be {in_words(hint, accepts)}, got {_shown(value)}.")
    return float(value) if kind is float else value


def in_words(hint: Any, accepts: Accepts) -> str:
    """Return what a value of an annotation may be, such as ``positive, or None for no clipping``."""
    hint, accepts = _split(hint, accepts)
    if accepts.convert is not None:
        return accepts.example
    kind, optional = _kind(hint)
    if kind in _NOUNS:
        words = accepts.in_words(_NOUNS[kind])
    elif get_origin(kind) is Literal:
        words = f"one of {', '.join(map(str, get_args(kind)))}"
    else:
        words = f"a part such as {accepts.example}" if accepts.example else "see its documentation"
    return words + (f", or None for {accepts.none}" if accepts.none else ", or None" if optional else "")


_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _split(hint: Any, accepts: Accepts) -> tuple[Any, Accepts]:
    """Return an annotation without its :class:`Accepts`, and that if there is one."""
    if get_origin(hint) is not Annotated:
        return hint, accepts
    hint, *beside = get_args(hint)
    return hint, next((each for each in beside if isinstance(each, Accepts)), accepts)


def _kind(hint: Any) -> tuple[Any, bool]:
    """Return the kind of value that an annotation asks for, and whether None will do as well."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next(kind for kind in kinds if kind is not types.NoneType), types.NoneType in kinds


def _fits(kind: Any, value: Any, accepts: Accepts) -> bool:
    if kind is int:
        return type(value) is int and accepts.holds(value)
    if kind is float:
        return is_number(value) and accepts.holds(value)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    return not isinstance(value, type) and isinstance(value, kind)


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a real number, and neither a truth value nor a text."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"the class {value.__name__} (write {value.__name__}(...))" if isinstance(value, type) else repr(value)
