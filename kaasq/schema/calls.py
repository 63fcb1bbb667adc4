"""A launch in a schema: of a kernel of the graph's modules, or one of each built-in that kaasq ships."""

from __future__ import annotations

from typing import Any

from kaasq.builtins.catalogue import CATALOGUE
from kaasq.builtins.signature import VIEWS, Builtin
from kaasq.model import BUILTINS, Attribute

Schema = dict[str, Any]

_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", tuple: "array"}
_ONE: Schema = {"enum": [1, [1], [1, 1], [1, 1, 1]]}
_VIEWS: Schema = {
    "description": "A shape per argument under which to see its buffer, null for the declared one.",
    "type": "array",
    "items": {"type": ["array", "null"], "items": {"type": "integer", "minimum": 1}},
}


def call_launches(launch: Schema, place: str) -> dict[str, Schema]:
    """Definitions for every form of launch; ``Launch`` becomes any of them. ``launch`` is msgspec's, completed."""
    args = launch["properties"]["args"]
    shared = {"Argument": args["items"], "Views": _VIEWS}
    kernel = {
        **launch,
        "properties": {**launch["properties"], "args": {**args, "items": {"$ref": f"{place}/Argument"}}},
    }
    own = {
        **kernel,
        "title": "KernelLaunch",
        "description": "One invocation of a kernel of the graph's modules. Left-out dimensions are 1.",
        "properties": {
            **{name: each for name, each in kernel["properties"].items() if name != "attrs"},
            "module": {**kernel["properties"]["module"], "not": {"const": BUILTINS}},
            "attrs": {"maxProperties": 0},
        },
    }
    calls = {_title(each): _call(each, kernel, place) for each in CATALOGUE.values()}
    added = _launch(
        kernel,
        title="AddedCall",
        description="One call of a built-in that a package on the worker adds: `package.name`.",
        kernel={"type": "string", "pattern": r"^.+\..+$"},
        attrs=kernel["properties"]["attrs"],
    )
    every = {"KernelLaunch": own, **calls, "AddedCall": added}
    either = {
        "title": "Launch",
        "description": f"One kernel invocation. With the module `{BUILTINS}` the kernel is a built-in.",
        "oneOf": [{"$ref": f"{place}/{name}"} for name in every],
        "if": {"properties": {"module": {"const": BUILTINS}}},
        "then": {"properties": {"grid": _ONE, "block": _ONE, "shared_bytes": {"const": 0}}},
    }
    return {"Launch": either, **every, **shared}


def _call(builtin: Builtin, launch: Schema, place: str) -> Schema:
    required = [name for name, default in builtin.attributes.items() if isinstance(default, type)]
    properties = {name: _attribute(default) for name, default in builtin.attributes.items()}
    properties[VIEWS] = {"$ref": f"{place}/Views"}
    attrs: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    schema = _launch(
        launch,
        title=_title(builtin),
        description=f"`{builtin.usage}`: {builtin.summary}." if builtin.summary else f"`{builtin.usage}`.",
        kernel={"const": builtin.name},
        attrs={**attrs, "required": required} if required else attrs,
    )
    args = schema["properties"]["args"]
    least = sum(each.default is None for each in builtin.parameters)
    args |= {"description": f"{builtin.usage}.", "minItems": least, "maxItems": len(builtin.parameters)}
    schema["required"] += ["args"] + ["attrs"] * bool(required)
    return schema


def _launch(launch: Schema, *, title: str, description: str, kernel: Schema, attrs: Schema) -> Schema:
    """A launch without what only a kernel of the graph's own has."""
    return {
        "title": title,
        "description": description,
        "type": "object",
        "properties": {
            "module": {"const": BUILTINS},
            "kernel": kernel,
            "args": {key: value for key, value in launch["properties"]["args"].items() if key != "default"},
            "attrs": attrs,
        },
        "required": ["module", "kernel"],
    }


def _attribute(default: Attribute | type) -> Schema:
    if isinstance(default, type):
        return _typed(default)
    return {**_typed(type(default)), "default": list(default) if isinstance(default, tuple) else default}


def _typed(kind: type) -> Schema:
    schema: Schema = {"type": _JSON_TYPES[kind]}
    if kind is tuple:
        schema["items"] = {"type": "integer"}
    return schema


def _title(builtin: Builtin) -> str:
    return "".join(word.capitalize() for word in builtin.name.split("_")) + "Call"
