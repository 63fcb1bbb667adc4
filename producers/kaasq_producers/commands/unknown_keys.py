"""Finds keys in a file that no message has: misspelt ones would be ignored, as a newer program's are on the wire."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from msgspec import inspect


def unknown_keys(value: Any, kind: Any) -> list[str]:
    """What decoding plain builtins as that type passes over: each key with its place, and the likely right one."""
    return list(_walk(value, inspect.type_info(kind), ""))


def _walk(value: Any, kind: inspect.Type, place: str) -> Iterator[str]:
    match kind:
        case inspect.UnionType(types=types):
            for each in types:
                yield from _walk(value, each, place)
        case inspect.Metadata(type=inner):
            yield from _walk(value, inner, place)
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            known = {each.encode_name: each.type for each in fields}
            for key, each in value.items():
                if key in known:
                    yield from _walk(each, known[key], _joined(place, key))
                else:
                    yield _described(str(key), list(known), place)
        case inspect.DictType(value_type=inner) if isinstance(value, dict):
            for key, each in value.items():
                yield from _walk(each, inner, f"{place}[{key!r}]")
        case inspect.VarTupleType(item_type=inner) | inspect.ListType(item_type=inner) if isinstance(value, list):
            for i, each in enumerate(value):
                yield from _walk(each, inner, f"{place}[{i}]")
        case inspect.TupleType(item_types=kinds) if isinstance(value, list):
            for i, (each, inner) in enumerate(zip(value, kinds, strict=False)):
                yield from _walk(each, inner, f"{place}[{i}]")
        case _:
            pass


def _joined(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _described(key: str, known: list[str], place: str) -> str:
    near = difflib.get_close_matches(key, known, 1)
    meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key!r}{f' in {place}' if place else ''} is ignored; {meant}"
