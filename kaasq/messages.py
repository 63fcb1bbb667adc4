"""The messages: request, cancel, reply, event. Frozen types, decoded and validated once at the edge by kaasq.codec."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, cast

import msgspec

from kaasq.errors import BadRequest, KaasqError, error_from_wire
from kaasq.model import GraphSpec, Number

# A message says its version even if it is the first one: omit_defaults never leaves out what a factory makes.
PROTOCOL_VERSION = 1
MOST = 2**53 - 1  # what every JSON library keeps exact

Status = Literal["ok", "error", "cancelled", "expired"]
Operator = Literal["<", "<=", ">", ">=", "==", "!="]


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data that lies in the store: an object by its hash (``ref``), or the one a ``name`` points to now.

    Without ``offset`` the object must have the buffer's size; with it, the buffer is the part that starts there.
    """

    ref: str | None = None
    name: str | None = None
    offset: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None


Binding = bytes | Stored


class Source(Stored, frozen=True, kw_only=True, omit_defaults=True):
    """What an input holds: an ``output`` (or inout) of the request before, or stored data by ``ref`` or ``name``.

    Without ``offset`` it must have the buffer's size; with it, the buffer is the part that starts there.
    """

    output: str | None = None


class Element(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number of an ``output`` of the request before. Without ``index`` the output must have one element only."""

    output: str
    index: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None


class Condition(Element, frozen=True, kw_only=True, omit_defaults=True):
    """Whether one number of an output compares so with ``value``. What is not a number equals nothing, as in C."""

    op: Operator
    value: Number

    def __bool__(self) -> NoReturn:
        """Raises BadRequest: whether it holds is known once the request has run."""
        raise undecided(f"{self.output!r} {self.op} {self.value}")


def undecided(comparison: str) -> BadRequest:
    """What Python is told that asks now whether a condition holds; it would go on with one of several comparisons."""
    return BadRequest(
        f"whether {comparison} is known only when the output is there, so conditions cannot be chained (1 < x < 3) or "
        "joined by `and`, `or`, `not`: give one comparison of one number; for more, have a kernel before write a "
        "number that says it (1 where all of it holds), and compare that",
        at="when",
    )


class Repeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Run the graph again, with outputs bound to inputs, until a condition on its outputs holds: ``most`` times in all.

    ``bind`` says which inputs; the others are as they were. Only the last run's outputs are sent or kept.
    """

    bind: dict[str, Source]
    until: Condition
    most: Annotated[int, msgspec.Meta(ge=1, le=MOST)]


class Continuation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request to be published when the one before it has completed, if it does and the condition holds.

    ``graph`` is the graph whole, the hash of one that the worker knows, or a key of the request's ``graphs``.
    """

    graph: GraphSpec | str
    name: str | None = None
    condition: Condition | None = msgspec.field(default=None, name="if")
    bind: dict[str, bytes | Source] = {}
    scalars: dict[str, Number | Element] = {}
    keep: dict[str, str] = {}
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    pool: str | None = None
    repeat: Repeat | None = None
    then: tuple[Continuation, ...] = ()


G = TypeVar("G")
H = TypeVar("H")


class RequestOf(msgspec.Struct, Generic[G], frozen=True, kw_only=True, omit_defaults=True):
    """What a producer publishes, with its graph as a ``G``: decoded (``Request``), or still encoded (``msgspec.Raw``).

    Both sides keep graphs encoded where they have seen them before, so the fields stand here once for all forms.
    ``graphs`` are those of its continuations that come whole; the codec puts them into their places.
    """

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    graph: G
    bind: dict[str, Binding] = {}
    scalars: dict[str, Number] = {}
    keep: dict[str, str] = {}
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None = None
    repeat: Repeat | None = None
    graphs: dict[str, G] = {}
    then: tuple[Continuation, ...] = ()

    def with_graph(self, graph: H) -> RequestOf[H]:
        """The same request with its graph in another form."""
        return cast(RequestOf[H], msgspec.structs.replace(self, graph=graph))


Request = RequestOf[GraphSpec | str]
"""A request as the worker sees it: ``graph`` is the graph whole, or the hash of one that the worker knows."""


class Cancel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To all workers of a pool: the tenant's request with the id ``cancel`` is not to run, or not any further."""

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    cancel: str


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output in a reply: its bytes ``inline``, or ``ref`` (and ``name``, ``version`` if kept) in the store."""

    nbytes: int
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    inline: bytes | None = None
    ref: str | None = None
    name: str | None = None
    version: int | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it travels."""

    code: str
    message: str
    detail: dict[str, Any] = {}

    @classmethod
    def of(cls, error: KaasqError) -> ErrorBody:
        """The wire form of an exception."""
        return cls(code=error.code, message=error.message, detail=error.detail)

    def exception(self) -> KaasqError:
        """The exception of the wire form."""
        return error_from_wire(self.code, self.message, self.detail)


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time went, in microseconds. ``queued`` is from publishing to the worker taking it.

    ``queued`` is to the millisecond, which is what messages carry, and compares two machines' clocks: it can be off by
    their skew (never below 0).
    """

    queued: int = 0
    load: int = 0
    h2d: int = 0
    kernel: int = 0
    d2h: int = 0
    commit: int = 0
    total: int = 0


class CacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """How many inputs and modules were already on the device, and how many were not."""

    hits: int = 0
    misses: int = 0


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who ran it. ``store`` is the id of the store it uses, by which a client notices that it uses another."""

    host: str
    pid: int
    device: str
    store: str = ""


class Next(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a continuation: published under ``id``, or ``skipped``, and why (its condition did not hold)."""

    id: str
    name: str | None = None
    skipped: str | None = None


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """How a loop ended: after how many ``runs``, and whether its condition held then."""

    runs: int
    held: bool


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request ended. ``graph`` is the hash of one that came whole: the next request may send that instead.

    ``then``: of one that is ok, what became of its continuations. Otherwise none of them runs.
    """

    kaasq: int = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)
    id: str
    status: Status
    graph: str | None = None
    outputs: dict[str, Output] = {}
    error: ErrorBody | None = None
    timings: Timings = Timings()
    cache: CacheUse = CacheUse()
    worker: WorkerInfo | None = None
    repeat: Repeated | None = None
    then: tuple[Next, ...] = ()

    def without_inline(self) -> Reply:
        """The same reply with inline bytes left out: the data of its event."""
        if all(each.inline is None for each in self.outputs.values()):
            return self
        bare = {name: msgspec.structs.replace(each, inline=None) for name, each in self.outputs.items()}
        return msgspec.structs.replace(self, outputs=bare)


EVENT_WORDS: dict[Status, str] = {
    "ok": "completed",
    "error": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
EVENT_TYPE = "kaasq.request."
