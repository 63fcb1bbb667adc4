"""Bytes to messages and back, in MessagePack and JSON. The one place that decodes what came from outside."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from kaasq.checks import GraphLimits, check_graph
from kaasq.decode_errors import bad_request
from kaasq.errors import BadRequest
from kaasq.messages import PROTOCOL_VERSION, Reply, Request, RequestOf
from kaasq.model import GraphSpec

MSGPACK = "application/msgpack"
JSON = "application/json"

T = TypeVar("T", bound=msgspec.Struct)

_pack = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")
_json = msgspec.json.Encoder()


class _Reader:
    """Both decoders of a type, made once: that takes longer than decoding a request."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._json = msgspec.json.Decoder(kind)

    def read(self, body: bytes | memoryview, *, json: bool, prefix: str = "") -> Any:
        """A value of the type. Raises BadRequest, with ``prefix`` before the place."""
        try:
            return self._json.decode(body) if json else self._msgpack.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(error, body, json=json, kind=self._kind, prefix=prefix) from None


_requests = _Reader(RequestOf[msgspec.Raw])
_graphs = _Reader(GraphSpec | str)
_replies = _Reader(Reply)


def encode(message: msgspec.Struct, content_type: str = MSGPACK) -> bytes:
    """The message's bytes in that content type (bytes inside JSON become base64)."""
    return _json.encode(message) if content_type == JSON else _pack.encode(message)


def canonical(message: msgspec.Struct) -> bytes:
    """The one encoding of a message, whatever order its maps were written in: what is hashed."""
    return _canonical.encode(message)


def decode(body: bytes | memoryview, content_type: str | None, kind: type[T]) -> T:
    """A message of that type from bytes. Raises BadRequest naming the path of what does not fit."""
    read: T = _Reader(kind).read(body, json=is_json(body, content_type))
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


class RequestDecoder:
    """Decodes requests and remembers graphs, by their encoded bytes and by their hash.

    ``graph`` of a decoded request is always a checked GraphSpec, or the hash of one this decoder does not know.
    """

    def __init__(self, limits: GraphLimits, *, graphs: int = 1024, nbytes: int = 256 << 20) -> None:
        self._limits = limits
        self._capacity = graphs
        self._room = nbytes
        self._by_bytes: dict[bytes, GraphSpec] = {}
        self._by_hash: dict[str, GraphSpec] = {}

    def decode(self, body: bytes | memoryview, content_type: str | None) -> Request:
        """The request in those bytes. Raises BadRequest."""
        json = is_json(body, content_type)
        # The graph is left encoded: one seen before need not be decoded again.
        request: RequestOf[msgspec.Raw] = _requests.read(body, json=json)
        if request.kaasq != PROTOCOL_VERSION:
            raise BadRequest(
                f"version {request.kaasq} of the protocol; this worker speaks {PROTOCOL_VERSION}", at="kaasq"
            )
        return request.with_graph(self._graph(request.graph, json=json))

    def _graph(self, raw: msgspec.Raw, *, json: bool) -> GraphSpec | str:
        encoded = bytes(raw)
        known = self._by_bytes.get(encoded)
        if known is not None:
            return known
        graph: GraphSpec | str = _graphs.read(encoded, json=json, prefix="graph")
        if isinstance(graph, str):
            return self._by_hash.get(graph, graph)
        graph = check_graph(graph, self._limits)
        self._room -= len(encoded)
        # Oldest first: a graph in use is sent again, and remembered.
        while self._by_bytes and (len(self._by_bytes) >= self._capacity or self._room < 0):
            oldest = next(iter(self._by_bytes))
            dropped = self._by_bytes.pop(oldest)
            self._room += len(oldest)
            if self._by_hash.get(dropped.hash) is dropped:  # else known by another encoding, too
                del self._by_hash[dropped.hash]
        self._by_bytes[encoded] = graph
        self._by_hash[graph.hash] = graph
        return graph
