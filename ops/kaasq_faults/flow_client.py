"""A client of the load that runs workflows: chains, and fan-outs of varied size with a join.

Each has an id of its own, written down before it starts. Killed, the client comes back, reads in the ledger which it
has not heard of, and starts those again under their ids.
"""

from __future__ import annotations

import argparse
import queue
import random
import threading
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import kaasq
from kaasq.errors import KaasqError
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From, MapSpec
from kaasq_faults.asks import graph
from kaasq_faults.ledger import OK, Asked, Book, Ended, Entry, now

WIDTH = 4  # workflows at a time
SHARE = 0.25  # of the rate of requests: a workflow is several of them
ELEMENTS = 64
MOST_ITEMS = 12
MOST_STEPS = 6
RETRIES = 2  # a step that happens to run whenever its executor is killed is taken for the cause

JOIN = r"""
extern "C" __global__ void join(const float* parts, float* out)
{ float sum = 0; for (int i = 0; i < ITEMS; i++) sum += parts[i * blockDim.x + threadIdx.x]; out[threadIdx.x] = sum; }
"""


class FlowAsk(NamedTuple):
    """One workflow, and what its steps keep."""

    spec: FlowSpec
    bind: dict[str, Any]
    steps: dict[str, float]
    """Of every step that keeps something, the name and every element of it."""
    want: float
    """Every element of the workflow's output."""


def flow_ask(seed: str, key: str) -> FlowAsk:
    """The workflow of that key, the same for the same seed."""
    draw = random.Random(f"{seed}/{key}")
    return _chain(key, draw) if draw.random() < 0.5 else _fan(key, draw)


def _chain(key: str, draw: random.Random) -> FlowAsk:
    """Each step takes what the one before gave: a x + 1."""
    value, steps, kept = float(draw.randint(1, 9)), list[FlowStep](), dict[str, float]()
    first = value
    for number in range(draw.randint(2, MOST_STEPS)):
        a = float(draw.randint(1, 3))
        value = a * value + 1.0
        name = f"flow/{key}/{number}"
        x = From(input="x") if not number else From(step=f"s{number - 1}", output="out")
        steps.append(_step(f"s{number}", x, a, name))
        kept[name] = value
    spec = FlowSpec(
        name="faults.chain",
        inputs=(_input("x"),),
        graphs={"saxpy": _SAXPY},
        steps=tuple(steps),
        outputs={"out": From(step=steps[-1].name, output="out")},
    )
    return FlowAsk(spec, {"x": np.full(ELEMENTS, first, np.float32)}, kept, value)


def _fan(key: str, draw: random.Random) -> FlowAsk:
    """One step for each item, and one that adds up what they gave."""
    given = [float(draw.randint(1, 99)) for _ in range(draw.randint(1, MOST_ITEMS))]
    a = float(draw.randint(1, 9))
    kept = {f"flow/{key}/m/{item}": a * each + 1.0 for item, each in enumerate(given)}
    want = sum(kept.values())
    join = FlowStep(
        name="join",
        graph="join",
        bind={"parts": From(step="m", output="out")},
        keep={"out": f"flow/{key}/join"},
        retries=RETRIES,
    )
    spec = FlowSpec(
        name="faults.fan",
        inputs=(_input("xs", many=True),),
        graphs={"saxpy": _SAXPY, "join": _JOIN},
        maps={"m": MapSpec(input="xs", most=MOST_ITEMS)},
        steps=(_step("m", From(input="xs", each=True), a, f"flow/{key}/m/{{item}}", map="m"), join),
        outputs={"out": From(step="join", output="out")},
    )
    bind = {"xs": [np.full(ELEMENTS, each, np.float32) for each in given]}
    return FlowAsk(spec, bind, {**kept, f"flow/{key}/join": want}, want)


def _step(name: str, x: From, a: float, kept: str, **fields: Any) -> FlowStep:
    bind: dict[str, Any] = {"x": x, "y": np.ones(ELEMENTS, np.float32).tobytes()}
    return FlowStep(
        name=name, graph="saxpy", bind=bind, scalars={"a": a}, keep={"out": kept}, retries=RETRIES, **fields
    )


def _input(name: str, *, many: bool = False) -> FlowInput:
    return FlowInput(name=name, dtype="float32", shape=(ELEMENTS,), many=many)


def _joining() -> kaasq.Graph:
    made = kaasq.Graph("faults.join")
    parts = made.input("parts", shape=(MOST_ITEMS, ELEMENTS), dtype="float32", const=True)
    out = made.output("out", shape=ELEMENTS, dtype="float32")
    kernel = kaasq.Module.from_source(JOIN.replace("ITEMS", str(MOST_ITEMS))).kernel("join")
    made.launch(kernel, grid=1, block=ELEMENTS, args=[parts, out])
    return made


_SAXPY = graph(ELEMENTS).freeze()
_JOIN = _joining().freeze()


class FlowClient:
    """WIDTH threads that start workflows and wait for them; first those that an earlier process had not heard of."""

    def __init__(self, given: argparse.Namespace, book: Book, earlier: Sequence[Entry], incarnation: int) -> None:
        self._given = given
        self._book = book
        told = {each.key for each in earlier if isinstance(each, Ended)}
        self._open: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        for each in earlier:
            if isinstance(each, Asked) and each.key not in told:
                self._open.put((each.key, each.id or ""))
        self._prefix = f"{given.name}.{incarnation}"
        self._next = 0
        self._lock = threading.Lock()

    def serve(self, client: kaasq.Client, stop: threading.Event) -> None:
        """Until told to stop, and then for what is open."""
        threads = [threading.Thread(target=self._one, args=(client, stop), name=f"flow-{n}") for n in range(WIDTH)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _one(self, client: kaasq.Client, stop: threading.Event) -> None:
        while True:
            try:
                key, flow_id = self._open.get_nowait()
            except queue.Empty:
                if stop.wait(WIDTH / (self._given.rate * SHARE) * random.uniform(0.5, 1.5)):
                    return
                key, flow_id = self._new()
            self._run(client, key, flow_id)

    def _new(self) -> tuple[str, str]:
        with self._lock:
            self._next += 1
            key, flow_id = f"{self._prefix}.{self._next}", uuid.uuid4().hex
        made = flow_ask(self._given.seed, key)
        self._book.write(Asked(key=key, want=made.want, steps=made.steps, id=flow_id, at=now()))
        return key, flow_id

    def _run(self, client: kaasq.Client, key: str, flow_id: str) -> None:
        made, detail = flow_ask(self._given.seed, key), ""
        try:
            result = client.start(made.spec, id=flow_id, **made.bind).wait(self._given.timeout)
            given = result["out"]
            if not np.array_equal(given, np.full(ELEMENTS, made.want, np.float32)):
                detail = f"{given[:4]} instead of {made.want}"
            self._book.write(Ended(key=key, end=OK, right=not detail, detail=detail, at=now()))
        except KaasqError as error:
            self._book.write(Ended(key=key, end=error.code, detail=error.message, at=now()))
