"""The KaaS format in the schemas: its types as msgspec can describe them, and what they do not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kaasq.checks import BLOCK_LIMIT, GRID_LIMIT
from kaasq.kaas.format import Envelope, KernelSpec
from kaasq.kaas.translation import DEFAULT_NAME, LITERALS
from kaasq.kaas.uses import TYPES
from kaasq.messages import Continuation
from kaasq.model import GraphSpec
from kaasq.names import GRAPH_NAME

Schema = dict[str, Any]

_OF_GRAPHS = {"graph", "scalars"}


def _mirror(struct: type[msgspec.Struct], name: str, typed: Mapping[str, Any]) -> type[msgspec.Struct]:
    """The struct with other types for some fields, and without those that stay encoded, which no schema describes."""
    fields: list[Any] = []
    for each in msgspec.structs.fields(struct):
        if each.name in typed:
            fields.append((each.name, *typed[each.name]))
        elif each.type is not msgspec.Raw and each.name not in _OF_GRAPHS:
            default = {"default": each.default, "default_factory": each.default_factory}
            given = {key: value for key, value in default.items() if value is not msgspec.NODEFAULT}
            fields.append((each.name, each.type, msgspec.field(**given)) if given else (each.name, each.type))
    return msgspec.defstruct(name, fields, namespace={"__doc__": struct.__doc__}, kw_only=True)


KERNEL = _mirror(KernelSpec, "KernelSpec", {})
_STILL_ENCODED: dict[str, Any] = {
    "kernels": (tuple[KERNEL, ...],),  # type: ignore[valid-type]
    "nIter": (int, 1),
    "name": (str, DEFAULT_NAME),
    "graphs": (dict[str, GraphSpec], {}),
    "then": (tuple[Continuation, ...], ()),
}
REQUEST = _mirror(Envelope, "KaasRequest", _STILL_ENCODED)


def kaas_fields(place: str) -> dict[str, dict[str, Schema]]:
    """What to add to the fields of its types."""
    buffer = {"$ref": f"{place}/BufferSpec"}
    letters = {"enum": list(TYPES)}
    argument = {
        "anyOf": [buffer, {"type": "array", "items": {"anyOf": [buffer, letters]}, "minItems": 2, "maxItems": 2}]
    }
    return {
        "KaasRequest": {
            "kaasq": {"description": "The version of the protocol. Left out: 1."},
            "kernels": {"description": "The launches, in order.", "minItems": 1},
            "nIter": {"description": "How often to run them all.", "minimum": 1},
            "name": {"description": "The graph's name.", "pattern": f"^{GRAPH_NAME.pattern}$"},
            "keys": {"description": "Other keys for buffers than their specs give, by the buffer's name."},
            "bind": {"description": "What inputs hold, instead of what the store has under their keys."},
            "keep": {"description": "Names to keep outputs under, instead of their keys."},
            "timeout_ms": {"description": "Milliseconds after which the request is not started, and stopped."},
            "repeat": {"description": "Run the kernels in a loop, as in any other request."},
            "graphs": {"description": "Graphs of its continuations, whole, by keys that those use."},
            "then": {"description": "What follows it: continuations, as in any other request."},
        },
        "KernelSpec": {
            "library": {"description": "A file below the worker's module folders, or `@name` in the store."},
            "kernel": {"description": "The kernel's name."},
            "gridDim": _dims("Blocks, x first.", GRID_LIMIT),
            "nGrid": _dims("Another spelling of gridDim.", GRID_LIMIT),
            "blockDim": _dims("Threads per block, x first.", BLOCK_LIMIT),
            "nBlock": _dims("Another spelling of blockDim.", BLOCK_LIMIT),
            "sharedSize": {"description": "Dynamic shared memory per block, in bytes."},
            "literals": {"description": "The kernel's first parameters."},
            "arguments": {
                "description": "The parameters after them: buffers, with their types in type_list, or pairs of both.",
                "items": argument,
            },
            "type_list": {"description": "i is read, o written, t scratch.", "items": letters},
        },
        "BufferSpec": {
            "name": {"description": "The same name is the same buffer in all kernels of the request."},
            "size": {"description": "In bytes."},
            "offset": {"description": "Where in the stored object it starts, in bytes."},
            "key": {"description": "Its name in the store; by default the buffer's name."},
            "ephemeral": {"description": "It is neither read from the store nor kept there."},
            "const": {"description": "The kernels promise not to write it."},
        },
        "LiteralSpec": {
            "type": {
                "description": ", ".join(f"`{letter}`: {dtype}" for letter, dtype in LITERALS.items()) + ".",
                "enum": list(LITERALS),
            },
            "val": {"description": "Its value."},
        },
    }


def _either(*fields: str) -> Schema:
    said: Schema = {"not": {"type": "null"}}
    return {"anyOf": [{"properties": {each: said}, "required": [each]} for each in fields]}


KAAS_TYPES: dict[str, Schema] = {
    "KaasRequest": {"description": "A request in the KaaS format, which is run as it stands (docs/compatibility.md)."},
    "KernelSpec": {"allOf": [_either("gridDim", "nGrid"), _either("blockDim", "nBlock")]},
}


def _dims(description: str, bounds: tuple[int, int, int]) -> Schema:
    span = {"minimum": 1, "maximum": max(bounds)}
    return {"description": description, **span, "items": span, "minItems": 1, "maxItems": 3}
