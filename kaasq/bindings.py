"""Checks what a request binds to a graph, before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from kaasq.dtypes import pack_number
from kaasq.errors import BadRequest, BufferMissing, BufferSize
from kaasq.model import Buffer, GraphSpec, Number, Scalar
from kaasq.names import check_name


def check_bindings(
    graph: GraphSpec, sizes: Mapping[str, int | None], scalars: Mapping[str, Number], keep: Mapping[str, str]
) -> None:
    """Whether a request's bindings fit the graph. ``sizes``: bytes bound per buffer, None where not yet known.

    Raises BadRequest, BufferMissing, BufferSize.
    """
    if not scalars and not keep and sizes == graph.wanted:
        return  # the usual case, at a glance
    for name, size in sizes.items():
        buffer = graph.buffer(name)
        if buffer is None:
            raise BadRequest(f"the graph has no buffer {name!r}; it has {_listed(graph.buffers)}", at=f"bind.{name}")
        if not buffer.given:
            raise BadRequest(f"{name!r} is {_article(buffer.role)}: nothing can be bound to it", at=f"bind.{name}")
        if size is not None and size != buffer.nbytes:
            raise BufferSize(buffer=name, expected=buffer.nbytes, given=size)
    for buffer in graph.buffers:
        if buffer.given and buffer.name not in sizes:
            raise BufferMissing(f"nothing is bound to {buffer.role} {buffer.name!r}", buffer=buffer.name)
    declared = {each.name: each for each in graph.scalars}
    for name, value in scalars.items():
        if name not in declared:
            raise BadRequest(f"the graph has no scalar {name!r}; it has {_listed(graph.scalars)}", at=f"scalars.{name}")
        pack_number(declared[name].dtype, value, f"scalars.{name}")
    for scalar in graph.scalars:
        if scalar.default is None and scalar.name not in scalars:
            raise BadRequest(f"scalar {scalar.name!r} has no default and was not given", at=f"scalars.{scalar.name}")
    if len(set(keep.values())) < len(keep):
        raise BadRequest("two outputs cannot be kept under one name", at="keep")
    for name, target in keep.items():
        kept = graph.buffer(name)
        if kept is None or not kept.returned:
            raise BadRequest(f"only an output or inout can be kept; {name!r} is none", at=f"keep.{name}")
        check_name(target, f"keep.{name}")


def check_dtype(buffer: Buffer, dtype: str | None, what: str, at: str) -> None:
    """Whether a buffer may hold what has that dtype: shapes may differ, it is the same bytes. Raises BadRequest."""
    if buffer.dtype is not None and dtype is not None and buffer.dtype != dtype:
        raise BadRequest(
            f"{buffer.role} {buffer.name!r} holds {buffer.dtype}, {what} {dtype}",
            at=at,
            expected=buffer.dtype,
            given=dtype,
        )


def check_cast(dtype: str, declared: str, what: str, at: str) -> None:
    """Whether a number of that dtype may become a scalar of the declared one. Raises BadRequest."""
    if not np.can_cast(dtype, declared, "same_kind"):
        raise BadRequest(f"expected {declared}, but {what} has {dtype}", at=at)


def taken_size(buffer: Buffer, offset: int | None, nbytes: int, what: str, at: str) -> int:
    """How many bytes a buffer takes of something that has ``nbytes``: all, or the part from ``offset`` on.

    Raises BufferSize if there is no such part.
    """
    if offset is None:
        return nbytes
    if offset + buffer.nbytes > nbytes:
        raise BufferSize(
            f"{at}: buffer {buffer.name!r} takes {buffer.nbytes} bytes from offset {offset} on, but {what} has "
            f"{nbytes}",
            buffer=buffer.name,
            expected=offset + buffer.nbytes,
            given=nbytes,
            at=at,
        )
    return buffer.nbytes


def _listed(items: tuple[Buffer, ...] | tuple[Scalar, ...]) -> str:
    def shown() -> Iterator[str]:
        yield from (repr(each.name) for each in items[:20])
        if len(items) > 20:
            yield "..."

    return ", ".join(shown()) or "none"


def _article(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
