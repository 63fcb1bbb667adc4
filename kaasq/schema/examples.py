"""The examples of the AsyncAPI document: one request, and the reply and event that answer it."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec

from kaasq import codec
from kaasq.checks import GraphLimits, check_graph
from kaasq.messages import EVENT_TYPE, EVENT_WORDS, CacheUse, Cancel, Output, Reply, Request, Timings, WorkerInfo
from kaasq.model import Buffer, Constant, GraphSpec, Launch, Module, Scalar

_TENANT = "ann"
_ID = "0193a1c2-7f3e-7d10-9b64-0f5c2a7e8d41"
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


def _message(name: str, headers: dict[str, Any], body: msgspec.Struct) -> dict[str, Any]:
    return {"name": name, "headers": headers, "payload": json.loads(codec.encode(body, codec.JSON))}


def examples() -> dict[str, dict[str, Any]]:
    """An example of each message, by the message's name."""
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
    return {
        "request": _message("scale", asking, request),
        "kaasRequest": {"name": "kernels", "headers": asking, "payload": _KAAS},
        "cancel": _message("cancel", {"user_id": _TENANT, "content_type": codec.JSON}, Cancel(cancel=_ID)),
        "reply": _message("scaled", {"message_id": _ID, **properties}, reply),
        "event": _message(
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
        ),
    }
