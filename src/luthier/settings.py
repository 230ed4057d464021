"""What all typed settings share: frozen models, unknown keys refused, settings left open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Settings(BaseModel):
    """Base of every settings class: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Choose(Settings, Generic[T]):
    """A setting left open: the run tries the values on validation and counts the cost."""

    choose: tuple[T, ...] = Field(min_length=2)
    """The values to try, at least two."""


Open: TypeAlias = T | Choose[T]
"""A setting that may be given or left open: `rank: 16` or `rank: {choose: [8, 16]}`."""


def closed(settings: Settings) -> Iterator[Settings]:
    """Every combination of the values left open in `settings`, each with all settings given.

    Settings without an open value give themselves, once.
    """
    open_fields: dict[str, tuple[Any, ...]] = {
        name: value.choose
        for name in type(settings).model_fields
        if isinstance(value := getattr(settings, name), Choose)
    }
    for values in product(*open_fields.values()):
        given = settings.model_dump(exclude_unset=True) | dict(zip(open_fields, values, strict=True))
        yield type(settings).model_validate(given)
