"""What the types alone do not tell of their fields: meaning, patterns and bounds. The bounds are those of the checks.

Bounds that a worker's ``graph_limits`` can change stand in the descriptions, for no document knows every worker.
"""

from __future__ import annotations

from typing import Any, Final

from kaasq.checks import (
    ATTRIBUTE_ITEMS,
    ATTRIBUTES,
    BLOCK_LIMIT,
    DIMENSIONS,
    GRID_LIMIT,
    MODULE_OPTION,
    PARAMETER_BYTES,
    THREADS_PER_BLOCK,
    GraphLimits,
)
from kaasq.dtypes import BUFFER_DTYPES, SCALAR_DTYPES
from kaasq.messages import MOST, PROTOCOL_VERSION
from kaasq.model import BUILTINS
from kaasq.names import GRAPH_NAME, NAME, NAME_BYTES, REF, REQUEST_ID_BYTES, WORD
from kaasq.schema.codes import CODES

Schema = dict[str, Any]

ABSENT: Final = object()
"""In place of a keyword's value: left out, where msgspec would write it."""

_LIMITS = GraphLimits()
_WHOLE = {"minimum": 0, "maximum": MOST}
_NAMED = {"pattern": f"^{NAME.pattern}$"}
_STORED_NAME = f"A name in the store, at most {NAME_BYTES} bytes in UTF-8."
_HASH = {"pattern": f"^{REF.pattern}$"}
_EMPTY = {"maxLength": 0}


def _says(text: str, **more: Any) -> Schema:
    return {"description": text, **more}


def _at_most(limit: int, what: str) -> str:
    return f"At most {limit:,} {what}, unless the worker's graph_limits say otherwise."


def _dims(bounds: tuple[int, int, int], what: str) -> Schema:
    shown = " x ".join(f"{each:,}" for each in bounds)
    span = {"minimum": 1, "maximum": max(bounds)}
    return _says(f"{what}; at most {shown}.", **span, items=span, minItems=1, maxItems=3)


_VERSION = _says("The version of the protocol. Left out: 1.", const=PROTOCOL_VERSION)
_SCALAR_DTYPE = {"enum": list(SCALAR_DTYPES)}
_ERROR_CODES = ", ".join(f"`{each}`" for each in CODES)

FIELDS: dict[str, dict[str, Schema]] = {
    "Request": {
        "kaasq": _VERSION,
        "graph": _says("The graph whole, or the hash of one that the worker knows."),
        "bind": _says(
            "What inputs and inouts hold, by the buffer's name: bytes in base64, or what lies in the worker's store."
        ),
        "scalars": _says("Values of the graph's scalars, by name; those with a default may be left out."),
        "keep": _says(
            f"Outputs to keep in the store instead of sending them: the buffer's name and the name to keep it under. "
            f"{_STORED_NAME}",
            additionalProperties={"type": "string", **_NAMED},
        ),
        "timeout_ms": _says(
            "Milliseconds from publishing after which the request is not started, and stopped; so is what follows it."
        ),
        "repeat": _says("Run the graph in a loop."),
        "graphs": _says("Graphs of its continuations, whole, by keys that those use."),
        "then": _says(_at_most(_LIMITS.continuations, "continuations, nested ones included")),
    },
    "Continuation": {
        "graph": _says("The graph whole, the hash of one that the worker knows, or a key of the request's graphs."),
        "name": _says("Comes back in the reply; no two of a request have the same.", **_NAMED),
        "if": _says("Whether it is published."),
        "bind": _says(
            "What inputs and inouts hold, by the buffer's name: bytes in base64, an output, or what lies in the store."
        ),
        "scalars": _says("Values of the graph's scalars, by name: numbers, or elements of outputs."),
        "keep": _says(
            f"Outputs to keep in the store: the buffer's name and the name to keep it under. {_STORED_NAME}",
            additionalProperties={"type": "string", **_NAMED},
        ),
        "timeout_ms": _says("Milliseconds that it may take from when it is published, within those of the request."),
        "repeat": _says("Run the graph in a loop."),
        "pool": _says("Another pool to run it in.", pattern=f"^{WORD.pattern}$"),
        "then": _says(f"What follows it in turn, at most {_LIMITS.continuations_deep} deep."),
    },
    "Source": {
        "output": _says("An output or inout of the request before."),
        "ref": _says("The object's hash.", **_HASH),
        "name": _says(_STORED_NAME, **_NAMED),
        "offset": _says("Where in the output or object the buffer starts, in bytes."),
    },
    "Element": {
        "output": _says("An output or inout of the request before, with a dtype that scalars can have."),
        "index": _says("Which element, through all axes. Left out: its only one."),
    },
    "Condition": {
        "output": _says("An output or inout of the request before, with a dtype that scalars can have."),
        "index": _says("Which element, through all axes. Left out: its only one."),
        "op": _says("How it has to compare."),
        "value": _says("With what."),
    },
    "Repeat": {
        "bind": _says(
            "Which outputs are which inputs of the next run; other inputs are as in the first.", minProperties=0
        ),
        "until": _says("It ends with the first run for whose outputs this holds."),
        "most": _says(f"It ends after so many runs at the latest. {_at_most(_LIMITS.repeats, 'runs')}"),
    },
    "Repeated": {
        "runs": _says("How often the graph ran."),
        "held": _says("Whether the condition held in the end."),
    },
    "Next": {
        "id": _says("Its id, also the correlation_id of its reply."),
        "name": _says("Its name, if it has one."),
        "skipped": _says("Why it does not run, and nothing that was to follow it. Absent: it was published."),
    },
    "Cancel": {
        "kaasq": _VERSION,
        "cancel": _says("The message_id of the request.", minLength=1, maxLength=REQUEST_ID_BYTES),
    },
    "Stored": {
        "ref": _says("The object's hash.", **_HASH),
        "name": _says(_STORED_NAME, **_NAMED),
        "offset": _says("Where in the object the buffer starts, in bytes."),
    },
    "GraphSpec": {
        "name": _says(
            f"Words of letters, digits, '_' and '-' with dots between, a part of the event's routing key; at most "
            f"{_LIMITS.name_length} characters.",
            pattern=f"^{GRAPH_NAME.pattern}$",
        ),
        "buffers": _says(_at_most(_LIMITS.buffers, "buffers")),
        "scalars": _says(_at_most(_LIMITS.scalars, "scalars")),
        "modules": _says("Device code, by labels that the launches use.", propertyNames={"not": {"const": BUILTINS}}),
        "launches": _says(f"Run in this order. {_at_most(_LIMITS.launches, 'launches')}", minItems=1, default=ABSENT),
        "iterations": _says(f"How often to run all launches. {_at_most(_LIMITS.iterations, 'iterations')}", minimum=1),
    },
    "Buffer": {
        "name": _says("Unique among buffers and scalars.", **_NAMED),
        "role": _says(
            "input and inout are bound in the request, output and inout come back; output and temp start as zeros."
        ),
        "nbytes": _says(
            f"Size in bytes. {_at_most(_LIMITS.buffer_bytes, 'bytes')}", minimum=1, maximum=MOST, default=ABSENT
        ),
        "dtype": _says("The elements' type.", enum=[*BUFFER_DTYPES, None]),
        "shape": _says("Elements per axis, [] for a single one.", items={"minimum": 1}, maxItems=DIMENSIONS),
        "const": _says("The kernels promise not to write this input."),
    },
    "Scalar": {
        "name": _says("Unique among buffers and scalars.", **_NAMED),
        "dtype": _says("Its type.", **_SCALAR_DTYPE),
        "default": _says("Its value where the request gives none."),
    },
    "Module": {
        "kind": _says("What it is."),
        "source": _says("CUDA C++ source text."),
        "code": _says("PTX, cubin or fatbin bytes in base64."),
        "path": _says("Of a library: a file below the worker's module folders, or `@name` in the store."),
        "options": _says(
            "Compiler options for source.", items={"type": "string", "pattern": f"^({MODULE_OPTION.pattern})$"}
        ),
        "signature": _says("For workers that run signed modules only: what `kaasq sign` prints, in base64."),
    },
    "Launch": {
        "module": _says("A label of the graph's modules."),
        "kernel": _says("The kernel's name, or for a template its name expression, `scale<float>`.", pattern=r"\S"),
        "grid": _dims(GRID_LIMIT, "Blocks, x first"),
        "block": _dims(BLOCK_LIMIT, f"Threads per block, x first, {THREADS_PER_BLOCK:,} in all"),
        "args": _says("In the kernel's order: the name of a buffer or scalar of the graph, or a constant."),
        "shared_bytes": _says("Dynamic shared memory per block, in bytes.", minimum=0),
        "attrs": _says(
            f"Of a built-in only: at most {ATTRIBUTES} of them, lists of at most {ATTRIBUTE_ITEMS:,} items.",
            maxProperties=ATTRIBUTES,
        ),
    },
    "Constant": {
        "dtype": _says("The number's type, or bytes.", enum=[*SCALAR_DTYPES, "bytes"]),
        "value": _says("The number. JSON has no NaN and no infinity: give those as bytes."),
        "data": _says(f"A struct's bytes in base64, 1 to {PARAMETER_BYTES:,} of them."),
    },
    "Reply": {
        "kaasq": _VERSION,
        "id": _says("The request's message_id."),
        "status": _says("How it ended."),
        "graph": _says("The graph's hash, if the request carried the graph whole.", **_HASH),
        "outputs": _says("Outputs and inouts, by the buffer's name."),
        "error": _says("Why the status is not ok."),
        "timings": _says("Where the time went."),
        "cache": _says("What was on the device already."),
        "worker": _says("Who ran it."),
        "repeat": _says("How its loop ended, if it is one."),
        "then": _says("What became of its continuations, those that were nested in them left out.", default=[]),
        "flow": _says("How the workflow stands or has ended that it is about."),
        "flows": _says("Which workflows there are."),
    },
    "Output": {
        "nbytes": _says("Size in bytes.", minimum=1),
        "dtype": _says("The elements' type, if the graph says it.", enum=[*BUFFER_DTYPES, None]),
        "shape": _says("Elements per axis, if the graph says it.", items={"minimum": 1}),
        "inline": _says("The bytes in base64."),
        "ref": _says("The object's hash, if the output lies in the worker's store.", **_HASH),
        "name": _says("The name that it is kept under."),
        "version": _says("The name's version with this output.", minimum=1),
    },
    "ErrorBody": {
        "code": _says(f"For programs. This version knows {_ERROR_CODES}; newer ones may add to them."),
        "message": _says("For people: what was expected, what was given, where."),
        "detail": _says("The error's fields, by name."),
    },
    "Timings": {
        "queued": _says("From publishing to the worker taking it; to the millisecond, by two clocks.", **_WHOLE),
        "load": _says("Checking, compiling, loading modules.", **_WHOLE),
        "h2d": _says("Copying inputs to the device.", **_WHOLE),
        "kernel": _says("Running the launches.", **_WHOLE),
        "d2h": _says("Copying outputs from the device.", **_WHOLE),
        "commit": _says("Making the outcome durable, shared with others of its group.", **_WHOLE),
        "total": _says("All of it.", **_WHOLE),
    },
    "CacheUse": {
        "hits": _says("Inputs and modules that were on the device.", minimum=0),
        "misses": _says("Those that were not.", minimum=0),
    },
    "WorkerInfo": {
        "host": _says("Its machine."),
        "pid": _says("Its process."),
        "device": _says("`cpu`, `cuda:0`."),
        "store": _says("The id of the store that it uses."),
    },
}

_BY_REF: Schema = {"required": ["ref"], "properties": {"ref": {"type": "string"}}}
_BY_OUTPUT: Schema = {"required": ["output"], "properties": {"output": {"type": "string"}}}
_BY_NAME: Schema = {"required": ["name"], "properties": {"name": {"type": "string"}}}

# What holds between the fields of a type.
TYPES: dict[str, Schema] = {
    "Request": {"description": "What a producer publishes: a graph and what is bound to it."},
    "Stored": {"oneOf": [_BY_REF, _BY_NAME]},
    "Source": {"oneOf": [_BY_OUTPUT, _BY_REF, _BY_NAME]},
    "GraphSpec": {"required": ["name", "launches"]},
    "Buffer": {
        "anyOf": [
            {"properties": {"shape": {"type": "null"}}, "required": ["nbytes"]},
            {"properties": {"dtype": {"type": "string"}, "shape": {"type": "array"}}, "required": ["dtype", "shape"]},
        ],
        "if": {"properties": {"const": {"const": True}}, "required": ["const"]},
        "then": {"properties": {"role": {"const": "input"}}},
    },
    "Module": {
        "anyOf": [
            {
                "properties": {"kind": {"const": "source"}, "source": {"pattern": r"\S"}, "code": _EMPTY},
                "required": ["source"],
            },
            {
                "properties": {"kind": {"enum": ["cubin", "fatbin", "ptx"]}, "code": {"minLength": 1}, "path": _EMPTY},
                "required": ["kind", "code"],
            },
            {
                "properties": {"kind": {"const": "library"}, "path": _NAMED, "source": _EMPTY, "code": _EMPTY},
                "required": ["kind", "path"],
            },
        ]
    },
    "Constant": {
        "if": {"properties": {"dtype": {"const": "bytes"}}},
        "then": {"properties": {"data": {"minLength": 1}}, "required": ["data"]},
    },
    "Reply": {
        "description": "How a request ended, or a workflow; or what was asked of one.",
        "if": {"properties": {"status": {"const": "ok"}}},
        "else": {"properties": {"error": {"type": "object"}}, "required": ["error"]},
    },
}
