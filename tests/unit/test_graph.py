"""Building graphs from Python."""

from __future__ import annotations

import copy
import doctest
import pickle  # noqa: TID251 - what users do with a graph
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
import kaasq.graph
from kaasq.checks import GraphLimits, check_graph
from kaasq.codec import JSON, decode
from kaasq.errors import BadRequest
from kaasq.finite import check_finite
from kaasq.model import BUILTINS, Constant, GraphSpec, Launch, Module
from tests.support.graphs import MODULE, SOURCE, saxpy


def test_two_graphs_built_alike_have_one_hash() -> None:
    assert saxpy().freeze().hash == saxpy().freeze().hash


@pytest.mark.parametrize("other", [saxpy(n=8), saxpy(name="other")], ids=["another size", "another name"])
def test_what_differs_in_meaning_differs_in_hash(other: kaasq.Graph) -> None:
    assert other.freeze().hash != saxpy().freeze().hash


def test_iterations_are_part_of_the_graph_and_may_be_set_after_freezing() -> None:
    graph = saxpy()
    once = graph.freeze()
    graph.iterations = 3
    assert graph.freeze().iterations == 3
    assert graph.freeze().hash != once.hash


def test_numpy_iterations_are_whole_numbers_too() -> None:
    graph = saxpy()
    graph.iterations = np.int64(3)  # type: ignore[assignment]
    assert type(graph.freeze().iterations) is int


def test_freezing_twice_gives_the_same_object() -> None:
    graph = saxpy()
    assert graph.freeze() is graph.freeze()


def test_json_form_means_the_same_graph() -> None:
    graph = saxpy()
    read = decode(graph.to_json(), JSON, GraphSpec)
    assert check_graph(read, GraphLimits()).hash == graph.freeze().hash


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", ["graph.scalars[0].default", "graph.launches[0].args[1]"])
def test_what_json_cannot_say_is_refused_naming_the_place(number: float, place: str) -> None:
    graph = kaasq.Graph("g")
    out = graph.output("out", nbytes=4)
    graph.scalar("a", "float32", default=number if "scalars" in place else 0.0)
    graph.launch(MODULE.kernel("k"), grid=1, block=1, args=[out, np.float32(number if "args" in place else 0.0)])
    with pytest.raises(BadRequest, match="JSON has no") as caught:
        graph.to_json()
    assert caught.value.at == place


def test_an_infinite_attribute_of_a_built_in_is_refused_in_json_too() -> None:
    launch = Launch(module=BUILTINS, kernel="pad", attrs={"values": (0.0, float("-inf"))})
    with pytest.raises(BadRequest, match=r"^graph.launches\[0\].attrs.values: JSON has no -inf"):
        check_finite(GraphSpec(name="g", launches=(launch,)))


def test_normal_form_is_a_fixed_point() -> None:
    frozen = saxpy().freeze()
    assert check_graph(frozen, GraphLimits()) == frozen


def test_argument_order_and_types_are_kept() -> None:
    graph = kaasq.Graph("g")
    x = graph.inout("x", nbytes=8)
    args: list[Any] = [x, np.int32(7), np.float32(0.5), np.bool_(True), b"\1\2", np.complex64(1)]
    graph.launch(MODULE.kernel("k"), grid=1, block=1, args=args)
    (launch,) = graph.freeze().launches
    assert launch.args == (
        "x",
        Constant(dtype="int32", value=7),
        Constant(dtype="float32", value=0.5),
        Constant(dtype="bool", value=True),
        Constant(dtype="bytes", data=b"\1\2"),
        Constant(dtype="bytes", data=np.complex64(1).tobytes()),
    )


@pytest.mark.parametrize("argument", [1, 1.5, True])
def test_python_numbers_have_no_size_and_are_refused(argument: float) -> None:
    graph = kaasq.Graph("g")
    x = graph.inout("x", nbytes=8)
    with pytest.raises(kaasq.BadRequest, match=r"launches\[0\].args\[1\].*np.int32"):
        graph.launch(MODULE.kernel("k"), grid=1, block=1, args=[x, argument])


def test_buffer_of_another_graph_is_refused() -> None:
    one, other = kaasq.Graph("one"), kaasq.Graph("other")
    foreign = one.input("x", nbytes=4)
    other.input("x", nbytes=4)
    with pytest.raises(kaasq.BadRequest, match="declared on another graph"):
        other.launch(MODULE.kernel("k"), grid=1, block=1, args=[foreign])


def test_argument_of_an_unknown_type_is_refused() -> None:
    graph = kaasq.Graph("g")
    with pytest.raises(kaasq.BadRequest, match="cannot pass a list to a kernel: it takes buffers"):
        graph.launch(MODULE.kernel("k"), grid=1, block=1, args=[[1]])  # type: ignore[list-item]


@pytest.mark.parametrize(("kernel", "given"), [("saxpy", "str"), (MODULE, "Module"), (None, "NoneType")])
def test_launch_of_what_is_no_kernel_is_refused(kernel: object, given: str) -> None:
    with pytest.raises(kaasq.BadRequest, match=rf"launches\[0\].kernel: .* module.kernel\('\w+'\), given a {given}"):
        kaasq.Graph("g").launch(kernel, grid=1, block=1, args=[])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"shape": 4, "dtype": "float31"}, r"graph.buffers\[0\] \('x'\): 'float31' is no dtype; known are bool"),
        ({"shape": 4, "dtype": np.dtype(">f4")}, "'>f4' is no dtype"),
        ({"shape": 4}, "a shape needs a dtype"),
        ({"shape": (4, -1), "dtype": "float32"}, "a dimension of the shape is negative"),
        ({"shape": (), "nbytes": 3, "dtype": "float32"}, "nbytes is 3, but shape"),
        ({}, "needs nbytes, or shape and dtype"),
        ({"nbytes": 0}, "is empty"),
    ],
)
def test_wrong_buffer_is_refused_where_it_is_declared(declared: Any, says: str) -> None:
    graph = kaasq.Graph("g")
    for declare in (graph.input, graph.output, graph.inout, graph.temp):
        with pytest.raises(kaasq.BadRequest, match=says):
            declare("x", **declared)
    assert repr(graph) == "<Graph 'g': 0 launches, 0 buffers, 1 iterations>"


def test_wrong_scalar_is_refused_where_it_is_declared() -> None:
    with pytest.raises(kaasq.BadRequest, match="'complex64' is no scalar dtype"):
        kaasq.Graph("g").scalar("a", "complex64")
    with pytest.raises(kaasq.BadRequest, match=r"scalars\[0\].default: 300 does not fit int8"):
        kaasq.Graph("g").scalar("a", "int8", 300)


def test_limits_are_settings_and_not_looked_at_in_declarations() -> None:
    limits = GraphLimits()
    assert kaasq.Graph("g").input("x", nbytes=limits.buffer_bytes * 2).nbytes == limits.buffer_bytes * 2


@pytest.mark.parametrize(("grid", "block"), [(1.5, 1), (1, 256.0), ("4", 1), ((1, 2.5), 1), (None, 1)])
def test_grid_and_block_are_whole_numbers(grid: object, block: object) -> None:
    graph = kaasq.Graph("g")
    x = graph.inout("x", nbytes=4)
    with pytest.raises(kaasq.BadRequest, match=r"launches\[0\].(grid|block): expected a whole number"):
        graph.launch(MODULE.kernel("k"), grid=grid, block=block, args=[x])  # type: ignore[arg-type]


def test_grid_may_come_from_numpy() -> None:
    graph = kaasq.Graph("g")
    x = graph.inout("x", nbytes=4)
    graph.launch(MODULE.kernel("k"), grid=np.array([2, 3]), block=np.int64(4), args=[x])  # type: ignore[arg-type]
    (launch,) = graph.freeze().launches
    assert (launch.grid, launch.block) == ((2, 3, 1), (4, 1, 1))


@pytest.mark.parametrize("dtype", ["float32", "f4", "<f4", np.float32, np.dtype("f4")])
def test_all_spellings_of_a_dtype_mean_one(dtype: object) -> None:
    graph = kaasq.Graph("g")
    assert graph.input("x", shape=4, dtype=dtype).dtype == "float32"


@pytest.mark.parametrize("default", ["3", [1], 1j])
def test_scalar_default_is_a_number(default: object) -> None:
    with pytest.raises(kaasq.BadRequest, match=r"scalars\[0\].default"):
        kaasq.Graph("g").scalar("a", "float32", default)  # type: ignore[arg-type]


def test_module_from_each_kind_of_file(tmp_path: Path) -> None:
    for suffix, kind in {".cu": "source", ".ptx": "ptx", ".cubin": "cubin", ".fatbin": "fatbin"}.items():
        path = tmp_path / f"k{suffix}"
        path.write_text(SOURCE)
        module = Module.from_file(path)
        assert module.kind == kind
        assert (module.source or module.code.decode()) == SOURCE


def test_module_from_file_names_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(kaasq.BadRequest, match=r"k\.so: .*\.cubin"):
        Module.from_file(tmp_path / "k.so")


def test_module_source_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.cu"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(kaasq.BadRequest, match=r"k\.cu: the source is not UTF-8"):
        Module.from_file(path)


def test_module_hash_covers_options() -> None:
    assert Module.from_source(SOURCE).hash == MODULE.hash
    assert Module.from_source(SOURCE, options=("-DN=1",)).hash != MODULE.hash


def test_repr_of_a_module_leaves_its_code_out() -> None:
    source, code = kaasq.Module.from_source("/* " + "x" * 1000), kaasq.Module(kind="cubin", code=bytes(5000))
    assert repr(source) == f"<Module source: 1003 characters, {source.hash[:12]}>"
    assert repr(code) == f"<Module cubin: 5000 bytes, {code.hash[:12]}>"
    assert "<Module library: blas/gemm.cu, " in repr(kaasq.Module.from_library("blas/gemm.cu").kernel("k"))


def test_repr_says_how_large_it_is() -> None:
    assert repr(saxpy()) == "<Graph 'saxpy': 1 launches, 3 buffers, 1 iterations>"


def test_example_in_the_documentation_is_true() -> None:
    assert doctest.testmod(kaasq.graph) == doctest.TestResults(failed=0, attempted=7)


def test_as_many_launches_as_a_graph_may_have_build_in_seconds() -> None:
    graph = kaasq.Graph("long")
    buffers = [graph.inout(f"b{i}", nbytes=64) for i in range(1000)]
    kernel = MODULE.kernel("saxpy")
    start = time.perf_counter()
    for i in range(GraphLimits().launches):
        graph.launch(kernel, grid=4, block=256, args=[buffers[-1 - i % 1000], np.int32(i)])
    graph.freeze()
    assert time.perf_counter() - start < 20  # 1.5 s on an idle machine; what grows with the square takes minutes


def test_a_copy_has_the_same_hash_however_it_was_made() -> None:
    spec = saxpy().freeze()
    module = next(iter(spec.modules.values()))
    explicit = Module(kind="".join(("sou", "rce")), source=module.source, code=bytes(bytearray()), options=())  # type: ignore[arg-type]
    for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), explicit):
        assert copied == module
        assert copied.hash == module.hash
    decoded = msgspec.json.decode(msgspec.json.encode(spec), type=GraphSpec)
    for same in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), decoded):
        assert same.hash == spec.hash


@pytest.mark.parametrize(
    ("low", "high", "dtypes"),
    [(0, 6, ("int64", "int64")), (0.0, 6.5, ("float64", "float64")), (np.float32(0), True, ("float32", "bool"))],
)
def test_a_built_in_takes_plain_numbers(low, high, dtypes) -> None:
    graph = kaasq.Graph("clip")
    x, out = graph.input("x", shape=3, dtype="float32"), graph.output("out", shape=3, dtype="float32")
    graph.call("clip", x, out, low, high)
    (launch,) = graph.freeze().launches
    assert tuple(arg.dtype for arg in launch.args[2:]) == dtypes
    assert tuple(arg.value for arg in launch.args[2:]) == (low, high)
    assert graph.launches == 1


def test_a_whole_number_beyond_every_dtype_is_refused_by_a_built_in_too() -> None:
    graph = kaasq.Graph("clip")
    x, out = graph.input("x", shape=3, dtype="float32"), graph.output("out", shape=3, dtype="float32")
    with pytest.raises(BadRequest, match=r"args\[2\]"):
        graph.call("clip", x, out, 2**70, 1)


@pytest.mark.parametrize("name", ["bad name", "", "a..b", 5])
def test_a_wrong_name_is_refused_where_it_is_written(name: Any) -> None:
    with pytest.raises(BadRequest, match=r"graph\.name: .* is no graph name"):
        kaasq.Graph(name)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"block": 2000}, "block.x is 2000; from 1 to 1024 is possible"),
        ({"block": (32, 64)}, "a block of 2048 threads; at most 1024 are possible"),
        ({"grid": 0}, "grid.x is 0; from 1 to"),
        ({"grid": (1, 1, 1, 1)}, "grid has 4 dimensions"),
        ({"shared_bytes": -1}, "shared_bytes is -1"),
    ],
)
def test_a_launch_that_no_device_could_do_is_refused_where_it_is_written(wrong: Any, says: str) -> None:
    graph = kaasq.Graph("g")
    with pytest.raises(BadRequest) as caught:
        graph.launch(MODULE.kernel("saxpy"), **{"grid": 1, "block": 64, "args": []} | wrong)
    assert caught.value.message.startswith(f"graph.launches[0] (saxpy): {says}")
    assert graph.launches == 0


def test_a_graph_comes_back_from_what_to_json_gave_or_from_a_file(tmp_path: Path) -> None:
    graph = saxpy()
    graph.iterations = 3
    (tmp_path / "saxpy.json").write_bytes(graph.to_json())
    for source in (graph.to_json(), tmp_path / "saxpy.json", str(tmp_path / "saxpy.json")):
        back = kaasq.Graph.from_json(source)
        assert back.freeze() == graph.freeze()
        assert repr(back) == repr(graph)
        back.iterations = 4
        assert back.freeze().iterations == 4


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"{", "graph: the body is not valid JSON"),
        (b'{"name": "g", "launches": 5}', "graph.launches: Expected `array`"),
        (b'{"name": "g"}', "graph.launches: a graph needs at least one launch"),
    ],
)
def test_json_that_is_no_graph_is_refused(source: bytes, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kaasq.Graph.from_json(source)
    assert caught.value.message.startswith(says)
