"""What all typed settings share: frozen models, unknown keys refused, settings left open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeAlias, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of every settings class: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    chooses: ClassVar[frozenset[str]] = frozenset()
    """Names of settings whose open values it tries itself, as it can do that for less than one whole fit each."""

    def is_changed(self, name: str) -> bool:
        """Whether a setting differs from its default. Giving the default says nothing, as in a resolved study."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class Choose(Settings, Generic[T]):
    """A setting left open: the run tries the values on validation and counts the cost."""

    choose: tuple[T, ...] = Field(min_length=2)
    """The values to try, at least two."""


if TYPE_CHECKING:
    Open: TypeAlias = T | Choose[T]
else:

    class Open:
        """A setting that may be given or left open: `rank: 16` or `rank: {choose: [8, 16]}`."""

        def __class_getitem__(cls, kind: Any) -> Any:
            # As a plain alias of a union, `Open[int]` would leave the values of Choose unchecked: typing does not
            # substitute inside classes, which pydantic's generics are.
            return Union[kind, Choose[kind]]  # noqa: UP007


def values_of(setting: Any) -> tuple[Any, ...]:
    """The values of a setting that may be left open; one where it is not."""
    return tuple(setting.choose) if isinstance(setting, Choose) else (setting,)


def given(setting: Any) -> float:
    """The number of a setting that may be left open, where it is not."""
    assert not isinstance(setting, Choose), "all settings are given by now"
    return float(setting)


def closed(settings: Settings) -> Iterator[Settings]:
    """Every combination of the values left open in `settings` and in what it holds, each with all settings given.

    Settings without an open value give themselves, once.
    """
    open_fields: dict[str, list[Any]] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name in type(settings).chooses:
            continue
        if isinstance(value, Choose):
            open_fields[name] = [each for one in value.choose for each in _closed_value(one)]
        elif isinstance(value, Settings) and len(inner := list(closed(value))) > 1:
            open_fields[name] = inner
    for values in product(*open_fields.values()):
        own = {name: getattr(settings, name) for name in settings.model_fields_set}
        own |= dict(zip(open_fields, values, strict=True))
        yield type(settings).model_validate(own)


def _closed_value(value: Any) -> Iterator[Any]:
    yield from closed(value) if isinstance(value, Settings) else (value,)


def clipped(value: object) -> str:
    """A setting's value in a line of forty characters at most."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"
