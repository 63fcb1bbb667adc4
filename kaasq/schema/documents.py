"""The JSON Schemas (draft 2020-12), one self-contained document per message."""

from __future__ import annotations

from typing import Any

from kaasq.messages import PROTOCOL_VERSION
from kaasq.schema.definitions import definitions

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ("request", "kaas-request", "workflow", "flow", "flows", "step", "reply", "event", "cancel")

_PLACE = "#/$defs"
_NO_BYTES: Schema = {"additionalProperties": {"properties": {"inline": {"type": "null"}}}}


def json_schema(name: str) -> Schema:
    """The schema of that message as JSON. Raises KeyError for a name outside NAMES."""
    types = definitions(_PLACE)
    body = {
        "request": {"$ref": f"{_PLACE}/Request"},
        "kaas-request": {"$ref": f"{_PLACE}/KaasRequest"},
        "workflow": {"$ref": f"{_PLACE}/FlowStart"},
        "flow": {"$ref": f"{_PLACE}/FlowCall"},
        "flows": {"$ref": f"{_PLACE}/FlowsCall"},
        "step": {"$ref": f"{_PLACE}/StepCall"},
        "reply": {"$ref": f"{_PLACE}/Reply"},
        "cancel": {"$ref": f"{_PLACE}/Cancel"},
        "event": event(_PLACE),
    }[name]
    return {
        "$schema": DIALECT,
        "$id": f"urn:kaasq:{PROTOCOL_VERSION}:{name}",
        "title": f"A kaasq {name}",
        **body,
        "$defs": _reachable(types, body),
    }


def event(place: str) -> Schema:
    """An event's data: the reply without inline bytes."""
    return {"allOf": [{"$ref": f"{place}/Reply"}, {"properties": {"outputs": _NO_BYTES}}]}


def _reachable(types: dict[str, Schema], schema: Schema) -> dict[str, Schema]:
    """The definitions that the schema needs, itself or through others; in their own order."""
    needed: set[str] = set()
    todo = list(_references(schema))
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += _references(types[name])
    return {name: each for name, each in sorted(types.items()) if name in needed}


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for each in schema.values() for name in _references(each)]
    if isinstance(schema, list):
        return [name for each in schema for name in _references(each)]
    return []
