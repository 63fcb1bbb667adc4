"""The examples of the AsyncAPI document: a request and a workflow, and the replies and the event that answer them."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec

from kaasq import codec
from kaasq.checks import GraphLimits, check_graph
from kaasq.flows.model import (
    Asked,
    Due,
    FlowCall,
    FlowInput,
    FlowLine,
    FlowList,
    FlowReply,
    FlowsCall,
    FlowSpec,
    FlowStart,
    FlowStatus,
    FlowStep,
    From,
    MapSpec,
    Sought,
    StepCall,
    StepStatus,
    Value,
)
from kaasq.messages import (
    EVENT_TYPE,
    EVENT_WORDS,
    CacheUse,
    Cancel,
    Output,
    Reply,
    Request,
    Stored,
    Timings,
    WorkerInfo,
)
from kaasq.model import Buffer, Constant, GraphSpec, Launch, Module, Scalar

_TENANT = "ann"
_ID = "0193a1c2-7f3e-7d10-9b64-0f5c2a7e8d41"
_ASKING = "0193a1c2-8a10-7c44-b3d1-5b6f0e1d2c3a"
_SOURCE = (
    'extern "C" __global__ void scale(float a, const float* x, float* out, int n)\n'
    "{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = a * x[i]; }\n"
)
_GRAPH = GraphSpec(
    name="scale",
    buffers=(
        Buffer(name="x", role="input", dtype="float32", shape=(4,), const=True),
        Buffer(name="out", role="output", dtype="float32", shape=(4,)),
    ),
    scalars=(Scalar(name="a", dtype="float32", default=2.0),),
    modules={"m": Module(source=_SOURCE)},
    launches=(
        Launch(module="m", kernel="scale", grid=1, block=256, args=("a", "x", "out", Constant(dtype="int32", value=4))),
    ),
)


_KAAS = {
    "kernels": [
        {
            "library": "vector.cu",
            "kernel": "scale",
            "gridDim": [1, 1, 1],
            "blockDim": [256, 1, 1],
            "literals": [{"type": "f", "val": 10.0}, {"type": "i", "val": 4}],
            "arguments": [{"name": "x", "size": 16, "key": "ann/x"}, {"name": "out", "size": 16, "key": "ann/out"}],
            "type_list": ["i", "o"],
        }
    ]
}


_WORKFLOW = FlowSpec(
    name="scale.all",
    inputs=(FlowInput(name="xs", dtype="float32", shape=(4,), many=True),),
    scalars=(Scalar(name="a", dtype="float32"),),
    graphs={"scale": _GRAPH},
    maps={"each": MapSpec(input="xs", most=16)},
    steps=(
        FlowStep(
            name="scale",
            graph="scale",
            map="each",
            bind={"x": From(input="xs", each=True)},
            scalars={"a": Value(scalar="a")},
            retries=2,
        ),
        FlowStep(
            name="again",
            graph="scale",
            map="each",
            bind={"x": From(step="scale", output="out", each=True)},
            tolerate=True,
        ),
    ),
    outputs={"out": From(step="again", output="out")},
)
_STATUS = FlowStatus(
    id=_ID,
    name=_WORKFLOW.name,
    state="running",
    started_ms=1_795_685_400_000,
    deadline_ms=1_795_685_430_000,
    steps=(
        StepStatus(
            name="scale",
            graph="scale",
            state="completed",
            map="each",
            items=2,
            completed=2,
            since_ms=1_795_685_400_004,
            ended_ms=1_795_685_400_009,
        ),
        StepStatus(name="again", graph="scale", state="running", map="each", items=2, since_ms=1_795_685_400_006),
    ),
)

_LIST = FlowList(
    found=(FlowLine(id=_ID, name=_STATUS.name, state="running", started_ms=_STATUS.started_ms, steps=2, ended=1),),
    total=31,
    next=f"{_STATUS.started_ms}-{_ID}",
)


def _message(name: str, headers: dict[str, Any], body: msgspec.Struct) -> dict[str, Any]:
    return {"name": name, "headers": headers, "payload": json.loads(codec.encode(body, codec.JSON))}


def examples() -> dict[str, list[dict[str, Any]]]:
    """Examples of each message, by the message's name."""
    request = Request(graph=_GRAPH, bind={"x": struct.pack("<4f", 1, 2, 3, 4)}, scalars={"a": 10.0}, timeout_ms=30_000)
    reply = Reply(
        id=_ID,
        status="ok",
        graph=check_graph(_GRAPH, GraphLimits()).hash,
        outputs={"out": Output(nbytes=16, dtype="float32", shape=(4,), inline=struct.pack("<4f", 10, 20, 30, 40))},
        timings=Timings(queued=1000, load=9, h2d=13, kernel=7, d2h=3, commit=512, total=1544),
        cache=CacheUse(hits=1),
        worker=WorkerInfo(host="gpu-1", pid=4211, device="cuda:0", store="0193a1bf-8f6a-7b3c-a2d5-6c1e9f0b4a77"),
    )
    word = EVENT_WORDS[reply.status]
    properties = {"correlation_id": _ID, "content_type": codec.JSON, "delivery_mode": 2}
    asking = {"message_id": _ID, "user_id": _TENANT, "reply_to": "ann-laptop-1", **properties}
    vectors = (struct.pack("<4f", 1, 2, 3, 4), Stored(name="vectors/2"))
    start = FlowStart(workflow=_WORKFLOW, bind={"xs": vectors}, scalars={"a": 10.0}, timeout_ms=30_000, reply="started")
    about = {**asking, "message_id": _ASKING, "correlation_id": _ASKING}
    due = {**asking, "message_id": f"{_ID}+3"}
    told = {"message_id": _ASKING, **properties, "correlation_id": _ASKING}
    status = FlowReply(id=_ASKING, status="ok", worker=reply.worker, flow=_STATUS)
    listed = FlowReply(id=_ASKING, status="ok", worker=reply.worker, flows=_LIST)
    return {
        "request": [_message("scale", asking, request)],
        "kaasRequest": [{"name": "kernels", "headers": asking, "payload": _KAAS}],
        "workflow": [_message("scale all", asking, start)],
        "flow": [
            _message("status", about, FlowCall(flow=Asked(id=_ID, do="status"), timeout_ms=30_000)),
            _message("wait", about, FlowCall(flow=Asked(id=_ID, do="wait"))),
        ],
        "flows": [_message("running", about, FlowsCall(flows=Sought(state="running", most=20), timeout_ms=30_000))],
        "step": [_message("due", due, StepCall(step=Due(flow=_ID, step="again", item=1)))],
        "cancel": [_message("cancel", {"user_id": _TENANT, "content_type": codec.JSON}, Cancel(cancel=_ID))],
        "reply": [
            _message("scaled", {"message_id": _ID, **properties}, reply),
            _message("running", told, status),
            _message("list", told, listed),
        ],
        "event": [
            _message(
                "completed",
                {
                    "message_id": f"{_ID}.{word}",
                    **properties,
                    "cloudEvents_specversion": "1.0",
                    "cloudEvents_id": f"{_ID}.{word}",
                    "cloudEvents_source": "/kaasq/default/gpu-1/cuda-0",
                    "cloudEvents_type": EVENT_TYPE + word,
                    "cloudEvents_subject": _GRAPH.name,
                    "cloudEvents_time": "2026-11-26T09:30:00.250Z",
                },
                reply.without_inline(),
            )
        ],
    }
