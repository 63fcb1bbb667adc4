"""Checks a graph and what a request binds to it, before anything runs. Pure: data in, data or BadRequest out."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np

from kaasq.dtypes import BUFFER_DTYPES, SCALAR_DTYPES, canonical
from kaasq.errors import BadRequest, BufferMissing, BufferSize
from kaasq.model import Buffer, Constant, GraphSpec, Launch, Module, Number, Scalar, dim3

GRAPH_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
BUFFER_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
MODULE_OPTION = re.compile(r"-D\w+(=[\w.+-]*)?|-{1,2}std=c\+\+(11|14|17|20)|-{1,2}use_fast_math|-fmad=(true|false)")

NAME_BYTES = 400  # of a name in the store, in UTF-8: LMDB's keys have at most 511 bytes, the tenant included

GRID_LIMIT = (2**31 - 1, 65535, 65535)
BLOCK_LIMIT = (1024, 1024, 64)
THREADS_PER_BLOCK = 1024
DIMENSIONS = 32  # what NumPy has always been able to take
PARAMETER_BYTES = 32764  # what CUDA 12.1 and later pass to a kernel at most


class GraphLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a graph may be. Counts, and bytes where the name says so."""

    name_length: int = 128
    buffers: int = 4096
    scalars: int = 1024
    launches: int = 100_000
    iterations: int = 1_000_000
    module_bytes: int = 16 << 20
    buffer_bytes: int = 1 << 40


def check_graph(spec: GraphSpec, limits: GraphLimits) -> GraphSpec:
    """The graph in its normal form: sizes filled in, dtypes by NumPy's names, modules keyed by hash, (x, y, z).

    Two graphs that mean the same have one normal form, hence one hash. Raises BadRequest with the place.
    """
    if len(spec.name) > limits.name_length or not GRAPH_NAME.fullmatch(spec.name):
        raise BadRequest(
            f"{spec.name[:64]!r} is no graph name: use letters, digits, '_', '-', with dots between words, "
            f"at most {limits.name_length} characters",
            at="graph.name",
        )
    _at_most(len(spec.buffers), limits.buffers, "buffers", "graph.buffers")
    _at_most(len(spec.scalars), limits.scalars, "scalars", "graph.scalars")
    _at_most(len(spec.launches), limits.launches, "launches", "graph.launches")
    if not 1 <= spec.iterations <= limits.iterations:
        raise BadRequest(f"must be from 1 to {limits.iterations}, is {spec.iterations}", at="graph.iterations")
    if not spec.launches:
        raise BadRequest("a graph needs at least one launch", at="graph.launches")

    buffers = tuple(_buffer(each, f"graph.buffers[{i}]", limits) for i, each in enumerate(spec.buffers))
    scalars = tuple(_scalar(each, f"graph.scalars[{i}]") for i, each in enumerate(spec.scalars))
    names: set[str] = set()
    for at, name in [
        *((f"graph.buffers[{i}].name", each.name) for i, each in enumerate(buffers)),
        *((f"graph.scalars[{i}].name", each.name) for i, each in enumerate(scalars)),
    ]:
        if name in names:
            raise BadRequest(f"{name!r} is declared twice (buffers and scalars share one namespace)", at=at)
        names.add(name)

    for label, module in spec.modules.items():
        _module(module, f"graph.modules[{label!r}]", limits)
    launches = tuple(_launch(each, f"graph.launches[{i}]", names, spec.modules) for i, each in enumerate(spec.launches))
    used = {arg for launch in launches for arg in launch.args if isinstance(arg, str)}
    for i, buffer in enumerate(buffers):
        if buffer.name not in used:
            consequence = {
                "input": "is never used",
                "inout": "is never used",
                "output": "is never written",
                "temp": "is never written",
            }[buffer.role]
            raise BadRequest(
                f"{buffer.role} {buffer.name!r} {consequence}: no launch takes it", at=f"graph.buffers[{i}]"
            )
    referenced = {launch.module for launch in launches}
    return GraphSpec(
        name=spec.name,
        buffers=buffers,
        scalars=scalars,
        modules={each.hash: each for each in spec.modules.values() if each.hash in referenced},
        launches=launches,
        iterations=spec.iterations,
    )


def check_bindings(
    graph: GraphSpec, sizes: Mapping[str, int | None], scalars: Mapping[str, Number], keep: Mapping[str, str]
) -> None:
    """Whether a request's bindings fit the graph. ``sizes``: bytes bound per buffer, None where not yet known.

    Raises BadRequest, BufferMissing, BufferSize.
    """
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


def check_name(name: str, at: str | None = None) -> bytes:
    """A name's bytes as the store keeps them. Raises BadRequest for what is no name."""
    if not BUFFER_NAME.fullmatch(name):
        raise BadRequest(f"{name[:64]!r} is no name: 1 to 200 printable characters", at=at)
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{name[:64]!r} is no name: it cannot be written in UTF-8", at=at) from None
    if len(encoded) > NAME_BYTES:
        raise BadRequest(f"{name[:64]!r}... takes {len(encoded)} bytes in UTF-8; a name may take {NAME_BYTES}", at=at)
    return encoded


def pack_number(dtype: str, value: Number, at: str) -> bytes:
    """The value's bytes as the kernel's parameter of that type sees them. Raises BadRequest if it does not fit."""
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        if isinstance(value, float) and not value.is_integer():
            raise BadRequest(f"{value!r} is no {dtype}", at=at)
        if not bounds.min <= value <= bounds.max:
            raise BadRequest(f"{value} does not fit {dtype} ({bounds.min} to {bounds.max})", at=at)
        return int(value).to_bytes(kind.itemsize, "little", signed=kind.kind == "i")
    if kind.kind == "b":
        return b"\1" if value else b"\0"
    try:
        return struct.pack({2: "<e", 4: "<f", 8: "<d"}[kind.itemsize], value)
    except (OverflowError, struct.error):  # the latter for an int and float16
        raise BadRequest(f"{value} does not fit {dtype}", at=at) from None


def _normal(dtype: str, value: Number, at: str) -> Number:
    """The number that the kernel sees: 2, 2.0 and 0.1 rounded to float32 have one spelling each, hence one hash."""
    number: Number = np.frombuffer(pack_number(dtype, value, at), np.dtype(dtype).newbyteorder("<"))[0].item()
    return number


def _buffer(buffer: Buffer, at: str, limits: GraphLimits) -> Buffer:
    if not BUFFER_NAME.fullmatch(buffer.name):
        raise BadRequest(f"{buffer.name[:64]!r} is no name: 1 to 200 printable characters", at=f"{at}.name")
    place = f"{at} ({buffer.name!r})"
    dtype = buffer.dtype
    if dtype is not None:
        dtype = canonical(dtype)
        if dtype not in BUFFER_DTYPES:
            raise BadRequest(f"{buffer.dtype!r} is no dtype; known are {', '.join(BUFFER_DTYPES)}", at=place)
    if buffer.shape is not None and len(buffer.shape) > DIMENSIONS:
        raise BadRequest(f"shape has {len(buffer.shape)} dimensions; at most {DIMENSIONS} are possible", at=place)
    if buffer.shape is not None and not all(0 <= each <= limits.buffer_bytes for each in buffer.shape):
        raise BadRequest(f"a dimension of the shape is negative or above {limits.buffer_bytes}", at=place)
    if buffer.shape is not None and dtype is None:
        raise BadRequest("a shape needs a dtype", at=place)
    if buffer.const and buffer.role != "input":
        raise BadRequest(f"only an input can be const, this is {_article(buffer.role)}", at=place)
    if buffer.nbytes < -1:
        raise BadRequest(f"nbytes is {buffer.nbytes}", at=place)
    implied = Buffer(name=buffer.name, role=buffer.role, dtype=dtype, shape=buffer.shape).size
    if implied >= 0 and buffer.nbytes >= 0 and implied != buffer.nbytes:
        raise BadRequest(f"nbytes is {buffer.nbytes}, but shape {buffer.shape} of {dtype} takes {implied}", at=place)
    nbytes = max(implied, buffer.nbytes)
    if nbytes < 0:
        raise BadRequest("needs nbytes, or shape and dtype", at=place)
    if nbytes == 0:
        raise BadRequest("is empty: a buffer has at least one byte", at=place)
    if nbytes > limits.buffer_bytes:
        raise BadRequest(f"has {nbytes} bytes, the limit is {limits.buffer_bytes}", at=place)
    return Buffer(
        name=buffer.name, role=buffer.role, nbytes=nbytes, dtype=dtype, shape=buffer.shape, const=buffer.const
    )


def _scalar(scalar: Scalar, at: str) -> Scalar:
    if not BUFFER_NAME.fullmatch(scalar.name):
        raise BadRequest(f"{scalar.name[:64]!r} is no name: 1 to 200 printable characters", at=f"{at}.name")
    dtype = canonical(scalar.dtype)
    if dtype not in SCALAR_DTYPES:
        raise BadRequest(
            f"{scalar.dtype!r} is no scalar dtype; known are {', '.join(SCALAR_DTYPES)}",
            at=f"{at} ({scalar.name!r})",
        )
    default = None if scalar.default is None else _normal(dtype, scalar.default, f"{at}.default")
    return Scalar(name=scalar.name, dtype=dtype, default=default)


def _module(module: Module, at: str, limits: GraphLimits) -> None:
    if module.kind == "source":
        if not module.source.strip():
            raise BadRequest("the source is empty", at=at)
        if module.code:
            raise BadRequest("a source module has its text in 'source', not in 'code'", at=at)
        if "\0" in module.source:
            raise BadRequest("the source contains a NUL character", at=at)
    elif not module.code:
        raise BadRequest(f"a {module.kind} module needs its bytes in 'code'", at=at)
    size = len(module.source) + len(module.code)
    if size > limits.module_bytes:
        raise BadRequest(f"has {size} bytes, the limit is {limits.module_bytes}", at=at)
    for option in module.options:
        if not MODULE_OPTION.fullmatch(option):
            raise BadRequest(
                f"option {option[:64]!r} is not allowed; allowed are -DNAME[=VALUE], -std=c++11|14|17|20, "
                "--use_fast_math, -fmad=true|false",
                at=f"{at}.options",
            )


def _launch(launch: Launch, at: str, names: set[str], modules: Mapping[str, Module]) -> Launch:
    if launch.module not in modules:
        raise BadRequest(f"the graph has no module {launch.module[:64]!r}", at=f"{at}.module")
    if not launch.kernel.strip():
        raise BadRequest("the kernel's name is empty", at=f"{at}.kernel")
    place = f"{at} ({launch.kernel})"
    for what, given, bounds in (
        ("grid", launch.grid, GRID_LIMIT),
        ("block", launch.block, BLOCK_LIMIT),
    ):
        if isinstance(given, tuple) and not 1 <= len(given) <= 3:
            raise BadRequest(f"{what} has {len(given)} dimensions; 1 to 3 are possible", at=place)
        for axis, size, bound in zip("xyz", dim3(given), bounds, strict=True):
            if not 1 <= size <= bound:
                raise BadRequest(f"{what}.{axis} is {size}; from 1 to {bound} is possible", at=place)
    threads = math.prod(dim3(launch.block))
    if threads > THREADS_PER_BLOCK:
        raise BadRequest(f"a block of {threads} threads; at most {THREADS_PER_BLOCK} are possible", at=place)
    if launch.shared_bytes < 0:
        raise BadRequest(f"shared_bytes is {launch.shared_bytes}", at=place)
    args = tuple(_arg(arg, f"{at}.args[{i}]", names) for i, arg in enumerate(launch.args))
    return Launch(
        module=modules[launch.module].hash,
        kernel=launch.kernel.strip(),
        grid=dim3(launch.grid),
        block=dim3(launch.block),
        args=args,
        shared_bytes=launch.shared_bytes,
    )


def _arg(arg: str | Constant, at: str, names: set[str]) -> str | Constant:
    if isinstance(arg, str):
        if arg not in names:
            raise BadRequest(f"the graph has no buffer or scalar {arg[:64]!r}", at=at)
        return arg
    if arg.dtype == "bytes":
        if not 1 <= len(arg.data) <= PARAMETER_BYTES:
            raise BadRequest(f"a struct of {len(arg.data)} bytes; 1 to {PARAMETER_BYTES} are possible", at=at)
        return Constant(dtype="bytes", data=arg.data)
    dtype = canonical(arg.dtype)
    if dtype not in SCALAR_DTYPES:
        raise BadRequest(f"{arg.dtype!r} is no scalar dtype; known are {', '.join(SCALAR_DTYPES)}", at=at)
    return Constant(dtype=dtype, value=_normal(dtype, arg.value, at))


def _at_most(count: int, limit: int, what: str, at: str) -> None:
    if count > limit:
        raise BadRequest(f"{count} {what}; the limit is {limit}", at=at)


def _listed(items: tuple[Buffer, ...] | tuple[Scalar, ...]) -> str:
    def shown() -> Iterator[str]:
        yield from (repr(each.name) for each in items[:20])
        if len(items) > 20:
            yield "..."

    return ", ".join(shown()) or "none"


def _article(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
