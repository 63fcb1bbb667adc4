"""What makes a graph or a request's bindings wrong, and what the error says."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.bindings import check_bindings
from kaasq.checks import GraphLimits, check_graph
from kaasq.dtypes import BUFFER_DTYPES, SCALAR_DTYPES, canonical, pack_number
from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError
from kaasq.model import Buffer, Constant, GraphSpec, Launch, Module, Scalar
from tests.support.graphs import MODULE, saxpy, spec

LIMITS = GraphLimits()
X = Buffer(name="x", role="input", nbytes=4)
OUT = Buffer(name="out", role="output", nbytes=4)


def launch(**changes: Any) -> Launch:
    return Launch(**{"module": "m", "kernel": "k", "args": ("x",), **changes})


def buffer(**changes: Any) -> GraphSpec:
    return spec(Buffer(**{"name": "x", "role": "input", **changes}))


WRONG = {
    "name with a space": (spec(X, name="no name"), "graph.name", "letters, digits"),
    "name that is empty": (spec(X, name=""), "graph.name", "is no graph name"),
    "name with an empty word": (spec(X, name="a..b"), "graph.name", "is no graph name"),
    "name that is too long": (spec(X, name="a" * 129), "graph.name", "at most 128"),
    "no launch": (spec(X, launches=()), "graph.launches", "at least one"),
    "iterations 0": (spec(X, iterations=0), "graph.iterations", "from 1 to"),
    "buffer declared twice": (spec(X, X), "graph.buffers[1].name", "declared twice"),
    "scalar named as a buffer": (spec(X, scalars=(Scalar(name="x", dtype="f4"),)), "graph.scalars[0].name", "twice"),
    "buffer without a name": (buffer(name="", nbytes=4), "graph.buffers[0].name", "is no name"),
    "buffer without a size": (buffer(), "graph.buffers[0] ('x')", "needs nbytes, or shape and dtype"),
    "buffer of 0 bytes": (buffer(nbytes=0), "graph.buffers[0] ('x')", "at least one byte"),
    "shape with a 0": (buffer(shape=(3, 0), dtype="f4"), "graph.buffers[0] ('x')", "at least one byte"),
    "shape below 0": (buffer(shape=(-1,), dtype="f4"), "graph.buffers[0] ('x')", "negative"),
    "shape of huge numbers": (buffer(shape=(10**4000, 10**4000), dtype="f4"), "graph.buffers[0] ('x')", "above"),
    "shape of many dimensions": (buffer(shape=(1,) * 33, dtype="f4"), "graph.buffers[0] ('x')", "at most 32"),
    "shape without dtype": (buffer(shape=(3,)), "graph.buffers[0] ('x')", "a shape needs a dtype"),
    "dtype that is none": (buffer(shape=(3,), dtype="float33"), "graph.buffers[0] ('x')", "known are bool, int8"),
    "dtype that is a literal": (buffer(shape=(3,), dtype="(2,"), "graph.buffers[0] ('x')", "is no dtype"),
    "dtype of foreign byte order": (buffer(shape=(3,), dtype=">f4"), "graph.buffers[0] ('x')", "is no dtype"),
    "size that is not what shape and dtype say": (
        buffer(shape=(3,), dtype="f4", nbytes=16),
        "graph.buffers[0] ('x')",
        "nbytes is 16, but shape (3,) of float32 takes 12",
    ),
    "buffer over the limit": (buffer(nbytes=(1 << 40) + 1), "graph.buffers[0] ('x')", "the limit is"),
    "more arguments than a kernel can have": (
        spec(X, launches=(launch(args=("x",) * 4097),)),
        "graph.launches[0].args",
        "4097 arguments; the limit is 4096",
    ),
    "more arguments than a built-in can have": (
        spec(X, launches=(Launch(module="kaasq", kernel="add", args=("x",) * 4097),)),
        "graph.launches[0].args",
        "4097 arguments; the limit is 4096",
    ),
    "const output": (
        spec(Buffer(name="x", role="output", nbytes=4, const=True)),
        "graph.buffers[0] ('x')",
        "the role of this one is output",
    ),
    "input never used": (spec(X, OUT, launches=(launch(args=("out",)),)), "graph.buffers[0]", "never used"),
    "output never written": (spec(X, OUT, launches=(launch(),)), "graph.buffers[1]", "never written"),
    "temp never written": (
        spec(X, Buffer(name="t", role="temp", nbytes=4), launches=(launch(),)),
        "graph.buffers[1]",
        "temp 't' is never written",
    ),
    "unknown buffer": (
        spec(X, launches=(launch(args=("x", "z")),)),
        "graph.launches[0].args[1]",
        "no buffer or scalar",
    ),
    "unknown module": (spec(X, launches=(launch(module="n"),)), "graph.launches[0].module", "no module 'n'"),
    "kernel without a name": (spec(X, launches=(launch(kernel=" "),)), "graph.launches[0].kernel", "empty"),
    "grid of 0": (spec(X, launches=(launch(grid=0),)), "graph.launches[0] (k)", "grid.x is 0; from 1 to 2147483647"),
    "grid past its limit": (spec(X, launches=(launch(grid=(1, 65536)),)), "graph.launches[0] (k)", "grid.y is 65536"),
    "grid of no dimension": (spec(X, launches=(launch(grid=()),)), "graph.launches[0] (k)", "grid has 0 dimensions"),
    "grid of 4 dimensions": (spec(X, launches=(launch(grid=(1,) * 4),)), "graph.launches[0] (k)", "4 dimensions"),
    "block of 0": (spec(X, launches=(launch(block=(1, 0)),)), "graph.launches[0] (k)", "block.y is 0"),
    "block past its limit": (spec(X, launches=(launch(block=(1, 1, 65)),)), "graph.launches[0] (k)", "block.z is 65"),
    "too many threads": (spec(X, launches=(launch(block=(64, 64)),)), "graph.launches[0] (k)", "4096 threads"),
    "shared memory below 0": (spec(X, launches=(launch(shared_bytes=-1),)), "graph.launches[0] (k)", "shared_bytes"),
    "shared memory past what a launch can say": (
        spec(X, launches=(launch(shared_bytes=2**31),)),
        "graph.launches[0] (k)",
        "from 0 to 2147483647",
    ),
    "built-in with a grid of 4 dimensions": (
        spec(X, launches=(launch(module="kaasq", grid=(1, 1, 1, 5)),)),
        "graph.launches[0] (k)",
        "a built-in has neither grid",
    ),
    "attribute beyond 64 bits": (
        spec(X, launches=(launch(module="kaasq", attrs={"a": (1, (2**64,))}),)),
        "graph.launches[0].attrs.a",
        "does not fit 64 bits",
    ),
    "attribute of a long text": (
        spec(X, launches=(launch(module="kaasq", attrs={"a": "a" * 1025}),)),
        "graph.launches[0].attrs.a",
        "1025 characters; the limit is 1024",
    ),
    "kernel's name that is too long": (
        spec(X, launches=(launch(kernel="k" * 4097),)),
        "graph.launches[0].kernel",
        "4097 characters; the limit is 4096",
    ),
    "number of more digits than Python writes": (
        spec(X, iterations=10**5000),
        "graph.iterations",
        "is a number of 16610 bits",
    ),
    "constant that does not fit": (
        spec(X, launches=(launch(args=("x", Constant(dtype="int8", value=200))),)),
        "graph.launches[0].args[1]",
        "200 does not fit int8 (-128 to 127)",
    ),
    "constant of no known dtype": (
        spec(X, launches=(launch(args=("x", Constant(dtype="complex64"))),)),
        "graph.launches[0].args[1]",
        "no scalar dtype",
    ),
    "struct of 0 bytes": (
        spec(X, launches=(launch(args=("x", Constant(dtype="bytes"))),)),
        "graph.launches[0].args[1]",
        "a struct of 0 bytes",
    ),
    "scalar of no known dtype": (
        spec(X, scalars=(Scalar(name="a", dtype="str"),)),
        "graph.scalars[0] ('a')",
        "known are",
    ),
    "scalar default that does not fit": (
        spec(X, scalars=(Scalar(name="a", dtype="uint8", default=-1),)),
        "graph.scalars[0].default",
        "-1 does not fit uint8",
    ),
    "module without source": (spec(X, modules={"m": Module()}), "graph.modules['m']", "the source is empty"),
    "module with NUL": (spec(X, modules={"m": Module(source="a\0")}), "graph.modules['m']", "NUL"),
    "module with both": (spec(X, modules={"m": Module(source="a", code=b"b")}), "graph.modules['m']", "not in 'code'"),
    "binary module with source": (
        spec(X, modules={"m": Module(kind="ptx", code=b"a", source="a")}),
        "graph.modules['m']",
        "no 'source'",
    ),
    "binary module without code": (
        spec(X, modules={"m": Module(kind="ptx")}),
        "graph.modules['m']",
        "its bytes in 'code'",
    ),
    "compiler option that could do harm": (
        spec(X, modules={"m": Module(source="a", options=("-I/etc",))}),
        "graph.modules['m'].options",
        "'-I/etc' is not allowed",
    ),
}


@pytest.mark.parametrize(("graph", "at", "says"), WRONG.values(), ids=WRONG)
def test_wrong_graph_is_refused_naming_the_place(graph: GraphSpec, at: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_graph(graph, LIMITS)
    assert caught.value.at == at
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("limits", "at"),
    [
        (GraphLimits(buffers=2), "graph.buffers"),
        (GraphLimits(scalars=0), "graph.scalars"),
        (GraphLimits(launches=0), "graph.launches"),
        (GraphLimits(module_bytes=3), "graph.modules"),
        (GraphLimits(iterations=0), "graph.iterations"),
    ],
)
def test_limits_are_enforced(limits: GraphLimits, at: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_graph(saxpy().freeze(), limits)
    assert caught.value.at.startswith(at)


SAME = [
    (spec(X), buffer(nbytes=4)),
    (buffer(shape=(4,), dtype="f4"), buffer(shape=(4,), dtype="<f4", nbytes=16)),
    (spec(X, launches=(launch(grid=2),)), spec(X, launches=(launch(grid=(2, 1, 1)),))),
    (spec(X), spec(X, modules={"other": MODULE}, launches=(launch(module="other"),))),
    (spec(X), spec(X, modules={"m": MODULE, "unused": Module(source="unused")})),
    (
        spec(X, launches=(launch(args=("x", Constant(dtype="f4", value=2))),)),
        spec(X, launches=(launch(args=("x", Constant(dtype="float32", value=2.0, data=b"ignored"))),)),
    ),
    (
        spec(X, launches=(launch(args=("x", Constant(dtype="f4", value=0.1))),)),
        spec(X, launches=(launch(args=("x", Constant(dtype="f4", value=float(np.float32(0.1))))),)),
    ),
    (
        spec(X, scalars=(Scalar(name="a", dtype="int32", default=3.0),)),
        spec(X, scalars=(Scalar(name="a", dtype="i4", default=3),)),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_same_meaning_has_the_same_hash(one: GraphSpec, other: GraphSpec) -> None:
    assert check_graph(one, LIMITS).hash == check_graph(other, LIMITS).hash


def test_hash_is_pinned() -> None:
    # It identifies graphs across versions and languages: if this fails, the protocol changed.
    assert check_graph(spec(X), LIMITS).hash == PINNED


PINNED = "12faafb2d9589df8e5ec674bee130e6be23e0d5a0d89f85359d98ac3993a4779"


def test_kernels_may_share_a_module_and_a_buffer() -> None:
    twice = spec(X, launches=(launch(), launch(kernel="other", args=("x", "x"))))
    assert len(check_graph(twice, LIMITS).launches) == 2


def bind(graph: GraphSpec, **changes: Any) -> None:
    given: dict[str, Any] = {"sizes": {"x": 16, "y": 16}, "scalars": {}, "keep": {}}
    check_bindings(graph, **{**given, **changes})


def test_right_bindings_pass() -> None:
    bind(saxpy().freeze(), scalars={"a": 3}, keep={"out": "y/1"})
    bind(saxpy().freeze(), sizes={"x": 16, "y": None})


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        (
            {"sizes": {"x": 16, "y": 16, "z": 1}},
            BadRequest,
            "bind.z: the graph has no buffer 'z'; it has 'x', 'y', 'out'",
        ),
        ({"sizes": {"x": 16, "y": 16, "out": 16}}, BadRequest, "bind.out: 'out' is an output: nothing can be bound"),
        ({"sizes": {"x": 16}}, BufferMissing, "nothing is bound to input 'y'"),
        ({"sizes": {"x": 16, "y": 12}}, BufferSize, "buffer 'y' is declared with 16 bytes, but 12 bytes were given"),
        ({"scalars": {"b": 1}}, BadRequest, "scalars.b: the graph has no scalar 'b'; it has 'a'"),
        ({"scalars": {"a": 1e300}}, BadRequest, "scalars.a: 1e+300 does not fit float32"),
        ({"keep": {"x": "n"}}, BadRequest, "keep.x: only an output or inout can be kept"),
        ({"keep": {"z": "n"}}, BadRequest, "keep.z: only an output"),
        ({"keep": {"out": ""}}, BadRequest, "keep.out: '' is no name"),
        ({"keep": {"out": "a\nb"}}, BadRequest, "is no name"),
    ],
)
def test_wrong_bindings_are_refused(changes: dict[str, Any], kind: type[KaasqError], says: str) -> None:
    with pytest.raises(kind) as caught:
        bind(saxpy().freeze(), **changes)
    assert says in caught.value.message


def test_two_outputs_cannot_be_kept_under_one_name() -> None:
    graph = check_graph(spec(X, OUT, msgspec.structs.replace(OUT, name="out2")), LIMITS)
    with pytest.raises(BadRequest, match="under one name"):
        check_bindings(graph, {"x": 4}, {}, {"out": "n", "out2": "n"})


def test_scalar_without_default_must_be_given() -> None:
    graph = check_graph(spec(X, scalars=(Scalar(name="a", dtype="int32"),)), LIMITS)
    with pytest.raises(BadRequest, match=r"scalars.a: scalar 'a' has no default"):
        check_bindings(graph, {"x": 4}, {}, {})


@given(st.sampled_from(SCALAR_DTYPES), st.booleans() | st.integers() | st.floats())
def test_packed_number_is_numpys_or_bad_request(dtype: str, value: float) -> None:
    try:
        packed = pack_number(dtype, value, "here")
    except BadRequest:
        return
    with np.errstate(all="ignore"):
        expected = np.array(value).astype(dtype) if dtype == "bool" else np.dtype(dtype).type(value)
    assert packed == expected.tobytes() or np.isnan(expected)


@pytest.mark.parametrize("name", ["float", "int", "uint"])
def test_names_that_mean_other_sizes_to_numpy_and_to_a_kernel_are_no_dtypes(name: str) -> None:
    assert canonical(name) is None
    assert canonical(float) == "float64"
    with pytest.raises(BadRequest, match=f"'{name}' is no dtype; known are bool, .* float32"):
        check_graph(buffer(shape=(3,), dtype=name), LIMITS)


@given(st.text() | st.text(alphabet="<>=|(){}[],.biufcSUVOaMm0123456789", max_size=6))
def test_any_text_is_a_dtype_or_not_and_nothing_else(text: str) -> None:
    assert canonical(text) in (None, *BUFFER_DTYPES)
