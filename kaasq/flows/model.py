"""A workflow as data: steps that are graphs, bound to each other's outputs. And the messages about one.

A step runs once or, in a *map*, once for each item; the steps of one map run over the same items. What a step takes of
another one makes it wait for that one: for all items, or with ``each`` for its own item. ``kaasq_producers.Workflow``
builds these from Python; a program in another language writes them as JSON.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, NoReturn

import msgspec

from kaasq.messages import (
    MOST,
    PROTOCOL_VERSION,
    Binding,
    ErrorBody,
    Operator,
    Repeat,
    Repeated,
    Reply,
    Stored,
    Timings,
    WorkerInfo,
    undecided,
)
from kaasq.model import GraphSpec, Number, Scalar

Whole = Annotated[int, msgspec.Meta(ge=0, le=MOST)]

On = Literal["completed", "failed", "always"]
State = Literal["waiting", "running", "completed", "failed", "cancelled", "expired", "skipped"]
"""Of a workflow, a step and an item. A workflow is never ``waiting`` or ``skipped``."""

FlowState = Literal["running", "completed", "failed", "cancelled", "expired"]

ENDED: frozenset[State] = frozenset({"completed", "failed", "cancelled", "expired", "skipped"})
FAILED: frozenset[State] = frozenset({"failed", "cancelled", "expired"})


class From(Stored, frozen=True, kw_only=True, omit_defaults=True):
    """What a step's input holds. One of: ``input``, ``step`` with ``output``, ``mask``, ``ref``, ``name``.

    ``input`` is an input of the workflow, ``output`` one of that step. Of a step in a map, without ``each``: all items'
    outputs, one after the other, and zeros up to the buffer's size; an item that did not complete leaves zeros. A
    list is taken in the same way. With an ``offset`` it is what comes from there on.
    ``mask`` names a step in a map, of which it is a byte per item, 1 for those that completed, and zeros.

    ``each``, for a step in a map: the item's own. That is the same item's output of a step in the same map, one of a
    list that is an input, or of any other source the part with the item's number, where a part has the buffer's size.
    """

    input: str | None = None
    step: str | None = None
    output: str | None = None
    mask: str | None = None
    each: bool = False


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A number. One of: ``scalar``, ``step`` with ``output``, ``count``, ``item``.

    ``scalar`` is one of the workflow. ``output`` is one of that step, of which it is the only element or that at
    ``index``; of a step in a map it can be had in that same map only, of the same item. ``count`` names a map, of which
    it is the number of items; ``item`` is the number of the own item in a map, from 0.
    """

    scalar: str | None = None
    step: str | None = None
    output: str | None = None
    index: Whole | None = None
    count: str | None = None
    item: bool = False


class StepCondition(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a number compares so with ``value``. What is not a number equals nothing, as in C."""

    op: Operator
    value: Number

    def __bool__(self) -> NoReturn:
        """Raises BadRequest: whether it holds is known once the workflow has come so far."""
        what = next((each for each in (self.output, self.count, self.scalar) if each is not None), "item")
        raise undecided(f"{what!r} {self.op} {self.value}")


class FlowInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data that is bound when the workflow starts; with ``many``, a list of such, as long as it is then.

    ``nbytes`` may be left out where dtype and shape say it.
    """

    name: str
    nbytes: int = -1
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    many: bool = False


class MapSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Items that steps run over: as many as the list ``input`` has, or as ``count`` says; ``most`` at most.

    ``most`` None: as many as workers allow (``graph_limits.items``).
    """

    input: str | None = None
    count: Whole | Value | None = None
    most: Whole | None = None


class FlowStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A graph to run once everything that it takes is there, and the steps ``after`` which it comes have ended.

    ``graph`` is a key of the workflow's ``graphs``. ``on``: it runs if all that it waits for has completed; if some of
    that has ``failed``; ``always``. ``tolerate``: what failed leaves zeros, and it runs all the same. ``keep`` keeps
    outputs under names; in a map, a name has ``{item}`` in it. ``retries``: so often it is run again where it fails.
    """

    name: str
    graph: str
    map: str | None = None
    bind: dict[str, bytes | From] = {}
    scalars: dict[str, Number | Value] = {}
    keep: dict[str, str] = {}
    after: tuple[str, ...] = ()
    condition: StepCondition | None = msgspec.field(default=None, name="if")
    on: On = "completed"
    tolerate: bool = False
    retries: Whole = 0
    timeout_ms: Whole | None = None
    repeat: Repeat | None = None


class FlowSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """A workflow. ``outputs`` are what it gives: outputs of steps, all items' in the case of a map.

    Meaningful once it is checked (``kaasq.flows.checks``).
    """

    name: str
    inputs: tuple[FlowInput, ...] = ()
    scalars: tuple[Scalar, ...] = ()
    graphs: dict[str, GraphSpec] = {}
    maps: dict[str, MapSpec] = {}
    steps: tuple[FlowStep, ...] = ()
    outputs: dict[str, From] = {}

    def graph_of(self, step: FlowStep) -> GraphSpec:
        """The step's graph."""
        return self.graphs[step.graph]

    def number_of(self, name: str) -> int:
        """The place of the step of that name, from 0."""
        return self._numbers[name]

    def step(self, name: str) -> FlowStep | None:
        """The step of that name, or None."""
        number = self._numbers.get(name)
        return None if number is None else self.steps[number]

    def input(self, name: str) -> FlowInput | None:
        """The input of that name, or None."""
        return self._inputs.get(name)

    def scalar(self, name: str) -> Scalar | None:
        """The scalar of that name, or None."""
        return self._scalars.get(name)

    @cached_property
    def _inputs(self) -> dict[str, FlowInput]:
        return {each.name: each for each in self.inputs}

    @cached_property
    def _scalars(self) -> dict[str, Scalar]:
        return {each.name: each for each in self.scalars}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {each.name: number for number, each in enumerate(self.steps)}


class FlowStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To one worker of a pool: start the workflow under this message's id.

    ``bind`` has a list for an input that is ``many``. ``keep``: names to keep the workflow's outputs under. ``reply``:
    whether the reply comes when it has ended, or when it is durable and has begun.
    """

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    workflow: FlowSpec
    bind: dict[str, Binding | tuple[Binding, ...]] = {}
    scalars: dict[str, Number] = {}
    keep: dict[str, str] = {}
    timeout_ms: Whole | None = None
    reply: Literal["ended", "started"] = "ended"


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of the workflow ``id``: its reply once it has ended, or how it stands, with ``items`` in detail.

    Of a workflow with many items, ``after`` leaves out those up to that number.
    """

    id: str
    do: Literal["wait", "status"]
    items: bool = False
    after: Whole = 0


class FlowCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To one worker of a pool: something is asked of a workflow."""

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    flow: Asked
    timeout_ms: Whole | None = None


class Sought(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which workflows of the tenant are asked for: those in that ``state``, or all that the pool knows.

    The latest first, ``most`` of them; ``after`` leaves out those up to there: a list had it in ``next``.
    """

    state: FlowState | None = None
    most: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 100
    after: str = ""


class FlowsCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To one worker of a pool: it is asked which workflows there are."""

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    flows: Sought
    timeout_ms: Whole | None = None


class Due(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which step of which workflow is to run; of a map, which item. Without a ``step``: it is to be concluded."""

    flow: str
    step: str | None = None
    item: Whole = 0


class StepCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From worker to worker: a step is due. Everything else is in the pool's store."""

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    step: Due


class ItemStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a step, or the step itself if it is in no map. Its last attempt is the request ``id``.

    ``ended_ms`` since the epoch. ``timings`` and ``worker`` are there once it has completed; of a loop ``repeat``, too.
    """

    step: str
    item: int = 0
    id: str = ""
    number: int = 0
    attempt: int = 1
    state: State = "waiting"
    ended_ms: int | None = None
    timings: Timings | None = None
    worker: WorkerInfo | None = None
    error: ErrorBody | None = None
    repeat: Repeated | None = None


class StepStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a step stands. ``items`` None: not known yet. Times in milliseconds since the epoch.

    ``runs``: of a step that repeats its graph, how often that ran for the items that have completed, in all.
    """

    name: str
    graph: str
    state: State = "waiting"
    map: str | None = None
    items: int | None = None
    completed: int = 0
    failed: int = 0
    since_ms: int | None = None
    ended_ms: int | None = None
    error: ErrorBody | None = None
    waits_for: tuple[str, ...] = ()
    runs: int = 0


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a workflow stands. ``items``, where asked for, in the order of their numbers; ``more``: there are others."""

    id: str
    name: str
    state: State
    started_ms: int
    ended_ms: int | None = None
    deadline_ms: int | None = None
    error: ErrorBody | None = None
    steps: tuple[StepStatus, ...] = ()
    items: tuple[ItemStatus, ...] = ()
    more: bool = False


class FlowLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow among others. ``steps`` it has, of which so many have ``ended`` by themselves."""

    id: str
    name: str
    state: State
    started_ms: int
    ended_ms: int | None = None
    steps: int = 0
    ended: int = 0


class FlowList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Workflows of a tenant, the latest first, of so many in all. ``next``: there are others, behind these."""

    found: tuple[FlowLine, ...] = ()
    total: int = 0
    next: str = ""


class FlowReply(Reply, frozen=True, kw_only=True, omit_defaults=True):
    """A reply; where it is about a workflow, ``flow`` says how that stands or has ended, without ``items``.

    ``flows``: which there are, where that was asked.
    """

    flow: FlowStatus | None = None
    flows: FlowList | None = None
