"""Arrays and requests in files, for the command line: .npy or raw bytes, JSON or MessagePack. No pickles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kaasq import codec
from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest
from kaasq.kaas.format import Envelope, KernelSpec
from kaasq.messages import PROTOCOL_VERSION, Request
from kaasq.model import GraphSpec
from kaasq_producers.buffers import Array
from kaasq_producers.commands.unknown_keys import unknown_keys

NPY = ".npy"
STANDARD = Path("-")  # standard input or output, as raw bytes
MAPS = {bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF)}  # how MessagePack's maps begin


class _Top(msgspec.Struct):
    """Enough of a file to see whether it is a request, a graph alone, a request in the KaaS format, or a workflow."""

    graph: msgspec.Raw = msgspec.Raw()
    kernels: msgspec.Raw = msgspec.Raw()
    name: msgspec.Raw = msgspec.Raw()
    buffers: msgspec.Raw = msgspec.Raw()
    launches: msgspec.Raw = msgspec.Raw()
    workflow: msgspec.Raw = msgspec.Raw()
    steps: msgspec.Raw = msgspec.Raw()
    kaasq: int = PROTOCOL_VERSION


class _Kaas(Envelope, frozen=True, kw_only=True):
    """What a file in the KaaS format may say."""

    kernels: tuple[KernelSpec, ...] = ()  # type: ignore[assignment]  # decoded, where the envelope leaves it encoded


def read_value(path: Path) -> Array | bytes:
    """An array from a .npy file, the bytes of any other; "-" is standard input. Raises BadRequest."""
    try:
        if path == STANDARD:
            return sys.stdin.buffer.read()
        if path.suffix != NPY:
            return path.read_bytes()
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(path)) from None
    except (ValueError, EOFError) as error:
        raise BadRequest(f"no valid .npy file: {error}", at=str(path)) from None
    if not isinstance(loaded, np.ndarray):
        raise BadRequest("an .npz archive holds several arrays; save the one as .npy", at=str(path))
    return loaded


def write_value(path: Path, array: Array) -> None:
    """Write a .npy file, or the bytes alone under any other name; "-" is standard output. Raises BadRequest."""
    try:
        if path == STANDARD:
            sys.stdout.buffer.write(np.ascontiguousarray(array).tobytes())
            sys.stdout.buffer.flush()
            return
        with path.open("wb") as file:
            if path.suffix == NPY:
                np.save(file, array, allow_pickle=False)
            else:
                file.write(np.ascontiguousarray(array).tobytes())
    except OSError as error:
        raise BadRequest(f"cannot write it: {error.strerror}", at=str(path)) from None


def read_request(path: str, limits: GraphLimits) -> tuple[Request, list[str]]:
    """A request, or a graph alone as a request that binds nothing; "-" is standard input. Raises BadRequest.

    With it, what the file says in vain: its unknown keys.
    """
    body, kind = read_message(path, "request")
    try:
        return _read(body, kind, limits)
    except BadRequest as error:
        raise BadRequest(error.message, at=called(path)) from None


def read_message(path: str, what: str) -> tuple[bytes, str]:
    """A file's bytes and their content type; "-" is standard input. Raises BadRequest for what is no message."""
    try:
        body = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=path) from None
    kind = {".json": codec.JSON, ".msgpack": codec.MSGPACK}.get(Path(path).suffix)
    if kind is None:
        kind = codec.JSON if codec.is_json(body, None) else codec.MSGPACK
    if kind == codec.MSGPACK and body[:1] not in MAPS:
        raise BadRequest(f"is no {what}: expected a JSON object or a MessagePack map", at=called(path))
    return body, kind


def _read(body: bytes, kind: str, limits: GraphLimits) -> tuple[Request, list[str]]:
    top = codec.decode(body, kind, _Top)
    codec.check_version(top.kaasq)
    if bytes(top.workflow) or (bytes(top.steps) and not bytes(top.graph)):
        raise BadRequest("is a workflow, not a request: `kaasq flow run` runs it")
    if bytes(top.kernels):
        return codec.RequestDecoder(limits).decode(body, kind), unknown_keys(builtins_of(body, kind), _Kaas)
    if not bytes(top.graph):
        if not any(map(bytes, (top.name, top.buffers, top.launches))):
            raise BadRequest(
                "is no request: expected one with `graph`, a graph alone (`name`, `buffers`, `launches`), or one in "
                "the KaaS format (`kernels`)"
            )
        return Request(graph=codec.decode(body, kind, GraphSpec)), unknown_keys(builtins_of(body, kind), GraphSpec)
    request = codec.decode(body, kind, Request)
    if isinstance(request.graph, str):
        raise BadRequest("holds a graph's hash only; a request in a file needs the graph whole", at="graph")
    if request.then:  # their graphs may stand under `graphs`
        request = codec.RequestDecoder(limits).decode(body, kind)
    return request, unknown_keys(builtins_of(body, kind), Request)


def called(path: str) -> str:
    """What errors call a file."""
    return "standard input" if path == "-" else path


def builtins_of(body: bytes, kind: str) -> Any:
    """A message as plain builtins."""
    return msgspec.json.decode(body) if kind == codec.JSON else msgspec.msgpack.decode(body)
