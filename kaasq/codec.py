"""Bytes to messages and back, in MessagePack and JSON. The one place that decodes what came from outside."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec

from kaasq.checks import GraphLimits
from kaasq.dtypes import shown
from kaasq.errors import BadRequest
from kaasq.kaas.format import Envelope
from kaasq.kaas.loading import complete
from kaasq.kaas.request import KaasRequest
from kaasq.kaas.translation import translate
from kaasq.messages import PROTOCOL_VERSION, Continuation, Reply, Request, RequestOf
from kaasq.model import GraphSpec
from kaasq.reading import Reader
from kaasq.then_checks import check_at, check_form, check_runs, with_graphs
from kaasq.then_count import check_count

MSGPACK = "application/msgpack"
JSON = "application/json"

LAUNCH_BYTES = 256  # decoded, as measured
ARGUMENT_BYTES = 64

T = TypeVar("T", bound=msgspec.Struct)

_pack = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")
_json = msgspec.json.Encoder()


_envelopes = Reader(Envelope)
_graphs = Reader(GraphSpec | str)
_replies = Reader(Reply)
_thens = Reader(tuple[Continuation, ...])


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


def decode_reply(body: bytes | memoryview, content_type: str | None) -> Reply:
    """A reply from bytes. Raises BadRequest."""
    reply: Reply = _replies.read(body, json=is_json(body, content_type))
    return reply


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


class _Known(NamedTuple):
    """A graph that is remembered, and who has sent it whole."""

    made: GraphSpec | KaasRequest
    tenants: set[str]


class RequestDecoder:
    """Decodes requests and remembers graphs, by their encoded bytes and by their hash.

    ``graph`` of a decoded request is always a checked GraphSpec, or the hash of one this decoder does not know. A
    request in the KaaS format comes out like any other, its inputs bound and its outputs kept under their keys.
    A hash means the graph that the same ``tenant`` sent whole: another's may lack its modules' signatures, which are no
    part of the hash. ``graphs`` are remembered at most, and as many as take ``nbytes``, encoded and decoded.
    """

    def __init__(self, limits: GraphLimits, *, graphs: int = 1024, nbytes: int = 256 << 20) -> None:
        self._limits = limits
        self._capacity = graphs
        self._room = nbytes
        self._by_bytes: dict[tuple[bytes, ...], _Known] = {}
        self._by_hash: dict[tuple[str, str], GraphSpec] = {}  # by tenant and hash

    def decode(self, body: bytes | memoryview, content_type: str | None, tenant: str = "") -> Request:
        """The request in those bytes. Raises BadRequest."""
        return self.read(body, content_type, tenant).request

    def read(self, body: bytes | memoryview, content_type: str | None, tenant: str = "") -> Decoded:
        """The request in those bytes, and whether its graph was there, too. Raises BadRequest."""
        json = is_json(body, content_type)
        # The graph is left encoded: one seen before need not be decoded again.
        envelope: Envelope = _envelopes.read(body, json=json)
        if envelope.kaasq != PROTOCOL_VERSION:
            raise BadRequest(
                f"version {shown(envelope.kaasq)} of the protocol; this worker speaks {PROTOCOL_VERSION}", at="kaasq"
            )
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

    def _plain(self, envelope: Envelope, encoded: bytes, tenant: str, *, json: bool) -> Decoded:
        graph = self._whole(encoded, tenant, json=json, at="graph")
        if isinstance(graph, str):
            return Decoded(_request(envelope, self._by_hash.get((tenant, graph), graph)), whole=False)
        return Decoded(_request(envelope, graph), whole=True)

    def _whole(self, encoded: bytes, tenant: str, *, json: bool, at: str) -> GraphSpec | str:
        """The graph in those bytes, checked if it was not seen before; or the hash that they hold."""
        known = self._by_bytes.get((encoded,))
        if known is not None and isinstance(known.made, GraphSpec):
            self._tell(tenant, known)
            return known.made
        graph: GraphSpec | str = _graphs.read(encoded, json=json, prefix=at)
        if isinstance(graph, str):
            return graph
        graph = check_at(graph, self._limits, at)
        self._remember((encoded,), graph, tenant)
        return graph

    def _then(self, envelope: Envelope, tenant: str, *, json: bool) -> tuple[Continuation, ...]:
        graphs: dict[str, GraphSpec] = {}
        for label, encoded in envelope.graphs.items():
            at = f"graphs.{label[:64]}"
            graph = self._whole(bytes(encoded), tenant, json=json, at=at)
            if isinstance(graph, str):
                raise BadRequest("is a graph whole, not its hash", at=at)
            graphs[label] = graph
        check_count(envelope.then, self._limits.continuations, json=json)
        then: tuple[Continuation, ...] = _thens.read(envelope.then, json=json, prefix="then")
        check_form(then, self._limits)
        return with_graphs(then, lambda key: graphs.get(key) or self._by_hash.get((tenant, key)), self._limits)

    def _kaas(self, envelope: Envelope, kernels: bytes, tenant: str, *, json: bool) -> KaasRequest:
        encoded = (kernels, bytes(envelope.nIter), bytes(envelope.name))
        known = self._by_bytes.get(encoded)
        if known is not None and isinstance(known.made, KaasRequest):
            self._tell(tenant, known)
            return known.made
        made = translate(envelope, self._limits, json=json)
        self._remember(encoded, made, tenant)
        return made

    def _remember(self, encoded: tuple[bytes, ...], made: GraphSpec | KaasRequest, tenant: str) -> None:
        self._room -= _weight(encoded, made)
        # Oldest first: a graph in use is sent again, and remembered.
        while self._by_bytes and (len(self._by_bytes) >= self._capacity or self._room < 0):
            oldest = next(iter(self._by_bytes))
            forgotten = self._by_bytes.pop(oldest)
            self._room += _weight(oldest, forgotten.made)
            dropped = _graph(forgotten.made)
            for each in forgotten.tenants:
                if self._by_hash.get((each, dropped.hash)) is dropped:  # else known by another encoding, too
                    del self._by_hash[each, dropped.hash]
        known = self._by_bytes[encoded] = _Known(made, set())
        self._tell(tenant, known)

    def _tell(self, tenant: str, known: _Known) -> None:
        """From now on the tenant may name it by its hash, which means the latest that came in new bytes."""
        graph = _graph(known.made)
        if tenant in known.tenants:
            self._by_hash.setdefault((tenant, graph.hash), graph)
        else:
            known.tenants.add(tenant)
            self._by_hash[tenant, graph.hash] = graph


def _weight(encoded: tuple[bytes, ...], made: GraphSpec | KaasRequest) -> int:
    """What it takes to remember it. A launch of 30 bytes takes ten times as many once it is decoded."""
    launches = _graph(made).launches
    arguments = sum([len(each.args) for each in launches])
    return sum(map(len, encoded)) + LAUNCH_BYTES * len(launches) + ARGUMENT_BYTES * arguments


def _graph(made: GraphSpec | KaasRequest) -> GraphSpec:
    return made if isinstance(made, GraphSpec) else made.graph


def _request(envelope: Envelope, graph: GraphSpec | str) -> Request:
    """The request without what only its envelope says. By hand, since going over the fields takes a microsecond."""
    return RequestOf(
        kaasq=envelope.kaasq,
        graph=graph,
        bind=envelope.bind,
        scalars=envelope.scalars,
        keep=envelope.keep,
        timeout_ms=envelope.timeout_ms,
        repeat=envelope.repeat,
    )
