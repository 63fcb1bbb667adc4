"""The wire types as JSON Schema definitions: what msgspec knows of them, and what ``fields`` adds.

Only keywords that mean the same in draft-07 (AsyncAPI's) and in draft 2020-12 are used.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from kaasq.flows.model import FlowCall, FlowReply, FlowsCall, FlowStart, StepCall
from kaasq.messages import Cancel, RequestOf
from kaasq.model import GraphSpec
from kaasq.schema.calls import call_launches
from kaasq.schema.fields import ABSENT, FIELDS, TYPES
from kaasq.schema.flow_fields import FLOW_FIELDS, FLOW_TYPES
from kaasq.schema.kaas import KAAS_TYPES, REQUEST, kaas_fields

Schema = dict[str, Any]

_BASE64 = "^[A-Za-z0-9+/]*={0,2}$"


def definitions(place: str) -> dict[str, Schema]:
    """Every type by name. ``place`` is where the document keeps them, such as ``#/$defs``: they refer to each other."""
    template = place + "/{name}"
    roots = (RequestOf[GraphSpec | str], REQUEST, FlowReply, Cancel, FlowStart, FlowCall, FlowsCall, StepCall)
    (request, _, reply, *_), found = msgspec.json.schema_components(roots, ref_template=template)
    types: dict[str, Schema] = _strict_base64(found)
    for name, root in (("Request", request), ("Reply", reply)):
        types[name] = {"title": name, **_without(types.pop(root["$ref"].rpartition("/")[2]), "title")}
    for name, fields in (FIELDS | FLOW_FIELDS | kaas_fields(place)).items():
        types[name] = _completed(types[name], fields, (TYPES | FLOW_TYPES | KAAS_TYPES).get(name, {}))
    types["Request"]["properties"]["graphs"]["additionalProperties"] = {"$ref": f"{place}/GraphSpec"}
    return {**types, **call_launches(types["Launch"], place)}


def _completed(schema: Schema, fields: Mapping[str, Schema], whole: Schema) -> Schema:
    described = {**schema, "description": _prose(schema["description"]), **whole}
    properties = described["properties"] = dict(schema["properties"])
    for name, more in fields.items():
        # A KeyError here is a rule for a field that no longer exists.
        merged = {**properties[name], **more}
        properties[name] = {key: value for key, value in merged.items() if value is not ABSENT}
    return described


def _strict_base64(schema: Any) -> Any:
    """The same with a pattern beside every ``contentEncoding``, which validators only read."""
    if isinstance(schema, list):
        return [_strict_base64(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict_base64(each) for name, each in schema.items()}
    return strict | {"pattern": _BASE64} if "contentEncoding" in schema else strict


def _prose(docstring: str) -> str:
    """A docstring as Markdown, a line per paragraph."""
    paragraphs = inspect.cleandoc(docstring).replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _without(schema: Schema, key: str) -> Schema:
    return {name: value for name, value in schema.items() if name != key}
