"""From the KaaS format to a graph, with what it binds and keeps. Pure: data in, data or BadRequest out."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kaasq.checks import BLOCK_LIMIT, GRID_LIMIT, THREADS_PER_BLOCK, GraphLimits, check_graph
from kaasq.dtypes import pack_number
from kaasq.errors import BadRequest
from kaasq.kaas.format import Dims, Envelope, KernelSpec, LiteralSpec
from kaasq.kaas.request import KaasRequest
from kaasq.kaas.uses import Used, used, uses_of
from kaasq.messages import Stored
from kaasq.model import Buffer, Constant, Dim3, GraphSpec, Launch, Module, dim3
from kaasq.names import check_printable
from kaasq.reading import Reader

DEFAULT_NAME = "kaas"
LITERALS = {"i": "int32", "f": "float32", "d": "float64", "Q": "uint64"}

_kernels = Reader(list[KernelSpec])
_iterations = Reader(int)
_names = Reader(str)
_PLACE = re.compile(r"graph\.(\w+)(?:\[(\d+)\])?(.*)", re.DOTALL)
_FIELDS = {"launches": "kernels", "iterations": "nIter", "name": "name", "buffers": "kernels"}


def translate(envelope: Envelope, limits: GraphLimits, *, json: bool) -> KaasRequest:
    """What the kernels say, as a checked graph whose inputs are bound, and whose outputs are kept, under their keys.

    What else the envelope carries is left to the caller. Raises BadRequest naming the place in the body.
    """
    kernels: list[KernelSpec] = _kernels.read(envelope.kernels, json=json, prefix="kernels")
    places = [f"kernels[{i}]" for i in range(len(kernels))]
    buffers = used([uses_of(kernel, at) for kernel, at in zip(kernels, places, strict=True)])
    graph = GraphSpec(
        name=_optional(_names, envelope.name, "name", DEFAULT_NAME, json=json),
        buffers=tuple(map(_buffer, buffers)),
        modules={_label(each.library): Module.from_library(each.library) for each in kernels},
        launches=tuple(map(_launch, kernels, places)),
        iterations=_optional(_iterations, envelope.nIter, "nIter", 1, json=json),
    )
    try:
        graph = check_graph(graph, limits)
    except BadRequest as error:
        raise _moved(error, buffers) from None
    return KaasRequest(
        graph=graph,
        bind={
            each.spec.name: Stored(name=each.key, offset=each.spec.offset)
            for each in buffers
            if each.role in {"input", "inout"}
        },
        keep={each.spec.name: each.key for each in buffers if each.role in {"output", "inout"}},
    )


def _optional(reader: Reader, raw: msgspec.Raw, field: str, default: Any, *, json: bool) -> Any:
    return reader.read(raw, json=json, prefix=field) if bytes(raw) else default


def _label(library: str) -> str:
    return f"library {library}"  # any label will do, but that of the built-ins


def _buffer(each: Used) -> Buffer:
    return Buffer(name=each.spec.name, role=each.role, nbytes=each.spec.size, const=each.const)


def _launch(kernel: KernelSpec, at: str) -> Launch:
    check_printable(kernel.library, f"{at}.library")
    grid, _ = _dims(kernel, "gridDim", "nGrid", GRID_LIMIT, at)
    block, place = _dims(kernel, "blockDim", "nBlock", BLOCK_LIMIT, at)
    threads = block[0] * block[1] * block[2]
    if threads > THREADS_PER_BLOCK:
        raise BadRequest(f"a block of {threads} threads; at most {THREADS_PER_BLOCK} are possible", at=place)
    literals = [_literal(each, f"{at}.literals[{i}]") for i, each in enumerate(kernel.literals)]
    buffers = [(each[0] if isinstance(each, tuple) else each).name for each in kernel.arguments]
    return Launch(
        module=_label(kernel.library),
        kernel=kernel.kernel,
        grid=grid,
        block=block,
        args=(*literals, *buffers),
        shared_bytes=kernel.sharedSize,
    )


def _dims(kernel: KernelSpec, name: str, other: str, bounds: Dim3, at: str) -> tuple[Dim3, str]:
    """The dimensions, and the place of the field that says them, in either spelling."""
    said: dict[str, Dims] = {each: value for each in (name, other) if (value := getattr(kernel, each)) is not None}
    if not said:
        raise BadRequest(f"needs {name} (or {other}): a whole number, or a list of one to three", at=at)
    if len(said) == 2 and said[name] != said[other]:
        raise BadRequest(f"says something else than {name}, which means the same", at=f"{at}.{other}")
    field, given = next(iter(said.items()))
    place = f"{at}.{field}"
    sizes = (given,) if isinstance(given, int) else given
    if not 1 <= len(sizes) <= 3:
        raise BadRequest(f"has {len(sizes)} dimensions; 1 to 3 are possible", at=place)
    for i, (size, bound) in enumerate(zip(sizes, bounds, strict=False)):
        if not 1 <= size <= bound:
            where = place if isinstance(given, int) else f"{place}[{i}]"
            raise BadRequest(f"is {size}; from 1 to {bound} is possible", at=where)
    return dim3(sizes), place


def _literal(literal: LiteralSpec, at: str) -> Constant:
    dtype = LITERALS.get(literal.type)
    if dtype is None:
        known = ", ".join(f"{letter} ({name})" for letter, name in LITERALS.items())
        raise BadRequest(f"{literal.type[:8]!r} is no type of a literal; known are {known}", at=f"{at}.type")
    pack_number(dtype, literal.val, f"{at}.val")
    return Constant(dtype=dtype, value=literal.val)


def _moved(error: BadRequest, buffers: list[Used]) -> BadRequest:
    """The error of a graph's check with its place in the body it was made from."""
    found = _PLACE.fullmatch(error.detail["at"])
    if found is None or found.group(1) not in _FIELDS:
        return error
    field, index, rest = found.groups()
    if field == "buffers" and index is not None:
        place, rest = buffers[int(index)].at, rest if rest.startswith(".") else ".size"
    else:
        place = _FIELDS[field] if index is None else f"{_FIELDS[field]}[{index}]"
    return BadRequest(error.message.removeprefix(f"{error.detail['at']}: "), at=place + rest)
