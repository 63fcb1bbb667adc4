"""What settings are given in variables, flags and files, as the values that their types ask for. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

import msgspec

from kaasq.decode_errors import choices_of, told_choices
from kaasq.errors import BadRequest
from kaasq.units import parse_size, size

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
SIZE = {"unit": "bytes"}
"""What marks a type as a size."""
Bytes = Annotated[int, msgspec.Meta(ge=0, extra=SIZE)]
"""A size: a number of bytes, or a text with a unit."""
SomeBytes = Annotated[int, msgspec.Meta(ge=1, extra=SIZE)]

_EXPECTED = re.compile(r"Expected `(int|float|bool|str|object)(?: \| null)?`(?:, got `[^`]*`)?")
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "object": "a table"}


def converted(value: Any, kind: Any, at: str) -> Any:
    """The value as a ``kind``. Raises BadRequest naming ``at``, where it was given."""
    if isinstance(value, dict) and get_origin(kind) is dict:
        return {key: converted(each, get_args(kind)[1], f"{at}.{key}") for key, each in value.items()}
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        kinds = {each.name: each.type for each in msgspec.structs.fields(kind)}
        for key in value:
            check_known(key, kinds, f"{at}.{key}")
        return kind(**{key: converted(each, kinds[key], f"{at}.{key}") for key, each in value.items()})
    least = _least(kind)
    prepared = value
    if least is not None and isinstance(value, (str, int)) and not isinstance(value, bool):
        prepared = _size(value, least, at)
    try:
        return msgspec.convert(prepared, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{value!r}: {_in_words(error)}{told_choices(choices_of(kind))}", at=at) from None


def _in_words(error: msgspec.ValidationError) -> str:
    """What was expected, for who writes settings: the types' names are a programmer's."""
    return _EXPECTED.sub(lambda found: f"expected {_WORDS[found[1]]}", str(error))


def check_known(name: str, known: Iterable[str], at: str) -> None:
    """Raises BadRequest for a setting that there is not, naming those that there are."""
    known = list(known)
    if name not in known:
        near = nearest_setting(name, known)
        raise BadRequest(
            f"unknown setting{f' (did you mean {near}?)' if near else ''}; known are {', '.join(known)}", at=at
        )


def flag_of(setting: str) -> str:
    """The flag of commands that have one for it."""
    return "--broker" if setting == "broker_url" else f"--{setting.replace('_', '-')}"


def nearest_setting(name: str, known: Iterable[str]) -> str | None:
    """The known setting that an unknown name means, if it is clear: by its flag's name, a letter wrong, its first words
    alone, or much like it.
    """
    known, close = list(known), difflib.get_close_matches
    of_flag = [each for each in known if flag_of(each) == flag_of(name)]
    longer = [each for each in known if each.startswith(f"{name}_")]
    found = of_flag or close(name, known, 1, 0.9) or close(name, longer, 1, 0) or close(name, known, 1)
    return found[0] if found else None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known one that a misspelt name is most like, if it is much like one."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _size(value: str | int, least: int, at: str) -> int:
    try:
        nbytes = parse_size(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRequest(f"{value!r}: {error}", at=at) from None
    if nbytes < least:
        raise BadRequest(f"{value!r}: {size(least)} is the least; sizes are in bytes, or have a unit: 10GiB", at=at)
    return nbytes


def _least(kind: Any) -> int | None:
    """The least of a size; None for what is none."""
    for each in (kind, *get_args(kind)):
        for meta in getattr(each, "__metadata__", ()):
            if meta.extra == SIZE:
                return int(meta.ge)
    return None
