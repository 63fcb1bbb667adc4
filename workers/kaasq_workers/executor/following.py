"""What follows a request that completed: its continuations, filled in with its outputs and encoded as requests."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

import msgspec

from kaasq import codec
from kaasq.codec import Decoded
from kaasq.continuations import holds, numbered
from kaasq.dtypes import itemsize, unpack_number
from kaasq.errors import BadRequest, DeadlineExceeded, KaasqError, NameNotFound, WorkerFailed
from kaasq.finite import check_finite
from kaasq.ids import following_id
from kaasq.messages import (
    Binding,
    Condition,
    Continuation,
    Element,
    ErrorBody,
    Next,
    Output,
    Reply,
    Request,
    Source,
    Stored,
)
from kaasq.model import GraphSpec, Number
from kaasq.then_checks import check_ids, check_repeat, check_then
from kaasq_storage import BufferStore
from kaasq_workers.executor.ahead import Ahead, Below, Found, Made
from kaasq_workers.executor.repeating import EVERYTHING
from kaasq_workers.link import Following

HELD_BYTES = 64 << 20  # of encoded graphs, at most
MAP_ENTRY_BYTES = 160  # around a graph in a request: its hash, twice, and the names of fields

Outputs = Mapping[str, Output]


class Followers:
    """Makes requests of continuations, for the thread that runs requests and the one that commits them.

    ``pool`` is the worker's, ``message_limit`` what a message may have, ``together_limit`` all that follow one request.
    """

    def __init__(
        self, store: BufferStore, *, pool: str, inline_limit: int, message_limit: int, together_limit: int
    ) -> None:
        self._store = store
        self._pool = pool
        self._inline_limit = inline_limit
        self._message_limit = message_limit
        self._together_limit = together_limit
        self._encoded: dict[tuple[str | bytes, ...], msgspec.Raw] = {}  # by what is in it, with modules' signatures
        self._held = 0
        self._encoding = threading.Lock()
        self.made = Made()
        """Those that were made last."""

    def check(self, request_id: str, request: Request, content_type: str) -> Below:
        """Before the request runs: whether all that follows it can. Raises KaasqError naming the place."""
        assert isinstance(request.graph, GraphSpec)
        if request.repeat is not None:
            check_repeat(request.graph, request.repeat)
        below = Below(request.then)
        if request.then:
            check_ids(request_id, request.then)
            check_then(request.graph, request.then)
            self._check_sizes(request.then, content_type, "then", below)
        return below

    def _check_sizes(
        self, then: tuple[Continuation, ...], content_type: str, at: str, below: Below
    ) -> tuple[int, dict[str, int]]:
        """Of continuations of one request: the bytes that they take in its message, without graphs; and those of these.

        Nothing is encoded twice, however deep it lies. What is found goes to ``below``. Raises BadRequest.
        """
        if not then:
            return 0, {}
        together, inside = 0, 0
        graphs: dict[str, int] = {}
        whole: dict[str, GraphSpec] = {}
        hashed: list[Continuation] = []
        for index, each in enumerate(then):
            assert isinstance(each.graph, GraphSpec)
            place = f"{at}[{index}]"
            nbytes, needed = self._check_sizes(each.then, content_type, f"{place}.then", below)
            bare = msgspec.structs.replace(each, graph=each.graph.hash, then=())
            nbytes += len(codec.encode(bare, content_type))
            inner = below.of(each.then)
            hashed.append(msgspec.structs.replace(bare, then=inner.by_hash))
            whole |= inner.graphs
            whole[each.graph.hash] = each.graph
            needed[each.graph.hash] = MAP_ENTRY_BYTES + memoryview(self._graph(each.graph, content_type)).nbytes
            carried = self._carried(each)
            if content_type != codec.MSGPACK:
                carried = carried * 4 // 3 + 4
            message = nbytes + sum(needed.values()) + carried
            if message > self._message_limit:
                raise BadRequest(
                    f"with the outputs that it takes it may have {message} bytes, and a message has at most "
                    f"{self._message_limit} (message_limit): outputs above the worker's inline_limit stay in its "
                    "store, except for another pool",
                    at=place,
                )
            together += message
            inside += nbytes
            graphs |= needed
        if together > self._together_limit:
            raise BadRequest(
                f"{len(then)} messages that may have {together} bytes together are to follow one request; at most "
                f"{self._together_limit} may (graph_limits.continuations_bytes): give them smaller graphs, or fewer of "
                "them at once",
                at=at,
            )
        below.add(then, Found(together, tuple(hashed), whole))
        return inside, graphs

    def following(
        self,
        tenant: str,
        request_id: str,
        request: Request,
        below: Below,
        reply: Reply,
        content_type: str,
        deadline_ms: int | None,
    ) -> tuple[tuple[Next, ...], list[Following]]:
        """What became of each continuation of a request that completed, and those that are to be published.

        The same request and reply give the same ids and bodies, but for the time that is left.
        """
        told: list[Next] = []
        follow: list[Following] = []
        for number, at, then in numbered(request.then):
            key = following_id(request_id, number)
            error: KaasqError | None = None
            try:
                skipped = self._skipped(tenant, then.condition, reply.outputs)
                if skipped is None:
                    timeout_ms = _timeout_ms(then.timeout_ms, deadline_ms)
                    bind, scalars = self._taken(tenant, then, reply.outputs)
                    made = self._request(then, bind, scalars, timeout_ms, content_type, at)
                    body = self._body(made, below, content_type)
                    self.made.add(body, Ahead(Decoded(made, whole=True), below))
                    follow.append(Following(id=key, pool=then.pool or self._pool, body=body, timeout_ms=timeout_ms))
            except KaasqError as raised:
                skipped, error = None, raised
            except OSError as raised:
                skipped, error = None, WorkerFailed(f"{at} could not be published: {raised}")
            if error is not None:
                follow.append(Following(id=key, pool=then.pool or self._pool, error=ErrorBody.of(error)))
            told.append(Next(id=key, name=then.name, skipped=skipped))
        return tuple(told), follow

    def _skipped(self, tenant: str, condition: Condition | None, outputs: Outputs) -> str | None:
        """Why the continuation is not to run; None if it is."""
        if condition is None:
            return None
        number = self._number(tenant, outputs, condition)
        if holds(condition, number):
            return None
        return f"{condition.output} is {number}, not {condition.op} {condition.value}"

    def _taken(self, tenant: str, then: Continuation, outputs: Outputs) -> tuple[dict[str, Binding], dict[str, Number]]:
        """What it takes from the request's outputs."""
        assert isinstance(then.graph, GraphSpec)
        elsewhere = then.pool is not None and then.pool != self._pool
        bind: dict[str, Binding] = {}
        for name, source in then.bind.items():
            if isinstance(source, bytes) or source.output is None:
                continue
            output, buffer = outputs[source.output], then.graph.buffer(name)
            assert buffer is not None
            if output.inline is None and not elsewhere:
                bind[name] = Stored(ref=output.ref, offset=source.offset)
            else:
                bind[name] = self._bytes(tenant, output, source.offset or 0, buffer.nbytes)
        scalars = {
            name: self._number(tenant, outputs, given)
            for name, given in then.scalars.items()
            if isinstance(given, Element)
        }
        return bind, scalars

    @staticmethod
    def _request(
        then: Continuation,
        bind: Mapping[str, Binding],
        scalars: Mapping[str, Number],
        timeout_ms: int | None,
        content_type: str,
        at: str,
    ) -> Request:
        """The request, as a worker reads it. Raises BadRequest."""
        assert isinstance(then.graph, GraphSpec)
        given: dict[str, Binding] = {
            name: bound if isinstance(bound, bytes) else Stored(ref=bound.ref, name=bound.name, offset=bound.offset)
            for name, bound in then.bind.items()
            if isinstance(bound, bytes) or bound.output is None
        }
        numbers = {name: value for name, value in then.scalars.items() if not isinstance(value, Element)}
        for name, value in scalars.items():
            if content_type == codec.JSON and not math.isfinite(value):
                raise BadRequest(f"JSON has no {value}, which its request speaks", at=f"{at}.scalars.{name}")
        return Request(
            graph=then.graph,
            bind={**given, **bind},
            scalars={**numbers, **scalars},
            keep=then.keep,
            timeout_ms=timeout_ms,
            repeat=then.repeat,
            then=then.then,
        )

    def _body(self, request: Request, below: Below, content_type: str) -> bytes:
        """The request's body. Its graphs are whole, since nobody knows which worker gets it."""
        assert isinstance(request.graph, GraphSpec)
        found = below.of(request.then)
        encoded = request.with_graph(self._graph(request.graph, content_type))
        nested = [(key, graph) for key, graph in found.graphs.items() if key != request.graph.hash]  # known by its hash
        graphs = {key: self._graph(graph, content_type) for key, graph in nested}
        return codec.encode(msgspec.structs.replace(encoded, graphs=graphs, then=found.by_hash), content_type)

    def _graph(self, graph: GraphSpec, content_type: str) -> msgspec.Raw:
        signatures = [graph.modules[each].signature for each in sorted(graph.modules)]
        key: tuple[str | bytes, ...] = (graph.hash, content_type, *signatures)
        with self._encoding:
            encoded = self._encoded.get(key)
            if encoded is None:
                if content_type == codec.JSON:
                    check_finite(graph)
                encoded = self._encoded[key] = msgspec.Raw(codec.encode(graph, content_type))
                self._held += memoryview(encoded).nbytes
                while self._held > HELD_BYTES:
                    self._held -= memoryview(self._encoded.pop(next(iter(self._encoded)))).nbytes
            return encoded

    def _carried(self, then: Continuation) -> int:
        """How many bytes of outputs it may carry in its message."""
        assert isinstance(then.graph, GraphSpec)
        buffers = [
            then.graph.buffer(name)
            for name, bound in then.bind.items()
            if isinstance(bound, Source) and bound.output is not None
        ]
        # In this pool what is larger stays in the store.
        most = self._inline_limit if then.pool is None or then.pool == self._pool else EVERYTHING
        return sum(buffer.nbytes for buffer in buffers if buffer is not None and buffer.nbytes <= most)

    def _number(self, tenant: str, outputs: Outputs, element: Element) -> Number:
        output = outputs[element.output]
        assert output.dtype is not None
        size = itemsize(output.dtype)
        return unpack_number(output.dtype, self._bytes(tenant, output, (element.index or 0) * size, size))

    def _bytes(self, tenant: str, output: Output, offset: int, nbytes: int) -> bytes:
        """A part of an output. Raises NameNotFound, StoreUnavailable."""
        if output.inline is not None:
            return output.inline[offset : offset + nbytes]
        if output.ref is None:
            raise NameNotFound("the reply has neither bytes nor a ref for an output that a continuation takes")
        with self._store.open(tenant, output.ref) as reading, reading.data[offset : offset + nbytes] as part:
            return bytes(part)


def taken_outputs(request: Request) -> set[str]:
    """The outputs that continuations take as inputs."""
    if not request.then:
        return set()
    sources = (bound for each in request.then for bound in each.bind.values())
    return {each.output for each in sources if isinstance(each, Source) and each.output is not None}


def _timeout_ms(own_ms: int | None, deadline_ms: int | None) -> int | None:
    """How long a continuation may take: what it says, within what is left of the chain. Raises DeadlineExceeded."""
    if deadline_ms is None:
        return own_ms
    left_ms = deadline_ms - time.time_ns() // 1_000_000
    if left_ms <= 0:
        raise DeadlineExceeded("the time of the request that it follows was over before it could be published")
    return left_ms if own_ms is None else min(own_ms, left_ms)
