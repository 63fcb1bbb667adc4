"""Bytes to messages and back, in MessagePack and JSON. The one place that decodes what came from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from kaasq import counting
from kaasq.checks import GraphLimits
from kaasq.dtypes import shown
from kaasq.errors import BadRequest
from kaasq.flows.checks import check_counts, check_steps
from kaasq.flows.model import FlowCall, FlowReply, FlowsCall, FlowSpec, FlowStart, StepCall
from kaasq.kaas.format import Envelope
from kaasq.kaas.loading import complete
from kaasq.kaas.request import KaasRequest
from kaasq.kaas.translation import translate
from kaasq.messages import PROTOCOL_VERSION, Binding, Continuation, Request, RequestOf
from kaasq.model import GraphSpec
from kaasq.reading import Reader
from kaasq.remembered import Remembered
from kaasq.then_checks import check_at, check_form, check_runs, with_graphs

MSGPACK = "application/msgpack"
JSON = "application/json"

T = TypeVar("T", bound=msgspec.Struct)

_pack = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")
_json = msgspec.json.Encoder()


_ABSENT = msgspec.Raw()  # one object, so that looking for what most messages lack takes no time


class _Body(Envelope, frozen=True, kw_only=True, omit_defaults=True):
    """Whatever a worker takes, to see which it is: still encoded but for what requests have. Lists are counted only."""

    bind: dict[str, Binding | tuple[bytes | counting.Item, ...]] = msgspec.field(default_factory=dict)  # type: ignore[assignment]
    workflow: msgspec.Raw = _ABSENT
    flow: msgspec.Raw = _ABSENT
    flows: msgspec.Raw = _ABSENT
    step: msgspec.Raw = _ABSENT


class _Start(FlowStart, frozen=True, kw_only=True, omit_defaults=True):
    workflow: msgspec.Raw  # type: ignore[assignment]  # still encoded, as a graph is, here and below


class _Flow(FlowSpec, frozen=True, kw_only=True, omit_defaults=True):
    graphs: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)  # type: ignore[assignment]


class _Kind(msgspec.Struct, frozen=True):
    workflow: msgspec.Raw = msgspec.Raw()


_bodies = Reader(_Body)
_kinds = Reader(_Kind)
_envelopes = Reader(Envelope)
_graphs = Reader(GraphSpec | str)
_replies = Reader(FlowReply)
_thens = Reader(tuple[Continuation, ...])
_starts = Reader(_Start)
_flows = Reader(_Flow)
_calls = Reader(FlowCall)
_lists = Reader(FlowsCall)
_steps = Reader(StepCall)


def encode(message: msgspec.Struct, content_type: str = MSGPACK) -> bytes:
    """The message's bytes in that content type (bytes inside JSON become base64)."""
    return _json.encode(message) if content_type == JSON else _pack.encode(message)


def canonical(message: msgspec.Struct) -> bytes:
    """The one encoding of a message, whatever order its maps were written in: what is hashed."""
    return _canonical.encode(message)


def decode(body: bytes | memoryview, content_type: str | None, kind: type[T]) -> T:
    """A message of that type from bytes. Raises BadRequest naming the path of what does not fit."""
    read: T = Reader(kind).read(body, json=is_json(body, content_type))
    return read


def decode_reply(body: bytes | memoryview, content_type: str | None) -> FlowReply:
    """A reply from bytes. Raises BadRequest."""
    reply: FlowReply = _replies.read(body, json=is_json(body, content_type))
    return reply


def check_version(given: int) -> None:
    """Whether a message of that version is understood here. Raises BadRequest."""
    if given != PROTOCOL_VERSION:
        raise BadRequest(f"version {shown(given)} of the protocol; this kaasq speaks {PROTOCOL_VERSION}", at="kaasq")


def is_json(body: bytes | memoryview, content_type: str | None) -> bool:
    """Whether the body is to be read as JSON. Raises BadRequest for a content type that is neither."""
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind in {JSON, "text/json"}:
        return True
    if kind in {MSGPACK, "application/x-msgpack", "application/vnd.msgpack"}:
        return False
    if kind in {"", "application/octet-stream"}:  # nobody said: JSON objects start with a brace
        return bytes(body[:64]).lstrip()[:1] == b"{"
    raise BadRequest(f"content type {kind!r} is neither {MSGPACK} nor {JSON}", at="content_type")


def reply_type(body: bytes, content_type: str | None) -> str:
    """The content type of a reply: a reply speaks as its request did, even one that could not be read."""
    try:
        return JSON if is_json(body, content_type) else MSGPACK
    except BadRequest:
        return JSON


class Decoded(NamedTuple):
    """A request, and whether it carried its graph whole."""

    request: Request
    whole: bool


Received = Decoded | FlowStart | FlowCall | FlowsCall | StepCall


def question(body: bytes | memoryview, content_type: str | None) -> FlowCall | FlowsCall | None:
    """What is asked about workflows, if that is what those bytes do, and rightly."""
    try:
        json = is_json(body, content_type)
        counting.allow_items(0)
        envelope: _Body = _bodies.read(body, json=json)
        if envelope.kaasq != PROTOCOL_VERSION or (envelope.flow is _ABSENT and envelope.flows is _ABSENT):
            return None
        _check_alone(envelope)
        asked: FlowCall | FlowsCall = (_calls if envelope.flow is not _ABSENT else _lists).read(body, json=json)
    except BadRequest:
        return None
    return asked


class RequestDecoder:
    """Decodes what workers take, and remembers graphs, by their encoded bytes and by their hash, and workflows.

    ``graph`` of a decoded request is always a checked GraphSpec, or the hash of one this decoder does not know. A
    request in the KaaS format comes out like any other, its inputs bound and its outputs kept under their keys.
    The workflow of a start is a checked FlowSpec.
    A hash means the graph that the same ``tenant`` sent whole: another's may lack its modules' signatures, which are no
    part of the hash. ``graphs`` (and workflows) are remembered at most, and as many as take ``nbytes``, encoded and
    decoded.
    """

    def __init__(self, limits: GraphLimits, *, graphs: int = 1024, nbytes: int = 256 << 20) -> None:
        self._limits = limits
        self._seen = Remembered(most=graphs, nbytes=nbytes)

    def decode(self, body: bytes | memoryview, content_type: str | None, tenant: str = "") -> Request:
        """The request in those bytes. Raises BadRequest, also where they start a workflow or ask for one."""
        received = self.read(body, content_type, tenant)
        if not isinstance(received, Decoded):
            raise BadRequest("expected a request with a graph; this one is about a workflow", at="body")
        return received.request

    def read(self, body: bytes | memoryview, content_type: str | None, tenant: str = "") -> Received:
        """What those bytes are; of a request, whether its graph was there, too. Raises BadRequest.

        Also BufferMissing and BufferSize, where a workflow is bound together wrongly.
        """
        json = is_json(body, content_type)
        # The graph is left encoded: one seen before need not be decoded again.
        envelope = _envelope(body, self._limits.listed, json=json)
        check_version(envelope.kaasq)
        if not (envelope.workflow is envelope.flow is envelope.flows is envelope.step is _ABSENT):
            return self._about_a_workflow(body, envelope, tenant, json=json)
        for bound in envelope.bind.values():
            if type(bound) is tuple:
                _envelopes.read(body, json=json)  # which refuses it, naming it
        return self._request(envelope, tenant, json=json)

    def forget(self, graph_hash: str, tenant: str) -> None:
        """The hash means nothing until the tenant sends the graph whole again, with other signatures perhaps."""
        self._seen.forget(graph_hash, tenant)

    def _request(self, envelope: _Body, tenant: str, *, json: bool) -> Decoded:
        graph, kernels = bytes(envelope.graph), bytes(envelope.kernels)
        if graph and kernels:
            raise BadRequest("has both a graph and kernels: it is either a request of kaasq or of KaaS", at="kernels")
        if kernels:
            made = complete(self._kaas(envelope, kernels, tenant, json=json), envelope)
            request = msgspec.structs.replace(_request(envelope, made.graph), bind=made.bind, keep=made.keep)
            decoded = Decoded(request, whole=True)
        elif graph:
            decoded = self._plain(envelope, graph, tenant, json=json)
        else:
            raise BadRequest("Object missing required field `graph` (or `kernels`, in the KaaS format)", at="body")
        if envelope.repeat is not None:
            check_runs(envelope.repeat, self._limits)
        if bytes(envelope.then):
            then = self._then(envelope, tenant, json=json)
            return Decoded(msgspec.structs.replace(decoded.request, then=then), decoded.whole)
        return decoded

    def _plain(self, envelope: _Body, encoded: bytes, tenant: str, *, json: bool) -> Decoded:
        graph = self._whole(encoded, tenant, json=json, at="graph")
        if isinstance(graph, str):
            return Decoded(_request(envelope, self._seen.graph(graph, tenant) or graph), whole=False)
        return Decoded(_request(envelope, graph), whole=True)

    def _whole(self, encoded: bytes, tenant: str, *, json: bool, at: str) -> GraphSpec | str:
        """The graph in those bytes, checked if it was not seen before; or the hash that they hold."""
        known = self._seen.get((encoded,), tenant)
        if isinstance(known, GraphSpec):
            return known
        graph: GraphSpec | str = _graphs.read(encoded, json=json, prefix=at)
        if isinstance(graph, str):
            return graph
        graph = check_at(graph, self._limits, at)
        self._seen.add((encoded,), graph, tenant)
        return graph

    def _then(self, envelope: Envelope, tenant: str, *, json: bool) -> tuple[Continuation, ...]:
        graphs = self._each_whole(envelope.graphs, tenant, json=json, at="graphs")
        counting.check_continuations(envelope.then, self._limits.continuations, json=json)
        then: tuple[Continuation, ...] = _thens.read(envelope.then, json=json, prefix="then")
        check_form(then, self._limits)
        return with_graphs(then, lambda label: graphs.get(label) or self._seen.graph(label, tenant), self._limits)

    def _about_a_workflow(
        self, body: bytes | memoryview, envelope: _Body, tenant: str, *, json: bool
    ) -> FlowStart | FlowCall | FlowsCall | StepCall:
        _check_alone(envelope)
        if envelope.workflow is not _ABSENT:
            return self._start(body, bytes(envelope.workflow), tenant, json=json)
        reader = _calls if envelope.flow is not _ABSENT else _lists if envelope.flows is not _ABSENT else _steps
        asked: FlowCall | FlowsCall | StepCall = reader.read(body, json=json)
        return asked

    def _start(self, body: bytes | memoryview, workflow: bytes, tenant: str, *, json: bool) -> FlowStart:
        start: _Start = _starts.read(body, json=json)
        return FlowStart(**{**msgspec.structs.asdict(start), "workflow": self._workflow(workflow, tenant, json=json)})

    def _workflow(self, encoded: bytes, tenant: str, *, json: bool) -> FlowSpec:
        """The workflow in those bytes, checked if it was not seen before."""
        known = self._seen.get((b"workflow", encoded), tenant)
        if isinstance(known, FlowSpec):
            return known
        counting.check_steps(encoded, self._limits.steps, json=json)
        read: _Flow = _flows.read(encoded, json=json, prefix="workflow")
        check_counts(read, self._limits)
        graphs = self._each_whole(read.graphs, tenant, json=json, at="workflow.graphs")
        spec = check_steps(FlowSpec(**{**msgspec.structs.asdict(read), "graphs": graphs}), self._limits)
        self._seen.add((b"workflow", encoded), spec, tenant)
        return spec

    def _each_whole(
        self, encoded: Mapping[str, msgspec.Raw], tenant: str, *, json: bool, at: str
    ) -> dict[str, GraphSpec]:
        graphs: dict[str, GraphSpec] = {}
        for label, each in encoded.items():
            place = f"{at}.{label[:64]}"
            graph = self._whole(bytes(each), tenant, json=json, at=place)
            if isinstance(graph, str):
                raise BadRequest("is a graph whole, not its hash", at=place)
            graphs[label] = graph
        return graphs

    def _kaas(self, envelope: Envelope, kernels: bytes, tenant: str, *, json: bool) -> KaasRequest:
        encoded = (kernels, bytes(envelope.nIter), bytes(envelope.name))
        known = self._seen.get(encoded, tenant)
        if isinstance(known, KaasRequest):
            return known
        made = translate(envelope, self._limits, json=json)
        self._seen.add(encoded, made, tenant)
        return made


def _check_alone(envelope: _Body) -> None:
    """Whether what is about a workflow is that only. Raises BadRequest."""
    kinds = [
        name for name in ("workflow", "flow", "flows", "step", "graph", "kernels") if bytes(getattr(envelope, name))
    ]
    if len(kinds) > 1:
        raise BadRequest(f"has both {kinds[0]} and {kinds[1]}: a message is one of the two", at=kinds[1])
    if bytes(envelope.then) or envelope.repeat is not None:
        at = "then" if bytes(envelope.then) else "repeat"
        raise BadRequest(f"a message with {kinds[0]} has no {at}: its steps say what follows, and what repeats", at=at)


def _envelope(body: bytes | memoryview, listed: int, *, json: bool) -> _Body:
    counting.allow_items(listed)
    try:
        envelope: _Body = _bodies.read(body, json=json)
    except BadRequest:
        counting.check_items(listed)
        # Again as what it is, so that the error says what may stand there.
        kind: _Kind = _kinds.read(body, json=json)
        (_starts if bytes(kind.workflow) else _envelopes).read(body, json=json)
        raise
    return envelope


def _request(envelope: _Body, graph: GraphSpec | str) -> Request:
    """The request without what only its envelope says. By hand, since going over the fields takes a microsecond."""
    return RequestOf(
        kaasq=envelope.kaasq,
        graph=graph,
        bind=envelope.bind,  # type: ignore[arg-type]  # it has no lists any more
        scalars=envelope.scalars,
        keep=envelope.keep,
        timeout_ms=envelope.timeout_ms,
        repeat=envelope.repeat,
    )
