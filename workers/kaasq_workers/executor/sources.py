"""What a request's buffers start from: bytes of the request, or parts of stored objects. Looked up and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kaasq.bindings import check_bindings
from kaasq.errors import BadRequest, BufferMissing, BufferSize
from kaasq.messages import Request, Stored
from kaasq.model import Buffer, GraphSpec
from kaasq_storage import BufferStore, Object, Wanted
from kaasq_workers.executor.resident import Left, Taken


class Part(NamedTuple):
    """Part of a stored object: as many bytes as its buffer has, from ``offset`` on."""

    object: Object
    offset: int


Source = bytes | Part | Left
"""What an input starts from."""


def resolve(
    store: BufferStore, tenant: str, graph: GraphSpec, request: Request, resident: Mapping[str, Taken] | None = None
) -> dict[str, Source]:
    """The source of each bound buffer, but for those that are ``resident``.

    Raises what ``check_bindings`` does, BadRequest, BufferMissing, BufferSize.
    """
    sources: dict[str, Source] = {}
    sizes: dict[str, int | None] = {}
    for name, taken in (resident or {}).items():
        buffer, left = graph.buffer(name), taken.resident.nbytes - taken.offset
        sizes[name] = buffer.nbytes if buffer is not None and buffer.nbytes <= left else left
    wanted: dict[str, Stored] = {}
    for name, bound in request.bind.items():
        if isinstance(bound, bytes):
            sources[name], sizes[name] = bound, len(bound)
        else:
            wanted[name] = bound
    if wanted:
        for (name, bound), stored in zip(wanted.items(), _find(store, tenant, wanted), strict=True):
            sources[name] = Part(stored, bound.offset or 0)
            sizes[name] = stored.nbytes if bound.offset is None else None
            buffer = graph.buffer(name)
            if buffer is not None and bound.offset is not None:
                _check_part(buffer, bound.offset, stored)
    check_bindings(graph, sizes, request.scalars, request.keep)
    return sources


def missing(buffer: str, bound: Stored) -> BufferMissing:
    """The error for a binding that the store has nothing for."""
    what = f"name {bound.name!r}" if bound.name is not None else f"object {bound.ref}"
    return BufferMissing(
        f"buffer {buffer!r} is bound to {what}, which the worker's store does not hold (never put there, deleted, "
        "expired, or put into another store)",
        buffer=buffer,
        ref=bound.ref,
        name=bound.name,
    )


def _find(store: BufferStore, tenant: str, wanted: dict[str, Stored]) -> list[Object]:
    """Each of them as it is now: a name may have moved since the last request."""
    for buffer, bound in wanted.items():
        if (bound.ref is None) == (bound.name is None):
            raise BadRequest("needs either ref or name", at=f"bind.{buffer}")
    found: list[Object] = []
    looked_up = store.lookup_all(tenant, [Wanted(each.ref, each.name) for each in wanted.values()])
    for (buffer, bound), stored in zip(wanted.items(), looked_up, strict=True):
        if stored is None:
            raise missing(buffer, bound)
        found.append(stored)
    return found


def _check_part(buffer: Buffer, offset: int, stored: Object) -> None:
    if not 0 <= offset <= stored.nbytes - buffer.nbytes:
        raise BufferSize(
            f"buffer {buffer.name!r} takes {buffer.nbytes} bytes from offset {offset} on, "
            f"but the stored object has {stored.nbytes}",
            buffer=buffer.name,
            expected=offset + buffer.nbytes,
            given=stored.nbytes,
        )
