"""What is wrong with bytes that are no message: BadRequest naming the place, down to the key of a mapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import inspect

from kaasq.errors import BadRequest

LONGEST_KEY = 80  # of an error's place; keys come from outside
LONGEST_TEXT = 400  # of what is wrong, which may quote a value

_AT = re.compile(r" - at (`key` in )?`(?:\$\.?)?([^`]*)`$")
_ARGUMENT = re.compile(r"launches\[[0-9]+\]\.args\[[0-9]+\]$")
_NUMBER = re.compile(r"got `(int|float|bool)`$")
_STEP = re.compile(r"\[[^]]*\]|[^.\[]+")
_ANY_KEY = "[...]"

_type_info = cache(inspect.type_info)  # 20 ms for the largest; there are few types, and many wrong messages

Raws = dict[str, msgspec.Raw]


def bad_request(error: Exception, body: bytes | memoryview, *, json: bool, kind: Any, prefix: str = "") -> BadRequest:
    """The error of decoding ``body`` as a ``kind``. ``prefix`` is where in the message the body lies."""
    text = str(error)
    found = _AT.search(text)
    if found is None and not isinstance(error, msgspec.ValidationError):
        return BadRequest(f"the body is not valid {'JSON' if json else 'MessagePack'}: {text}", at=prefix or "body")
    steps = _STEP.findall(found.group(2)) if found else []
    if _ANY_KEY in steps:
        steps = _Finder(text, json=json, kind=kind).keyed(bytes(body), steps)
    place = prefix + "".join(step if step.startswith("[") else f".{step}" for step in steps)
    of_key = "a key: " if found and found.group(1) else ""
    wrong = _AT.sub("", text)
    if json:
        wrong = wrong.replace("`bytes", "`bytes (base64)")
    if len(wrong) > LONGEST_TEXT:
        wrong = wrong[:LONGEST_TEXT] + "..."
    if _NUMBER.search(wrong) and _ARGUMENT.search(place):
        wrong += '; a constant needs its type: {"dtype": "int32", "value": 4}'
    if wrong.startswith("Invalid enum value"):
        wrong += told_choices(_choices(_type_info(kind), steps))
    return BadRequest(of_key + wrong, at=place.removeprefix(".") or "body")


def told_choices(choices: Iterable[Any]) -> str:
    """What an enumeration may be, for the end of a message; nothing if that is not known."""
    there = ", ".join(map(str, choices))
    return f"; expected one of {there}" if there else ""


def choices_of(kind: Any) -> tuple[Any, ...]:
    """What an enumeration may be, in the order in which it is written; nothing for other types."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def _choices(kind: inspect.Type, steps: list[str]) -> tuple[Any, ...]:
    """What may stand at the end of a path into a type: msgspec's errors do not say."""
    match kind:
        case inspect.Metadata(type=inner):
            return _choices(inner, steps)
        case inspect.UnionType(types=types):
            return next(filter(None, (_choices(each, steps) for each in types)), ())
        case inspect.LiteralType(values=values) if not steps:
            return values
        case inspect.StructType(fields=fields):
            inside = next((each.type for each in fields if steps and each.encode_name == steps[0]), None)
            return () if inside is None else _choices(inside, steps[1:])
        case inspect.DictType(value_type=inner) | inspect.VarTupleType(item_type=inner) if steps:
            return _choices(inner, steps[1:])
    return ()


class _Finder:
    """Finds the keys that msgspec's errors leave out, by decoding again with fewer entries in the mapping.

    Only what lies on the path is taken apart. Takes time for log2(entries) decodings, and only when there is an error.
    """

    def __init__(self, text: str, *, json: bool, kind: Any) -> None:
        self._text = text
        self._kind = kind
        self._decode: Callable[..., Any] = msgspec.json.decode if json else msgspec.msgpack.decode
        self._encode: Callable[[Any], bytes] = msgspec.json.encode if json else msgspec.msgpack.encode

    def keyed(self, body: bytes, steps: list[str]) -> list[str]:
        """The steps with keys for "[...]"; as they are if the error does not show again (duplicate keys in JSON)."""
        try:
            return self._keyed(body, steps, lambda changed: changed)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError):
            return steps

    def _keyed(self, part: bytes | msgspec.Raw, steps: list[str], whole: Callable[[Any], Any]) -> list[str]:
        """``whole`` puts another value in the part's place, and gives the message that this makes."""
        if _ANY_KEY not in steps:
            return steps
        step, rest = steps[0], steps[1:]
        if step == _ANY_KEY:
            key, inner = self._first_wrong(self._decode(part, type=Raws), whole)
            return [_shown(key), *self._keyed(inner, rest, lambda changed: whole({key: changed}))]
        if step.startswith("["):
            items, index = self._decode(part, type=list[msgspec.Raw]), int(step[1:-1])
            inner, others = items[index], (items[:index], items[index + 1 :])
            return [step, *self._keyed(inner, rest, lambda changed: whole([*others[0], changed, *others[1]]))]
        fields = self._decode(part, type=Raws)
        return [step, *self._keyed(fields[step], rest, lambda changed: whole(fields | {step: changed}))]

    def _first_wrong(self, entries: Raws, whole: Callable[[Any], Any]) -> tuple[str, msgspec.Raw]:
        items = list(entries.items())
        fine, wrong = 0, len(items)  # decoding goes in order: the first of these many entries are fine, of those not
        if not self._fails(whole(entries)):
            raise LookupError
        while wrong - fine > 1:
            middle = (fine + wrong) // 2
            if self._fails(whole(dict(items[:middle]))):
                wrong = middle
            else:
                fine = middle
        return items[wrong - 1]

    def _fails(self, message: Any) -> bool:
        try:
            self._decode(self._encode(message), type=self._kind)
        except msgspec.ValidationError as error:
            return str(error) == self._text
        return False


def _shown(key: str) -> str:
    short = key if len(key) <= LONGEST_KEY else key[:LONGEST_KEY] + "..."
    return short if short.replace("-", "_").isidentifier() else f"[{short!r}]"
