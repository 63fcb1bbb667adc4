"""Triton kernels compiled without a GPU: the launch fits the cubin's own parameter table, or the mistake is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kaasq
import kaasq.importers.triton
from kaasq.errors import BadRequest
from kaasq.importers.triton import TritonKernel
from kaasq.importers.triton.metadata import check_launchable, scratch
from kaasq.importers.triton.ptx import parameter_sizes
from kaasq.importers.triton.types import parameter
from kaasq.model import Buffer, Constant, GraphSpec, Launch
from kaasq_workers.devices.cuda.images import cubin_image
from kaasq_workers.devices.cuda.parameters import read_cubin
from kaasq_workers.executor.arguments import pack
from tests.support import triton_kernels as kernels

ADD = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"}
MATMUL = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
SOFTMAX = {"x_ptr": "*fp32", "out_ptr": "*fp32", "x_stride": "i32", "out_stride": "i32", "columns": "i32"}
NUMBERS = dict(zip("abcdefghij", ("i1", "i8", "u16", "i64", "fp16", "u32", "i32", "fp32", "fp64", "i16"), strict=True))


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """Triton's cache in a folder of the tests' own, so that they compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compiled(fn: Any = kernels.add, **changes: Any) -> TritonKernel:
    given: dict[str, Any] = {"signature": ADD, "constants": {"BLOCK": 1024}, "target": "sm_90"}
    return kaasq.importers.triton.compile(fn, **{**given, **changes})


@pytest.fixture(scope="module")
def add(_cache) -> TritonKernel:
    return compiled()


def fits(spec: GraphSpec) -> Launch:
    """The graph's only launch, once a worker's own check of it against the cubin's parameter table has passed."""
    (launch,) = spec.launches
    image = cubin_image(spec.modules[launch.module].code, (launch.kernel,), (9, 0))
    table = image.cubin.kernels[launch.kernel]
    declared = {each.name: each for each in spec.buffers} | {each.name: each for each in spec.scalars}
    loaded: Any = SimpleNamespace(name=launch.kernel, parameters=table.parameters)
    assert pack(launch, "graph.launches[0]", loaded, declared).count == len(table.parameters)
    return launch


def place(caught: pytest.ExceptionInfo[BadRequest]) -> str:
    return caught.value.at


# --------------------------------------------------------------------------------------------------------- compiling


def test_vector_addition_as_a_graph(add):
    graph = add.graph("add", grid=4, inputs={"x_ptr": 4000, "y_ptr": 4000}, outputs={"out_ptr": 4000}).freeze()
    launch = fits(graph)
    assert (launch.grid, launch.block, launch.shared_bytes) == ((4, 1, 1), (128, 1, 1), 0)
    assert launch.args[:4] == ("x_ptr", "y_ptr", "out_ptr", "n")
    assert set(launch.args[4:]) == {Constant(dtype="uint64", value=0)}  # Triton's pointers, which nothing uses
    assert graph.buffer("out_ptr") == Buffer(
        name="out_ptr", role="output", nbytes=16000, dtype="float32", shape=(4000,)
    )


def test_the_same_kernel_gives_the_same_graph(add):
    def build(kernel: TritonKernel) -> str:
        return kernel.graph("add", grid=1, inputs={"x_ptr": 4, "y_ptr": 4}, outputs={"out_ptr": 4}).freeze().hash

    assert build(add) == build(add) == build(compiled())


def test_grid_may_be_a_function_of_the_constants(add):
    graph = kaasq.Graph("add")
    x = graph.inout("x", shape=5000, dtype="float32")
    args = {"x_ptr": x, "y_ptr": x, "out_ptr": x, "n": 5000}
    add.launch(graph, grid=lambda given: (-(-5000 // given["BLOCK"]),), args=args)
    assert fits(graph.freeze()).grid == (5, 1, 1)


def test_softmax():
    kernel = compiled(kernels.softmax, signature=SOFTMAX, constants={"BLOCK": 1024}, num_warps=8)
    graph = kernel.graph(
        "softmax",
        grid=100,
        inputs={"x_ptr": (100, 1000)},
        outputs={"out_ptr": (100, 1000)},
        scalars={"x_stride": 1000, "out_stride": 1000, "columns": 1000},
        const=True,
    ).freeze()
    launch = fits(graph)
    assert launch.block == (256, 1, 1)
    assert launch.shared_bytes > 0  # eight warps exchange their maxima and sums there
    assert launch.args[:2] == ("out_ptr", "x_ptr")  # in the kernel's order, not the signature's
    assert graph.buffer("x_ptr").const


def test_reduction_with_a_scalar_that_requests_set():
    kernel = compiled(kernels.total, signature={"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"})
    graph = kernel.graph("total", grid=8, inputs={"x_ptr": 8192}, outputs={"out_ptr": 1}).freeze()
    fits(graph)
    assert [(each.name, each.dtype, each.default) for each in graph.scalars] == [("n", "int32", None)]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_matmul_brings_its_dynamic_shared_memory(target):
    kernel = compiled(
        kernels.matmul, signature=MATMUL, constants={"BM": 64, "BN": 64, "BK": 32}, target=target, num_stages=3
    )
    assert kernel.shared_bytes >= 2 * (64 * 32 + 32 * 64)  # a tile of each factor, in half precision
    assert read_cubin(kernel.module.code).arch == int(target[3:])


def test_target_may_name_the_variant_that_triton_compiles_for_anyway(add):
    assert compiled(target="sm_90a").module == add.module


def test_descriptors_made_in_the_kernel_get_scratch_memory_for_every_program():
    signature = {"x_ptr": "*fp16", "out_ptr": "*fp16", "rows": "i32", "columns": "i32"}
    kernel = compiled(kernels.twice, signature=signature, constants={"BM": 64, "BN": 64})
    graph = kernel.graph(
        "twice",
        grid=(3,),
        inputs={"x_ptr": (192, 64)},
        outputs={"out_ptr": (192, 64)},
        scalars={"rows": 192, "columns": 64},
    )
    launch = fits(graph.freeze())
    (temp,) = [each for each in graph.freeze().buffers if each.role == "temp"]
    assert temp.nbytes == 3 * max(kernel.scratch) > 0
    assert temp.name in launch.args


def test_every_launch_has_scratch_memory_of_its_own(add):
    kernel = TritonKernel(
        **{each: getattr(add, each) for each in TritonKernel.__dataclass_fields__} | {"scratch": (128, 16)}
    )
    graph = kaasq.Graph("twice")
    x = graph.inout("x", nbytes=64)
    for _ in range(2):
        kernel.launch(graph, grid=(2, 3), args={"x_ptr": x, "y_ptr": x, "out_ptr": x, "n": 16})
    temps = [(each.nbytes, each.role) for each in graph.freeze().buffers[1:]]
    assert temps == [(768, "temp"), (96, "temp")] * 2


def test_numbers_of_every_type_arrive_with_their_size_and_in_their_place():
    kernel = compiled(kernels.numbers, signature={"out_ptr": "*fp64"} | NUMBERS, constants={})
    given = {"a": True, "b": -8, "c": 65535, "d": -(2**40), "e": 0.1, "f": 2**32 - 1, "g": -1, "h": 0.1, "i": 0.1}
    launch = fits(kernel.graph("n", grid=1, outputs={"out_ptr": 1}, scalars={**given, "j": np.int16(3)}).freeze())
    dtypes = ["bool", "int8", "uint16", "int64", "float16", "uint32", "int32", "float32", "float64", "int16"]
    assert [each.dtype for each in launch.args[1:11]] == dtypes
    assert launch.args[5].value == float(np.float16(0.1))


# --------------------------------------------------------------------------------------------------- specialisation


def test_what_is_compiled_in_is_no_argument():
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "a": "fp32", "n": "i32"}
    kernel = compiled(
        kernels.scale_add, signature=signature, constants={"bias_ptr": None, "stride": 1}, multiples_of_16=["n"]
    )
    assert [each.name for each in kernel.parameters] == ["x_ptr", "out_ptr", "a", "n"]
    assert kernel.constants == {"bias_ptr": None, "stride": 1, "BLOCK": 256}  # the last by the function's default
    graph = kernel.graph(
        "s", grid=1, inputs={"x_ptr": 256}, outputs={"out_ptr": 256}, scalars={"a": 2.5, "n": 256}
    ).freeze()
    assert fits(graph).args[2:4] == (Constant(dtype="float32", value=2.5), Constant(dtype="int32", value=256))


def test_hints_let_the_compiler_load_more_at_once():
    plain = compiled()
    hinted = compiled(multiples_of_16=["n"])
    assert hinted.module != plain.module
    assert hinted.multiples_of_16 == {"n"}


@pytest.fixture(scope="module")
def hinted(_cache) -> TritonKernel:
    return compiled(multiples_of_16="n")


def test_a_number_that_breaks_its_promise_is_refused(hinted):
    with pytest.raises(BadRequest, match="compiled as a multiple of 16, given 1000") as caught:
        hinted.graph("g", grid=1, inputs={"x_ptr": 4, "y_ptr": 4}, outputs={"out_ptr": 4}, scalars={"n": 1000})
    assert place(caught) == "args.n"


def test_a_scalar_that_requests_set_cannot_promise(hinted):
    with pytest.raises(BadRequest, match="cannot promise"):
        hinted.graph("g", grid=1, inputs={"x_ptr": 4, "y_ptr": 4}, outputs={"out_ptr": 4})


# ------------------------------------------------------------------------------------------------- refused: compiling


@pytest.mark.parametrize(
    ("changes", "at", "says"),
    [
        ({"target": "sm_ninety"}, "target", "one NVIDIA architecture such as 'sm_90', given 'sm_ninety'"),
        ({"target": "gfx942"}, "target", "one NVIDIA architecture"),
        ({"target": ["sm_80", "sm_90"]}, "target", "compile once for each"),
        ({"target": 90}, "target", "given 90"),
        ({"num_warps": 3}, "num_warps", "expected a power of 2 from 1 to 32, given 3"),
        ({"num_warps": 64}, "num_warps", "given 64"),
        ({"num_warp": 4}, "num_warp", "has no such option; it has num_warps"),
        ({"num_ctas": 2}, "num_ctas", "clusters of blocks"),
        ({"launch_cooperative_grid": True}, "launch_cooperative_grid", "a cooperative launch"),
        ({"launch_pdl": True}, "launch_pdl", "programmatic dependent launch"),
        ({"fn": kernels.tuned}, "fn", r"another decorator \(Heuristics\)"),
        ({"fn": print}, "fn", "expected a @triton.jit function, given a builtin_function_or_method"),
        ({"fn": kernels.not_compiling, "signature": {"x_ptr": "*i8"}}, "fn", "not_compiling does not.*is not 1"),
        ({"constants": {}}, "constants", "'BLOCK' is a constexpr and needs a value"),
        ({"constants": {"BLOCK": 4, "B": 4}}, "constants.B", "add has no parameter 'B'; it has x_ptr, y_ptr"),
        ({"constants": {"BLOCK": 4, "n": 4}}, "signature.n", "'n' has a value in constants, so no type 'i32'"),
        ({"constants": {"BLOCK": 100}}, "fn", "add does not compile for sm_90.*power of 2"),
        ({"signature": ADD | {"z": "i32"}}, "signature.z", "has no parameter 'z'"),
        ({"signature": {"x_ptr": "*fp32"}}, "signature", "'y_ptr' needs a type"),
        ({"signature": ADD | {"n": "int"}}, "signature.n", "'int' is no type; known are i1"),
        ({"signature": ADD | {"n": "bf16"}}, "signature.n", "bf16 cannot be passed by value: say 'fp32'"),
        ({"signature": ADD | {"n": ("i32", "i32")}}, "signature.n", "tuples of arguments"),
        ({"signature": ADD | {"x_ptr": "**fp32"}}, "signature.x_ptr", "is no type"),
        ({"signature": ADD | {"x_ptr": "tensordesc<fp16[64, 64]>"}}, "signature.x_ptr", "make_tensor_descriptor"),
        ({"multiples_of_16": ["x_ptr"]}, "multiples_of_16", "'x_ptr' is no whole number.*those are n"),
    ],
)
def test_compiling_what_cannot_be_launched_is_refused(changes, at, says):
    with pytest.raises(BadRequest, match=f"(?s)^{at}: .*{says}") as caught:
        compiled(**changes)
    assert place(caught) == at


def metadata(**changes: Any) -> Any:
    """Of an old Triton, with only what every one of them tells."""
    return SimpleNamespace(**{"name": "k", "num_warps": 4, "shared": 0, **changes})


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("cluster_dims", (2, 1, 1), "clusters"),
        ("tensordesc_meta", [{}], "TMA descriptors"),
        ("warp_size", 64, "warps of 64 threads"),
        ("num_warps", 40, "needs 40 warps"),
    ],
)
def test_metadata_that_says_more_than_kaasq_launches_is_refused(field, value, says):
    check_launchable(metadata())
    with pytest.raises(BadRequest, match=says):
        check_launchable(metadata(**{field: value}))


PTX = """
.visible .func other(.param .b32 p) { ret; }
.visible .entry k(
    .param .u64 .ptr .global .align 1 k_param_0,
    .param .align 2 .b8 k_param_1[2],
    .param .f32 k_param_2,
    .param .u64 k_param_3
)
.reqntid 128
"""


def test_ptx_tells_the_parameters_of_its_kernel():
    assert parameter_sizes(PTX, "k") == (8, 2, 4, 8)
    assert parameter_sizes(".entry k()\n{ ret; }", "k") == ()
    assert parameter_sizes(PTX, "other") is None


@given(st.text(alphabet=".entry k()[]1234,param u64\n"), st.text())
def test_any_text_has_sizes_or_none(text, name):
    assert parameter_sizes(f".entry k({text}", name) is None or name == "k"


TABLE = [parameter(str(i), spelling, "") for i, spelling in enumerate(["*fp32", "fp16", "fp32"])]


def test_pointers_that_triton_appends_are_told_by_metadata_and_confirmed_by_the_code():
    assert scratch(metadata(global_scratch_size=64), PTX, TABLE, "3.4.0") == (64,)


@pytest.mark.parametrize(
    ("changes", "ptx", "says"),
    [
        ({}, PTX, r"\(8, 2, 4, 8\) bytes where \(8, 2, 4\) were expected"),
        ({"global_scratch_size": 0}, "", "None bytes"),
        ({"global_scratch_size": 8, "global_scratch_align": 512}, PTX, "a multiple of 512"),
    ],
)
def test_parameters_that_are_not_understood_are_refused(changes, ptx, says):
    with pytest.raises(BadRequest, match=says):
        scratch(metadata(**changes), ptx, TABLE, "9.9")


# ------------------------------------------------------------------------------------------------- refused: launching

GRAPH = kaasq.Graph("g")
X = GRAPH.inout("x", shape=16, dtype="float32")
ARGS = {"x_ptr": X, "y_ptr": X, "out_ptr": X, "n": 16}


@pytest.mark.parametrize(
    ("changes", "at", "says"),
    [
        ({"m": 1}, "args.m", "no parameter 'm'; it has x_ptr: *fp32, y_ptr: *fp32, out_ptr: *fp32, n: i32"),
        ({"BLOCK": 64}, "args.BLOCK", "was compiled into kernel 'add' as 1024; leave it out"),
        ({"x_ptr": 5}, "args.x_ptr", "*fp32 takes a buffer of the graph, given 5"),
        ({"x_ptr": None}, "args.x_ptr", "compile(..., constants={'x_ptr': None})"),
        ({"x_ptr": GRAPH.input("i", shape=4, dtype="int32")}, "args.x_ptr", "points to float32, buffer 'i' holds int"),
        ({"n": X}, "args.n", "i32 takes a number or a scalar of the graph"),
        ({"n": "16"}, "args.n", "given '16'"),
        ({"n": 2**31}, "args.n", "does not fit int32"),
        ({"n": 1.5}, "args.n", "1.5 is no int32"),
        ({"n": GRAPH.scalar("s", "int64")}, "args.n", "expected int32, scalar 's' is int64"),
    ],
)
def test_a_wrong_argument_is_refused_naming_it(add, changes, at, says):
    with pytest.raises(BadRequest) as caught:
        add.launch(GRAPH, grid=1, args=ARGS | changes)
    assert says in caught.value.message
    assert place(caught) == at


def test_missing_arguments_are_named(add):
    with pytest.raises(BadRequest, match="also takes out_ptr, n"):
        add.launch(GRAPH, grid=1, args={"x_ptr": X, "y_ptr": X})


def test_a_buffer_of_complex_numbers_is_one_of_pairs(add):
    graph = kaasq.Graph("c")
    z = graph.inout("z", shape=8, dtype="complex64")
    add.launch(graph, grid=1, args={"x_ptr": z, "y_ptr": z, "out_ptr": z, "n": 16})
    fits(graph.freeze())


@pytest.mark.parametrize("grid", ["1", None, 1.5, (1, "2"), lambda given: "x"])
def test_a_grid_that_is_none_is_refused(add, grid):
    with pytest.raises(BadRequest, match=r"^grid: expected"):
        add.launch(GRAPH, grid=grid, args=ARGS)


@pytest.mark.parametrize(
    ("changes", "at", "says"),
    [
        ({"outputs": {}}, "out_ptr", "needs a shape: in inputs, outputs, inouts or temps"),
        ({"inouts": {"x_ptr": 4}}, "inouts.x_ptr", "'x_ptr' has a shape as input already"),
        ({"temps": {"n": 4}}, "n", "no pointer 'n'"),
        ({"scalars": {"x_ptr": 4}}, "x_ptr", "no number 'x_ptr'"),
        ({"scalars": {"BLOCK": 4}}, "BLOCK", "no number 'BLOCK'"),
    ],
)
def test_a_wrong_graph_is_refused_naming_the_parameter(add, changes, at, says):
    given = {"inputs": {"x_ptr": 4, "y_ptr": 4}, "outputs": {"out_ptr": 4}}
    with pytest.raises(BadRequest) as caught:
        add.graph("g", grid=1, **{**given, **changes})
    assert says in caught.value.message
    assert place(caught) == at


def test_an_added_graph_travels(add):
    graph = add.graph("add", grid=4, inputs={"x_ptr": 4, "y_ptr": 4}, outputs={"out_ptr": 4})
    assert msgspec.json.decode(graph.to_json(), type=GraphSpec).hash == graph.freeze().hash


# -------------------------------------------------------------------------------------------------------- no Triton

WITHOUT = """
import sys
sys.modules["triton"] = None
import kaasq.importers.triton
try:
    kaasq.importers.triton.compile(print, signature={}, target="sm_90")
except kaasq.BadRequest as error:
    print(error)
"""


def test_without_triton_the_module_can_be_imported_and_calling_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install '.[triton]'" in done.stdout


def test_importing_the_importer_does_not_load_triton():
    code = "import sys, kaasq.importers.triton; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_old_triton_is_refused(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.3.1")
    with pytest.raises(BadRequest, match=r"Triton 3\.3\.1 is installed, 3\.4 or newer is needed"):
        compiled()


# -------------------------------------------------------------------------------------------------------------- docs

SNIPPETS = re.compile(r"^```python triton\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_documents_snippets_run(tmp_path):
    """In a file of their own: Triton reads a kernel's source from its file."""
    page = Path(__file__).parents[2] / "docs" / "importers.md"
    snippets = SNIPPETS.findall(page.read_text(encoding="utf-8"))
    assert len(snippets) == 2
    script = tmp_path / "snippets.py"
    script.write_text("\n".join([*snippets, "print(len(graph.freeze().launches))"]), encoding="utf-8")
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, timeout=90)
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr
