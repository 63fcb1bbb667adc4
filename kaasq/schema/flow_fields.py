"""What the types of workflows do not tell of their fields: meaning, patterns and bounds, as in ``fields``."""

from __future__ import annotations

from typing import Any

from kaasq.checks import DIMENSIONS, GraphLimits
from kaasq.dtypes import BUFFER_DTYPES
from kaasq.flows.checks import ITEM, STEP_NAME, STEP_NAME_LENGTH
from kaasq.messages import PROTOCOL_VERSION
from kaasq.names import GRAPH_NAME, NAME, NAME_BYTES, REF, REQUEST_ID_BYTES
from kaasq.schema.fields import ABSENT

Schema = dict[str, Any]

_LIMITS = GraphLimits()
_NAMED: Schema = {"pattern": f"^{NAME.pattern}$"}
_STORED_NAME = f"A name in the store, at most {NAME_BYTES} bytes in UTF-8."
_STEP: Schema = {"pattern": f"^{STEP_NAME.pattern}$", "maxLength": STEP_NAME_LENGTH}
_ID: Schema = {"minLength": 1, "maxLength": REQUEST_ID_BYTES}
_WANTED_WITHIN = (
    "Milliseconds from publishing after which nobody wants the answer any more. Say it here, not in the message's "
    "`expiration`: RabbitMQ would make a dead letter of the question."
)


def _says(text: str, **more: Any) -> Schema:
    return {"description": text, **more}


def _at_most(limit: int, what: str) -> str:
    return f"At most {limit:,} {what}, unless the worker's graph_limits say otherwise."


_VERSION = _says("The version of the protocol. Left out: 1.", const=PROTOCOL_VERSION)
_FLOW = _says("The workflow's id: the message_id of its start.", **_ID)
_VALUE: dict[str, Schema] = {
    "scalar": _says("A scalar of the workflow."),
    "step": _says("A step, in no map or in the own one; then of the same item."),
    "output": _says("An output or inout of that step's graph, with a dtype that scalars can have."),
    "index": _says("Which element, through all axes. Left out: its only one."),
    "count": _says("A map: how many items it has."),
    "item": _says("The number of the own item in its map, from 0."),
}

FLOW_FIELDS: dict[str, dict[str, Schema]] = {
    "FlowStart": {
        "kaasq": _VERSION,
        "workflow": _says("The workflow, whole."),
        "bind": _says(
            "What inputs hold, by name: bytes in base64, or what lies in the worker's store; for an input that is "
            f"`many` a list of these. {_at_most(_LIMITS.listed, 'items in all lists')}"
        ),
        "scalars": _says("Values of the workflow's scalars, by name; those with a default may be left out."),
        "keep": _says(
            f"Outputs to keep in the store instead of sending them: the output's name and the name to keep it under. "
            f"{_STORED_NAME}",
            additionalProperties={"type": "string", **_NAMED},
        ),
        "timeout_ms": _says("Milliseconds from publishing within which all of it has to end."),
        "reply": _says("When the reply comes: when it has ended, or when it is durable and has begun."),
    },
    "FlowSpec": {
        "name": _says(
            f"Words of letters, digits, '_' and '-' with dots between, a part of the event's routing key; at most "
            f"{_LIMITS.name_length} characters.",
            pattern=f"^{GRAPH_NAME.pattern}$",
        ),
        "inputs": _says("Data that is bound when it starts."),
        "scalars": _says("Numbers that are given when it starts."),
        "graphs": _says("The steps' graphs, whole, by keys of your making."),
        "maps": _says("What steps can run over, item by item, by names of your making."),
        "steps": _says(
            f"In any order: what they take says which waits for which. {_at_most(_LIMITS.steps, 'steps')}",
            minItems=1,
            default=ABSENT,
        ),
        "outputs": _says("What it gives, by names that inputs and scalars do not have: outputs of steps."),
    },
    "FlowInput": {
        "name": _says("Unique among inputs, scalars and outputs.", **_NAMED),
        "nbytes": _says("Size in bytes; of a list, of each item.", minimum=1, default=ABSENT),
        "dtype": _says("The elements' type.", enum=[*BUFFER_DTYPES, None]),
        "shape": _says("Elements per axis, [] for a single one.", items={"minimum": 1}, maxItems=DIMENSIONS),
        "many": _says("It is a list of such, as long as it is at the start."),
    },
    "MapSpec": {
        "input": _says("An input that is a list: there is an item for each of its own."),
        "count": _says("How many items there are: a number, a scalar, an output of a step, or as many as another map."),
        "most": _says(f"So many at most. {_at_most(_LIMITS.items, 'items')}", minimum=1),
    },
    "FlowStep": {
        "name": _says("Unique among steps; with '/' between words, as for steps of a workflow inside.", **_STEP),
        "graph": _says("A key of the workflow's graphs."),
        "map": _says("A map: the step runs for each of its items."),
        "bind": _says("What inputs and inouts hold, by the buffer's name: bytes in base64, or from where."),
        "scalars": _says("Values of the graph's scalars, by name: numbers, or from where."),
        "keep": _says(
            f"Outputs to keep in the store: the buffer's name and the name to keep it under, in a map with `{ITEM}` in "
            f"it for the item's number. {_STORED_NAME}",
            additionalProperties={"type": "string", **_NAMED},
        ),
        "after": _says("Steps that have to end before it, though it takes nothing of them."),
        "if": _says("Whether it runs; else it is skipped, and what waits for it."),
        "on": _says("Whether it runs if all that it waits for has completed, if some of that failed, or always."),
        "tolerate": _says("What failed before it leaves zeros, and it runs all the same."),
        "retries": _says(f"How often it is run again where it fails. {_at_most(_LIMITS.retries, 'times')}"),
        "timeout_ms": _says("Milliseconds that it, or an item, may take from when it is due, within those of all."),
        "repeat": _says("Run the graph in a loop."),
    },
    "From": {
        "input": _says("An input of the workflow; of a list, all of it, one after the other."),
        "step": _says("A step; of one in a map all items' outputs, one after the other, zeros for those that failed."),
        "output": _says("An output or inout of that step's graph."),
        "mask": _says("A step in a map: a byte for each item, 1 for those that completed."),
        "each": _says(
            "For a step in a map: the item's own. Of a step in the same map the same item's output, of a list its "
            "item, else the part with the item's number."
        ),
        "ref": _says("The object's hash.", pattern=f"^{REF.pattern}$"),
        "name": _says(_STORED_NAME, **_NAMED),
        "offset": _says("Where in it the buffer starts, in bytes."),
    },
    "Value": _VALUE,
    "StepCondition": {**_VALUE, "op": _says("How it has to compare."), "value": _says("With what.")},
    "FlowCall": {
        "kaasq": _VERSION,
        "flow": _says("What is asked of which workflow."),
        "timeout_ms": _says(_WANTED_WITHIN),
    },
    "Asked": {
        "id": _FLOW,
        "do": _says("`wait`: its reply once it has ended. `status`: how it stands, at once."),
        "items": _says("With the status of each item."),
        "after": _says("Of many items: leave out those up to this number."),
    },
    "FlowsCall": {
        "kaasq": _VERSION,
        "flows": _says("Which workflows of yours are asked for."),
        "timeout_ms": _says(_WANTED_WITHIN),
    },
    "Sought": {
        "state": _says("Those that stand so only."),
        "most": _says("So many at most, the latest first; the worker may send fewer at once."),
        "after": _says("Those behind that place in the list: what an earlier reply had in `next`."),
    },
    "StepCall": {"kaasq": _VERSION, "step": _says("What is due.")},
    "Due": {
        "flow": _FLOW,
        "step": _says("The step's name; absent: the workflow is to be concluded."),
        "item": _says("Of a step in a map, the item's number."),
    },
    "FlowStatus": {
        "id": _FLOW,
        "name": _says("The workflow's name."),
        "state": _says("How it stands."),
        "started_ms": _says("When it started, in milliseconds since the epoch."),
        "ended_ms": _says("When it ended."),
        "deadline_ms": _says("When its time is over."),
        "error": _says("That of the first step that failed."),
        "steps": _says("In the order in which the workflow has them.", default=[]),
        "items": _says(
            "If they were asked for: steps and items that have begun, in the order of their numbers.", default=[]
        ),
        "more": _says("There are others: ask again, with `after` the last number."),
    },
    "FlowList": {
        "found": _says("The latest first.", default=[]),
        "total": _says("How many there are in all."),
        "next": _says("There are others behind these: ask again, with this as `after`."),
    },
    "FlowLine": {
        "id": _FLOW,
        "name": _says("The workflow's name; empty if its records cannot be read."),
        "state": _says("How it stands."),
        "started_ms": _says("When it started, in milliseconds since the epoch."),
        "ended_ms": _says("When it ended."),
        "steps": _says("How many steps it has."),
        "ended": _says("How many of them have ended, if not because the workflow was."),
    },
    "StepStatus": {
        "name": _says("The step's name."),
        "graph": _says("The name of its graph."),
        "state": _says("How it stands; of a step in a map, all of its items."),
        "map": _says("The map that it is in."),
        "items": _says("How many there are; absent: not known yet."),
        "completed": _says("How many of them have."),
        "failed": _says("How many of them have."),
        "since_ms": _says("When it began, in milliseconds since the epoch."),
        "ended_ms": _says("When all of it had ended."),
        "error": _says("Its first one."),
        "waits_for": _says("The steps that it still waits for.", default=[]),
        "runs": _says("Of a step with `repeat`: how often its graph ran for the items that have completed, in all."),
    },
    "ItemStatus": {
        "step": _says("The step's name."),
        "item": _says("The item's number, 0 for a step in no map."),
        "id": _says("The id of the request that was its last attempt."),
        "number": _says("The number in that id."),
        "attempt": _says("Which attempt that was, from 1."),
        "state": _says("How it stands."),
        "ended_ms": _says("When it ended, in milliseconds since the epoch."),
        "timings": _says("Where the time went, once it has completed."),
        "worker": _says("Who ran it, once it has completed."),
        "error": _says("Why it did not."),
        "repeat": _says("Of a step with `repeat`: after how many runs it ended, once it has completed."),
    },
}


def _by(*names: str) -> Schema:
    return {"required": [*names], "properties": {each: {"type": "string"} for each in names}}


_COUNTED: Schema = {"required": ["count"], "properties": {"count": {"not": {"type": "null"}}}}
_ITEM: Schema = {"required": ["item"], "properties": {"item": {"const": True}}}
_NUMBERS: Schema = {"oneOf": [_by("scalar"), _by("step", "output"), _by("count"), _ITEM]}

# What holds between the fields of a type.
FLOW_TYPES: dict[str, Schema] = {
    "FlowSpec": {"required": ["name", "steps"]},
    "FlowInput": {
        "anyOf": [
            {"properties": {"shape": {"type": "null"}}, "required": ["nbytes"]},
            {"properties": {"dtype": {"type": "string"}, "shape": {"type": "array"}}, "required": ["dtype", "shape"]},
        ]
    },
    "MapSpec": {"oneOf": [_by("input"), _COUNTED]},
    "From": {"oneOf": [_by("input"), _by("step", "output"), _by("mask"), _by("ref"), _by("name")]},
    "Value": _NUMBERS,
    "StepCondition": _NUMBERS,
}
