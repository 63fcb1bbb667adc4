"""Random valid graphs and requests, and other spellings of them. A new field of the model joins where its struct is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from kaasq.dtypes import BUFFER_DTYPES, SCALAR_DTYPES, itemsize
from kaasq.messages import Request, Stored
from kaasq.model import BUILTINS, Buffer, Constant, GraphSpec, Launch, Module, Number, Scalar

# Printable in the sense of kaasq.names: no control characters, nothing that UTF-8 cannot carry.
names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
words = st.text("abzAZ09_-", min_size=1, max_size=6)
graph_names = st.lists(words, min_size=1, max_size=3).map(".".join)

options = st.lists(
    st.sampled_from(["-DN=4", "-DDEBUG", "-std=c++17", "--use_fast_math", "-fmad=false"]), max_size=3, unique=True
).map(tuple)
modules = st.one_of(
    st.builds(
        Module,
        source=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip),
        options=options,
    ),
    st.builds(Module, kind=st.sampled_from(["ptx", "cubin", "fatbin"]), code=st.binary(min_size=1)),
    st.builds(Module, kind=st.just("library"), path=names),
)


def spellings(dtype: str) -> st.SearchStrategy[str]:
    """Names of the dtype that mean the same."""
    parsed = np.dtype(dtype)
    return st.sampled_from([dtype, parsed.str.lstrip("<|"), parsed.str, parsed.str.replace("|", "")])


def numbers(dtype: str) -> st.SearchStrategy[Number]:
    """Numbers that fit a scalar dtype. Finite ones: JSON has no others."""
    if dtype == "bool":
        return st.booleans()
    if "float" in dtype:
        return st.floats(width=8 * itemsize(dtype), allow_nan=False, allow_infinity=False) | st.integers(-100, 100)
    bounds = np.iinfo(dtype)
    return st.integers(int(bounds.min), int(bounds.max))


@st.composite
def buffers(draw: st.DrawFn, name: str) -> Buffer:
    """A buffer with its size as bytes, as shape and dtype, or as both."""
    role = draw(st.sampled_from(["input", "output", "inout", "temp"]))
    dtype = draw(st.sampled_from(BUFFER_DTYPES))
    shape = draw(st.lists(st.integers(1, 9), max_size=4)) if draw(st.booleans()) else None
    nbytes = int(np.prod(shape or (1,))) * itemsize(dtype)
    has_dtype = shape is not None or draw(st.booleans())
    return Buffer(
        name=name,
        role=role,
        nbytes=nbytes if shape is None or draw(st.booleans()) else -1,
        dtype=draw(spellings(dtype)) if has_dtype else None,
        shape=None if shape is None else tuple(shape),
        const=role == "input" and draw(st.booleans()),
    )


@st.composite
def scalars(draw: st.DrawFn, name: str) -> Scalar:
    """A scalar, with or without default."""
    dtype = draw(st.sampled_from(SCALAR_DTYPES))
    return Scalar(name=name, dtype=draw(spellings(dtype)), default=draw(st.none() | numbers(dtype)))


@st.composite
def constants(draw: st.DrawFn) -> Constant:
    """A number, or the bytes of a struct."""
    dtype = draw(st.sampled_from((*SCALAR_DTYPES, "bytes")))
    if dtype == "bytes":
        return Constant(dtype="bytes", data=draw(st.binary(min_size=1, max_size=40)))
    return Constant(dtype=draw(spellings(dtype)), value=draw(numbers(dtype)))


attributes = st.dictionaries(
    names,
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc", max_size=4)
    | st.lists(st.integers(-9, 9), max_size=4).map(tuple),
    max_size=3,
)


@st.composite
def launches(draw: st.DrawFn, labels: Sequence[str], arguments: Sequence[str]) -> Launch:
    """A launch of a kernel of one of the modules, or of a built-in."""
    args = draw(st.lists(st.sampled_from(arguments) | constants() if arguments else constants(), max_size=5).map(tuple))
    module = draw(st.sampled_from([*labels, BUILTINS]))
    if module == BUILTINS:
        return Launch(module=module, kernel=draw(names), args=args, attrs=draw(attributes))
    return Launch(
        module=module,
        kernel=draw(names.filter(str.strip)),
        grid=draw(dims((2**31 - 1, 65535, 65535))),
        block=draw(dims((16, 8, 8))),
        args=args,
        shared_bytes=draw(st.integers(0, 228 << 10)),
    )


def dims(bounds: tuple[int, int, int]) -> st.SearchStrategy[int | tuple[int, ...]]:
    """One to three dimensions, or x alone."""
    each = [st.integers(1, bound) for bound in bounds]
    return st.one_of(each[0], *(st.tuples(*each[:count]) for count in (1, 2, 3)))


@st.composite
def graphs(draw: st.DrawFn) -> GraphSpec:
    """A graph that the checks accept, as somebody may have written it: not in its normal form."""
    called = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    first_scalar = draw(st.integers(0, len(called)))
    declared = tuple(draw(buffers(name)) for name in called[:first_scalar])
    labelled = draw(st.dictionaries(names.filter(lambda name: name != BUILTINS), modules, max_size=3))
    ran = draw(st.lists(launches(sorted(labelled), called), min_size=1, max_size=4))
    used = {arg for launch in ran for arg in launch.args if isinstance(arg, str)}
    unused = tuple(each.name for each in declared if each.name not in used)
    ran[-1] = msgspec.structs.replace(ran[-1], args=ran[-1].args + unused)
    return GraphSpec(
        name=draw(graph_names),
        buffers=declared,
        scalars=tuple(draw(scalars(name)) for name in called[first_scalar:]),
        modules=labelled,
        launches=tuple(ran),
        iterations=draw(st.integers(1, 1_000_000)),
    )


stored = st.builds(
    Stored, ref=st.none() | st.just("ab" * 32), name=st.none() | names, offset=st.none() | st.integers(0, 2**53 - 1)
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request that decodes. Whether its bindings fit the graph is asked elsewhere."""
    return Request(
        graph=draw(graphs() | st.just("cd" * 32)),
        bind=draw(st.dictionaries(names, st.binary(max_size=20) | stored, max_size=3)),
        scalars=draw(st.dictionaries(names, st.sampled_from(SCALAR_DTYPES).flatmap(numbers), max_size=3)),
        keep=draw(st.dictionaries(names, names, max_size=2)),
        timeout_ms=draw(st.none() | st.integers(0, 2**53 - 1)),
    )


@st.composite
def respelled(draw: st.DrawFn, spec: GraphSpec) -> GraphSpec:
    """The same graph in another spelling of sizes, dtypes, numbers, dimensions and labels, with an unused module."""
    labels = dict(zip(spec.modules, draw(st.permutations([f"m{i}" for i in range(len(spec.modules))])), strict=True))
    items = draw(st.permutations([(labels[old], module) for old, module in spec.modules.items()]))
    unused = {"unused": draw(modules)} if draw(st.booleans()) else {}
    return GraphSpec(
        name=spec.name,
        buffers=tuple(draw(_respelled_buffer(each)) for each in spec.buffers),
        scalars=tuple(
            Scalar(
                name=each.name,
                dtype=draw(spellings(each.dtype)),
                default=None if each.default is None else draw(_respelled_number(each.default)),
            )
            for each in spec.scalars
        ),
        modules=unused | dict(items),
        launches=tuple(draw(_respelled_launch(each, labels)) for each in spec.launches),
        iterations=spec.iterations,
    )


@st.composite
def _respelled_buffer(draw: st.DrawFn, buffer: Buffer) -> Buffer:
    changes: dict[str, Any] = {}
    if buffer.dtype is not None:
        changes["dtype"] = draw(spellings(buffer.dtype))
    if buffer.shape is not None:
        implied = int(np.prod(buffer.shape)) * np.dtype(buffer.dtype).itemsize
        changes["nbytes"] = draw(st.sampled_from([-1, implied]))
    return msgspec.structs.replace(buffer, **changes)


@st.composite
def _respelled_launch(draw: st.DrawFn, launch: Launch, labels: dict[str, str]) -> Launch:
    return msgspec.structs.replace(
        launch,
        module=labels.get(launch.module, launch.module),
        kernel=launch.kernel
        if launch.module == BUILTINS
        else draw(st.sampled_from(["{}", " {}", "{}\n"])).format(launch.kernel),
        grid=draw(_respelled_dims(launch.grid)),
        block=draw(_respelled_dims(launch.block)),
        args=tuple(
            arg if isinstance(arg, str) or arg.dtype == "bytes" else draw(_respelled_constant(arg))
            for arg in launch.args
        ),
        attrs=dict(draw(st.permutations(list(launch.attrs.items())))),
    )


@st.composite
def _respelled_constant(draw: st.DrawFn, constant: Constant) -> Constant:
    return Constant(dtype=draw(spellings(constant.dtype)), value=draw(_respelled_number(constant.value)))


def _respelled_number(value: Number) -> st.SearchStrategy[Number]:
    """2 and 2.0 are one number; minus zero is another than zero."""
    whole = float(value).is_integer() and (value or str(value) != "-0.0")
    same: list[Number] = [value]
    if whole and abs(value) < 2**53:
        same += [int(value), float(value)]
    return st.sampled_from(same)


def _respelled_dims(given: int | tuple[int, ...]) -> st.SearchStrategy[int | tuple[int, ...]]:
    dims = (given,) if isinstance(given, int) else given
    while len(dims) > 1 and dims[-1] == 1:
        dims = dims[:-1]
    longer: list[int | tuple[int, ...]] = [(*dims, *[1] * count) for count in range(4 - len(dims))]
    return st.sampled_from([*longer, *dims] if len(dims) == 1 else longer)
