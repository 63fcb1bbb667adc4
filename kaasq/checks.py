"""Checks a graph before anything runs and gives it its normal form. Pure: data in, data or BadRequest out."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from kaasq.dtypes import BUFFER_DTYPES, SCALAR_DTYPES, canonical, pack_number, shown, unpack_number
from kaasq.errors import BadRequest
from kaasq.model import BUILTINS, Buffer, Constant, GraphSpec, Launch, Module, Number, Scalar, dim3
from kaasq.names import check_printable, is_graph_name
from kaasq.setting_values import Bytes, SomeBytes
from kaasq.signing import SIGNATURE_BYTES

MODULE_OPTION = re.compile(r"-D\w+(=[\w.+-]*)?|-{1,2}std=c\+\+(11|14|17|20)|-{1,2}use_fast_math|-fmad=(true|false)")

GRID_LIMIT = (2**31 - 1, 65535, 65535)
BLOCK_LIMIT = (1024, 1024, 64)
THREADS_PER_BLOCK = 1024
SHARED_BYTES = 2**31 - 1  # what a launch can ask for; how much there is, each device knows
DIMENSIONS = 32  # what NumPy has always been able to take
ARGUMENTS = 4096  # of one launch: as many pointers as its parameters have bytes for
ATTRIBUTES = 64  # of one built-in
ATTRIBUTE_ITEMS = 1024  # of one attribute's list, or characters of its text
KERNEL_NAME = 4096  # characters; templates of templates have long names
PARAMETER_BYTES = 32764  # what CUDA 12.1 and later pass to a kernel at most

_ONE = (1, (1,), (1, 1), (1, 1, 1))


_Count = Annotated[int, msgspec.Meta(ge=0)]
_Some = Annotated[int, msgspec.Meta(ge=1)]


class GraphLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a graph may be, and how many may follow one. Counts, and bytes where the name says so."""

    name_length: _Some = 128
    buffers: _Some = 4096
    scalars: _Count = 1024
    launches: _Some = 100_000
    iterations: _Some = 1_000_000
    module_bytes: Bytes = 16 << 20
    buffer_bytes: SomeBytes = 1 << 40
    continuations: _Count = 256
    continuations_deep: _Count = 128
    continuations_bytes: Bytes = 64 << 20
    """Of all messages that are published when one request has completed: a graph that several take is in each."""
    repeats: _Count = 1_000_000
    steps: _Count = 1000
    """Of a workflow."""
    items: _Count = 10_000
    """Of one map of a workflow."""
    items_together: _Count = 100_000
    """Of all steps of a workflow; a step that is in no map has one."""
    waiting: _Count = 64
    """Who wait for one workflow, besides who started it; the earliest is told to ask again when one more comes."""
    listed: _Count = 100_000
    """Of all lists together that are bound to a workflow when it starts."""
    retries: _Count = 100
    """Of one step of a workflow."""


def check_graph(spec: GraphSpec, limits: GraphLimits) -> GraphSpec:
    """The graph in its normal form: sizes filled in, dtypes by NumPy's names, modules keyed by hash, (x, y, z).

    Two graphs that mean the same have one normal form, hence one hash. Raises BadRequest with the place.
    """
    check_graph_name(spec.name, limits.name_length)
    _at_most(len(spec.buffers), limits.buffers, "buffers", "graph.buffers")
    _at_most(len(spec.scalars), limits.scalars, "scalars", "graph.scalars")
    _at_most(len(spec.launches), limits.launches, "launches", "graph.launches")
    if not 1 <= spec.iterations <= limits.iterations:
        raise BadRequest(f"must be from 1 to {limits.iterations}, is {shown(spec.iterations)}", at="graph.iterations")
    if not spec.launches:
        raise BadRequest("a graph needs at least one launch", at="graph.launches")

    buffers = tuple(check_buffer(each, f"graph.buffers[{i}]", limits) for i, each in enumerate(spec.buffers))
    scalars = tuple(check_scalar(each, f"graph.scalars[{i}]") for i, each in enumerate(spec.scalars))
    names: set[str] = set()
    for at, name in [
        *((f"graph.buffers[{i}].name", each.name) for i, each in enumerate(buffers)),
        *((f"graph.scalars[{i}].name", each.name) for i, each in enumerate(scalars)),
    ]:
        if name in names:
            raise BadRequest(f"{name!r} is declared twice (buffers and scalars share one namespace)", at=at)
        names.add(name)

    if BUILTINS in spec.modules:
        raise BadRequest(f"{BUILTINS!r} stands for the built-ins; call the module something else", at="graph.modules")
    for label, module in spec.modules.items():
        _module(module, f"graph.modules[{label[:64]!r}]", limits)
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


def check_graph_name(name: object, most: int | None = None) -> None:
    """Whether a graph may be called so; ``most`` characters, where the limit is known. Raises BadRequest."""
    if not isinstance(name, str) or not is_graph_name(name) or (most is not None and len(name) > most):
        bound = "" if most is None else f", at most {most} characters"
        raise BadRequest(
            f"{name!r:.66} is no graph name: use letters, digits, '_', '-', with dots between words{bound}",
            at="graph.name",
        )


def _normal(dtype: str, value: Number, at: str) -> Number:
    """The number that the kernel sees: 2, 2.0 and 0.1 rounded to float32 have one spelling each, hence one hash."""
    return unpack_number(dtype, pack_number(dtype, value, at))


def check_buffer(buffer: Buffer, at: str, limits: GraphLimits) -> Buffer:
    """The buffer in its normal form. Raises BadRequest."""
    check_printable(buffer.name, f"{at}.name")
    place = f"{at} ({buffer.name!r})"
    dtype: str | None = None
    if buffer.dtype is not None:
        dtype = canonical(buffer.dtype)
        if dtype not in BUFFER_DTYPES:
            raise BadRequest(f"{buffer.dtype[:64]!r} is no dtype; known are {', '.join(BUFFER_DTYPES)}", at=place)
    if buffer.shape is not None and len(buffer.shape) > DIMENSIONS:
        raise BadRequest(f"shape has {len(buffer.shape)} dimensions; at most {DIMENSIONS} are possible", at=place)
    if buffer.shape is not None and not all(0 <= each <= limits.buffer_bytes for each in buffer.shape):
        raise BadRequest(f"a dimension of the shape is negative or above {limits.buffer_bytes}", at=place)
    if buffer.shape is not None and dtype is None:
        raise BadRequest("a shape needs a dtype", at=place)
    if buffer.const and buffer.role != "input":
        raise BadRequest(f"only an input can be const, the role of this one is {buffer.role}", at=place)
    if buffer.nbytes < -1:
        raise BadRequest(f"nbytes is {shown(buffer.nbytes)}", at=place)
    implied = Buffer(name=buffer.name, role=buffer.role, dtype=dtype, shape=buffer.shape).size
    if implied >= 0 and buffer.nbytes >= 0 and implied != buffer.nbytes:
        raise BadRequest(
            f"nbytes is {shown(buffer.nbytes)}, but shape {buffer.shape} of {dtype} takes {shown(implied)}", at=place
        )
    nbytes = max(implied, buffer.nbytes)
    if nbytes < 0:
        raise BadRequest("needs nbytes, or shape and dtype", at=place)
    if nbytes == 0:
        raise BadRequest("is empty: a buffer has at least one byte", at=place)
    if nbytes > limits.buffer_bytes:
        raise BadRequest(f"nbytes is {shown(nbytes)}, the limit is {limits.buffer_bytes}", at=place)
    return Buffer(
        name=buffer.name, role=buffer.role, nbytes=nbytes, dtype=dtype, shape=buffer.shape, const=buffer.const
    )


def check_scalar(scalar: Scalar, at: str) -> Scalar:
    """The scalar in its normal form. Raises BadRequest."""
    check_printable(scalar.name, f"{at}.name")
    dtype = canonical(scalar.dtype)
    if dtype not in SCALAR_DTYPES:
        raise BadRequest(
            f"{scalar.dtype[:64]!r} is no scalar dtype; known are {', '.join(SCALAR_DTYPES)}",
            at=f"{at} ({scalar.name!r})",
        )
    default = None if scalar.default is None else _normal(dtype, scalar.default, f"{at}.default")
    return Scalar(name=scalar.name, dtype=dtype, default=default)


def _module(module: Module, at: str, limits: GraphLimits) -> None:
    if module.signature and len(module.signature) != SIGNATURE_BYTES:
        raise BadRequest(f"has {len(module.signature)} bytes, expected {SIGNATURE_BYTES}", at=f"{at}.signature")
    if module.kind == "source":
        if not module.source.strip():
            raise BadRequest("the source is empty", at=at)
        if module.code:
            raise BadRequest("a source module has its text in 'source', not in 'code'", at=at)
        if "\0" in module.source:
            raise BadRequest("the source contains a NUL character", at=at)
    elif module.kind == "library":
        check_printable(module.path, f"{at}.path")
        if module.code or module.source:
            raise BadRequest("a library is named by its path alone, without 'source' or 'code'", at=at)
    elif not module.code:
        raise BadRequest(f"a {module.kind} module needs its bytes in 'code'", at=at)
    elif module.source:
        raise BadRequest(f"a {module.kind} module has its bytes in 'code', and no 'source'", at=at)
    if module.path and module.kind != "library":
        raise BadRequest(f"a {module.kind} module has no path; kind 'library' has", at=f"{at}.path")
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
    _at_most(len(launch.args), ARGUMENTS, "arguments", f"{at}.args")
    if launch.module == BUILTINS:
        return _call(launch, at, names)
    if launch.module not in modules:
        raise BadRequest(f"the graph has no module {launch.module[:64]!r}", at=f"{at}.module")
    if launch.attrs:
        raise BadRequest("only a built-in has attributes", at=f"{at}.attrs")
    kernel = launch.kernel.strip()
    if not kernel:
        raise BadRequest("the kernel's name is empty", at=f"{at}.kernel")
    _at_most(len(kernel), KERNEL_NAME, "characters", f"{at}.kernel")
    check_shape(launch, at)
    return Launch(
        module=modules[launch.module].hash,
        kernel=kernel,
        grid=dim3(launch.grid),
        block=dim3(launch.block),
        args=tuple([_arg(arg, at, i, names) for i, arg in enumerate(launch.args)]),
        shared_bytes=launch.shared_bytes,
    )


def check_shape(launch: Launch, at: str) -> None:
    """Whether any device could launch such a grid of such blocks. Raises BadRequest."""
    flaw = _misshapen(launch.grid, launch.block)
    if not 0 <= launch.shared_bytes <= SHARED_BYTES:
        flaw = flaw or f"shared_bytes is {shown(launch.shared_bytes)}; from 0 to {SHARED_BYTES} is possible"
    if flaw:
        raise BadRequest(flaw, at=f"{at} ({launch.kernel[:64]})")


def _call(launch: Launch, at: str, names: set[str]) -> Launch:
    """A built-in's launch. Whether it fits its signature is for ``kaasq.builtins``: not everybody has them all."""
    check_printable(launch.kernel, f"{at}.kernel")
    shaped = launch.grid not in _ONE or launch.block not in _ONE
    if shaped or launch.shared_bytes:
        raise BadRequest("a built-in has neither grid nor block nor shared memory", at=f"{at} ({launch.kernel[:64]})")
    _at_most(len(launch.attrs), ATTRIBUTES, "attributes", f"{at}.attrs")
    for name, value in launch.attrs.items():
        check_printable(name, f"{at}.attrs")
        _attribute(value, f"{at}.attrs.{name}")
    args = tuple([_arg(arg, at, i, names) for i, arg in enumerate(launch.args)])
    return Launch(module=BUILTINS, kernel=launch.kernel, args=args, attrs=launch.attrs)


def _attribute(value: object, at: str) -> None:
    match value:
        case tuple():
            _at_most(len(value), ATTRIBUTE_ITEMS, "items", at)
            for each in value:
                _attribute(each, at)
        case str():
            _at_most(len(value), ATTRIBUTE_ITEMS, "characters", at)
        case int() if not -(2**63) <= value < 2**64:
            raise BadRequest(f"{shown(value)} does not fit 64 bits", at=at)


@functools.lru_cache(maxsize=1024)  # most launches of a graph have one of a few shapes
def _misshapen(grid: int | tuple[int, ...], block: int | tuple[int, ...]) -> str:
    """What is wrong with a grid and its blocks; empty if nothing is."""
    for what, given, bounds in (("grid", grid, GRID_LIMIT), ("block", block, BLOCK_LIMIT)):
        if isinstance(given, tuple) and not 1 <= len(given) <= 3:
            return f"{what} has {len(given)} dimensions; 1 to 3 are possible"
        for axis, size, bound in zip("xyz", dim3(given), bounds, strict=True):
            if not 1 <= size <= bound:
                return f"{what}.{axis} is {shown(size)}; from 1 to {bound} is possible"
    threads = math.prod(dim3(block))
    if threads > THREADS_PER_BLOCK:
        return f"a block of {threads} threads; at most {THREADS_PER_BLOCK} are possible"
    return ""


def _arg(arg: str | Constant, launch: str, index: int, names: set[str]) -> str | Constant:
    if isinstance(arg, str):
        if arg not in names:
            raise BadRequest(f"the graph has no buffer or scalar {arg[:64]!r}", at=f"{launch}.args[{index}]")
        return arg
    at = f"{launch}.args[{index}]"
    if arg.dtype == "bytes":
        if not 1 <= len(arg.data) <= PARAMETER_BYTES:
            raise BadRequest(f"a struct of {len(arg.data)} bytes; 1 to {PARAMETER_BYTES} are possible", at=at)
        return Constant(dtype="bytes", data=arg.data)
    dtype = canonical(arg.dtype)
    if dtype not in SCALAR_DTYPES:
        raise BadRequest(f"{arg.dtype[:64]!r} is no scalar dtype; known are {', '.join(SCALAR_DTYPES)}", at=at)
    return Constant(dtype=dtype, value=_normal(dtype, arg.value, at))


def _at_most(count: int, limit: int, what: str, at: str) -> None:
    if count > limit:
        raise BadRequest(f"{count} {what}; the limit is {limit}", at=at)
