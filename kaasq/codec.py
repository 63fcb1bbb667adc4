"""Bytes to messages and back, in MessagePack and JSON. The one place that decodes what came from outside."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from kaasq.checks import GraphLimits, check_graph
from kaasq.errors import BadRequest
from kaasq.messages import PROTOCOL_VERSION, Reply, Request, RequestOf
from kaasq.model import GraphSpec

MSGPACK = "application/msgpack"
JSON = "application/json"

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at `(?:\$\.?)?([^`]*)`$")
_pack = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")
_json = msgspec.json.Encoder()


def encode(message: msgspec.Struct, content_type: str = MSGPACK) -> bytes:
    """The message's bytes in that content type (bytes inside JSON become base64)."""
    return _json.encode(message) if content_type == JSON else _pack.encode(message)


def canonical(message: msgspec.Struct) -> bytes:
    """The one encoding of a message, whatever order its maps were written in: what is hashed."""
    return _canonical.encode(message)


def decode(body: bytes | memoryview, content_type: str | None, kind: type[T]) -> T:
    """A message of that type from bytes. Raises BadRequest naming the path of what does not fit."""
    try:
        if is_json(body, content_type):
            return msgspec.json.decode(body, type=kind)
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_request(error, content_type) from None


def decode_reply(body: bytes | memoryview, content_type: str | None) -> Reply:
    """A reply from bytes. Raises BadRequest."""
    return decode(body, content_type, Reply)


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
        request = decode(body, JSON if json else MSGPACK, RequestOf[msgspec.Raw])
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
        read = msgspec.json.decode if json else msgspec.msgpack.decode
        try:
            graph: GraphSpec | str = read(encoded, type=GraphSpec | str)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _bad_request(error, JSON if json else MSGPACK, prefix="graph") from None
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


def _bad_request(error: Exception, content_type: str | None, prefix: str = "") -> BadRequest:
    text = str(error)
    found = _AT.search(text)
    if found is None and not isinstance(error, msgspec.ValidationError):
        kind = "JSON" if content_type == JSON else "MessagePack"
        return BadRequest(f"the body is not valid {kind}: {text}", at=prefix or "body")
    path = found.group(1) if found else ""
    at = ".".join(each for each in (prefix, path) if each) if not path.startswith("[") else prefix + path
    return BadRequest(_AT.sub("", text), at=at or "body")


def plain(value: Any) -> Any:
    """A message as plain builtins, for logs and ``--json`` output (bytes become their length)."""
    if isinstance(value, msgspec.Struct):
        value = {field: getattr(value, field) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (bytes, memoryview)):
        return f"<{len(value)} bytes>"
    return value
