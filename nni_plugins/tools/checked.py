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
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar, get_type_hints

from search_spaces.arguments import Accepts, checked_value, refuse_unknown

Self = TypeVar("Self", bound="Checked")


def setting(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **accepts: Any) -> Any:
    """Declare a field of a :class:`Checked` dataclass.

    Parameters
    ----------
    default, factory
        Default value, or a function that makes it.
    **accepts
        What the field takes beyond its annotation: fields of :class:`search_spaces.arguments.Accepts`.
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
        hints = get_type_hints(type(self))
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            accepts = each.metadata.get("accepts", Accepts())
            kept = checked_value(each.name, getattr(self, each.name), hints[each.name], accepts)
            object.__setattr__(self, each.name, kept)
        self.check()

    def check(self) -> None:
        """Refuse values that are valid one by one and not together; overridden where there are such."""

    @classmethod
    def names(cls, *, prefix: str = "") -> list[str]:
        """Return the names of the fields, in the order of the docstring and with ``prefix``."""
        return [prefix + each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]

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
