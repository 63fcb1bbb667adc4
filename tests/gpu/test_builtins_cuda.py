"""The built-ins on a real GPU: what they promise beyond the answers that the suite over all devices checks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kaasq.builtins import Builtin, Call, Mistake, Operand, find_builtin, number, reads, writes
from kaasq.errors import KernelFailed, ModuleRejected
from kaasq.model import Module
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cuda import CudaDevice
from kaasq_workers.devices.cuda.builtins.steps import Bounds, ProductStep
from kaasq_workers.devices.cuda.builtins.table import PLANS
from kaasq_workers.executor.arguments import PackedArguments, pointer
from tests.support.cuda_cases import CASES, blank, values
from tests.support.cuda_steps import Case, call_of, compare, raw, run_on

pytestmark = pytest.mark.gpu

# The GPU's functions are a few units in the last place from the C library's; float16 is rounded once, from float32.
TOLERANCES = {"float16": 2e-3, "float32": 4e-6, "float64": 2e-14}
EPSILONS = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CudaDevice]:
    opened = CudaDevice(0, cache_dir=tmp_path_factory.mktemp("cuda-cache"))
    yield opened
    assert not opened.poisoned
    opened.close()


@pytest.fixture(scope="module")
def numpy_device(tmp_path_factory: pytest.TempPathFactory) -> CpuDevice:
    return CpuDevice(cache_dir=tmp_path_factory.mktemp("cpu-cache"))


class Prepared:
    """A case with its operands on the device, to be run again and again."""

    def __init__(self, device: CudaDevice, case: Case, stream: Any = None) -> None:
        self.case = case
        self.stream = stream or device.stream()
        self.operation = device.prepare(case.call())
        self.arrays = {name: value for name, value in case.operands.items() if isinstance(value, np.ndarray)}
        self.operands: dict[str, Any] = dict(case.numbers())
        for name, value in self.arrays.items():
            self.operands[name] = device.allocate(value.nbytes)
        self.upload()

    def upload(self) -> None:
        for name, value in self.arrays.items():
            self.stream.copy_in(self.operands[name], raw(value))
        self.stream.synchronize()

    def queue(self) -> None:
        self.stream.operate(self.operation, self.operands)

    def found(self) -> dict[str, np.ndarray]:
        result = {name: np.empty_like(value, order="C") for name, value in self.arrays.items()}
        for name, value in result.items():
            self.stream.copy_out(self.operands[name], raw(value))
        self.stream.synchronize()
        return result

    def run(self) -> dict[str, np.ndarray]:
        self.upload()
        self.queue()
        return self.found()


def multiplies(case: Case) -> bool:
    return any(isinstance(step, ProductStep) for step in case.steps())


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", sorted(PLANS))
def test_answers_are_those_of_numpy(device: CudaDevice, numpy_device: CpuDevice, name: str) -> None:
    for case in CASES:
        if case.builtin == name:
            device._builtins._bounds = case.bounds  # 64-bit indices and small scratch memory among them
            try:
                found = run_on(device, case)
            finally:
                device._builtins._bounds = Bounds()
            compare(case, found, run_on(numpy_device, case), TOLERANCES)


SIZES = [(1, 1, 1), (64, 64, 64), (127, 33, 65), (1, 1000, 513), (1025, 1, 77), (512, 768, 1024), (1000, 1001, 1003)]


@pytest.mark.parametrize("dtype", EPSILONS)
@pytest.mark.parametrize(("transpose_a", "transpose_b"), list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-0.5, 2.0)])
def test_gemm_is_as_exact_as_its_dtype(
    device: CudaDevice, dtype: str, transpose_a: bool, transpose_b: bool, alpha: float, beta: float
) -> None:
    for (m, n, k), batch in itertools.product(SIZES, ((), (3,))):
        a = values(dtype, *batch, *((k, m) if transpose_a else (m, k)))
        b = values(dtype, *batch, *((n, k) if transpose_b else (k, n)))
        c = values(dtype, *batch, m, n)
        attrs = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        found = run_on(device, Case("gemm", {"a": a, "b": b, "c": c, "alpha": alpha, "beta": beta}, attrs))["c"]
        left, right, before = (each.astype(np.float64) for each in (a, b, c))
        left = left.swapaxes(-1, -2) if transpose_a else left
        right = right.swapaxes(-1, -2) if transpose_b else right
        exact = alpha * (left @ right) + beta * before
        # Errors of a sum of k products grow with its terms, not with its value; float16 accumulates in float32.
        terms = abs(alpha) * (np.abs(left) @ np.abs(right)) + abs(beta * before)
        accumulated = EPSILONS["float32" if dtype == "float16" else dtype] * np.sqrt(k) * 4
        smallest = 2.0**-24 if dtype == "float16" else 0  # what its subnormals are apart
        bound = terms * accumulated + np.abs(exact) * EPSILONS[dtype] + smallest
        worst = np.max(np.abs(found - exact) / bound)
        assert worst < 1, (m, n, k, batch, worst)


def test_float32_is_not_multiplied_as_tf32(device: CudaDevice) -> None:
    """1 + 2^-12 is 1 in TF32."""
    a = np.full((256, 256), 1 + 2.0**-12, np.float32)
    b = np.eye(256, dtype=np.float32)
    found = run_on(device, Case("gemm", {"a": a, "b": b, "c": blank("float32", 256, 256)}, {}))["c"]
    np.testing.assert_array_equal(found, a)


def test_gemm_with_beta_0_does_not_read_c(device: CudaDevice) -> None:
    for dtype in EPSILONS:
        c = np.full((40, 30), np.nan, dtype)
        found = run_on(device, Case("gemm", {"a": values(dtype, 40, 7), "b": values(dtype, 7, 30), "c": c}, {}))["c"]
        assert np.isfinite(found).all()


def test_cublas_through_cupy_gives_the_same_products(device: CudaDevice) -> None:
    """What stands in where nvmath-python is not installed."""
    from kaasq_workers.devices.cuda.builtins.cublas import Cublas

    here = device._builtins.products
    cases = [case for case in CASES if case.builtin in {"gemm", "conv2d"} and multiplies(case)]
    wanted = [run_on(device, case) for case in cases]
    device._builtins.products = Cublas()  # a cached property: its value is an attribute
    try:
        for case, answer in zip(cases, wanted, strict=True):
            compare(case, run_on(device, case), answer, TOLERANCES)
    finally:
        device._builtins.products.close()
        device._builtins.products = here


# ------------------------------------------------------------------------------------------------------- large buffers


def test_more_than_2_to_the_31_elements(device: CudaDevice) -> None:
    """Fill, add, copy, cast, reduce and argmax reach the last element."""
    n = 2**31 + 4099
    if device.limits.memory < 3 * n + (1 << 30):
        pytest.skip(f"needs {3 * n + (1 << 30)} bytes of GPU memory, there are {device.limits.memory}")
    stream = device.stream()
    x, y = device.allocate(n), device.allocate(n)
    few = device.allocate(64)

    def operand(name: str, dtype: str, shape: tuple[int, ...] = (n,)) -> Operand:
        return Operand(name, dtype, shape, is_buffer=True)

    def run(builtin: str, given: dict[str, Any], operands: dict[str, Operand], attrs: dict[str, Any]) -> None:
        found = find_builtin(builtin)
        assert found is not None
        stream.operate(device.prepare(Call(found, operands, attrs)), given)

    def number_at(memory: Any, dtype: str) -> Any:
        out = np.empty(1, dtype)
        stream.copy_out(memory, raw(out))
        stream.synchronize()
        return out[0]

    u8 = operand("x", "uint8")
    run("fill", {"out": x, "value": 3}, {"out": u8}, {})
    run("add", {"a": x, "b": x, "out": y}, {"a": u8, "b": u8, "out": u8}, {})
    assert number_at(y.part(n - 1, 1), "uint8") == number_at(y.part(0, 1), "uint8") == 6
    total = {"x": u8, "out": operand("out", "uint8", ())}
    run("reduce", {"x": y, "out": few}, total, {"op": "sum", "axes": (), "keepdims": False})
    assert number_at(few, "uint8") == n * 6 % 256
    stream.copy_in(y.part(n - 2, 1), memoryview(b"\x09"))
    run("argmax", {"x": y, "out": few}, {"x": u8, "out": operand("out", "int64", ())}, {"axis": 0, "keepdims": False})
    assert number_at(few, "int64") == n - 2
    run("abs", {"x": y, "out": x}, {"x": u8, "out": u8}, {})
    assert number_at(x.part(n - 2, 1), "uint8") == 9
    rows = (2**20 + 1, 2**11)  # 2^31 + 2^11 elements, so both of its axes are needed to say where one lies
    turned = {"x": operand("x", "uint8", rows), "out": operand("out", "uint8", rows[::-1])}
    run("fill", {"out": x, "value": 0}, {"out": u8}, {})
    stream.copy_in(x.part(2**20 * 2**11 + 5, 1), memoryview(b"\x07"))
    run("transpose", {"x": x, "out": y}, turned, {"axes": ()})
    assert number_at(y.part(5 * (2**20 + 1) + 2**20, 1), "uint8") == 7


# ----------------------------------------------------------------------------------------------- promises to the engine

LARGER = [
    Case("reduce", {"x": values("float32", 2_000_001), "out": blank("float32")}, {"op": "sum"}),
    Case("reduce", {"x": values("float32", 3000, 700), "out": blank("float32", 700)}, {"op": "mean", "axes": (0,)}),
    Case("softmax", {"x": values("float32", 30, 5000), "out": blank("float32", 30, 5000)}, {}),
    Case("layernorm", {"x": values("float16", 99, 4096), "out": blank("float16", 99, 4096)}, {}),
    Case(
        "gemm", {"a": values("float16", 64, 8192), "b": values("float16", 8192, 64), "c": blank("float16", 64, 64)}, {}
    ),
    Case(
        "gemm", {"a": values("float32", 64, 8192), "b": values("float32", 8192, 64), "c": blank("float32", 64, 64)}, {}
    ),
    Case(
        "conv2d",
        {
            "x": values("float32", 8, 16, 40, 40),
            "w": values("float32", 32, 16, 3, 3),
            "out": blank("float32", 8, 32, 40, 40),
            "bias": values("float32", 32),
        },
        {"pads": (1, 1, 1, 1)},
    ),
]


@pytest.mark.parametrize("case", LARGER, ids=repr)
def test_the_same_bits_every_time(device: CudaDevice, case: Case) -> None:
    prepared = Prepared(device, case)
    first = prepared.run()
    again = Prepared(device, case)
    for found in (prepared.run(), again.run(), prepared.run()):
        for name, array in first.items():
            assert found[name].tobytes() == array.tobytes()


def test_calls_allocate_nothing(device: CudaDevice) -> None:
    import cupy

    prepared = [Prepared(device, case) for case in LARGER]
    for each in prepared:
        each.run()

    def pools() -> tuple[int, ...]:
        pool, others = device._memory._pool, cupy.get_default_memory_pool()
        return pool.used_bytes(), pool.total_bytes(), others.total_bytes()

    def taken() -> int:
        """Of the whole GPU, which other tests may use beside this one."""
        free: int = cupy.cuda.runtime.memGetInfo()[0]
        for each in prepared:
            for _ in range(100):
                each.queue()
            each.stream.synchronize()
        return free - int(cupy.cuda.runtime.memGetInfo()[0])

    before = pools()
    assert min(taken() for _ in range(5)) <= 0
    assert pools() == before


def first_cases() -> list[Case]:
    """Each kernel and each kind of product once."""
    seen: set[str] = set()
    chosen = []
    for case in [*LARGER, *CASES]:
        if case.bounds != Bounds():
            continue
        names = {
            f"{case.builtin} {step.dtype}"
            if isinstance(step, ProductStep)
            else step.kernel.partition("<")[0] + case.builtin
            for step in case.steps()
        }
        if not names <= seen:
            seen |= names
            chosen.append(case)
    return chosen


@pytest.mark.parametrize("case", first_cases(), ids=repr)
def test_calls_can_be_captured_into_a_cuda_graph(device: CudaDevice, case: Case) -> None:
    prepared = Prepared(device, case)
    wanted = prepared.run()
    prepared.upload()
    stream = prepared.stream
    stream.cupy.begin_capture()
    if multiplies(case) and not device._builtins.products.capturable:
        with pytest.raises(KernelFailed, match="capture"):  # CuPy's own limit, as documented
            prepared.queue()
        stream.cupy.end_capture()
        return
    prepared.queue()
    graph = stream.cupy.end_capture()
    untouched = prepared.found()
    for name, array in prepared.arrays.items():
        assert untouched[name].tobytes() == np.ascontiguousarray(array).tobytes()  # captured, not run
    for _ in range(2):
        prepared.upload()
        graph.launch(stream.cupy)
        found = prepared.found()
        for name, array in wanted.items():
            assert found[name].tobytes() == array.tobytes()


def test_streams_do_not_share_what_operations_leave_in_memory(device: CudaDevice) -> None:
    """The same operations on two streams at once, each with operands of its own."""
    for case in LARGER:
        pairs = [Prepared(device, case), Prepared(device, case)]
        other = {name: value[::-1].copy() if value.ndim else value for name, value in pairs[1].arrays.items()}
        pairs[1].arrays = other
        wanted = [each.run() for each in pairs]
        pairs[1].operation = pairs[0].operation
        for each in pairs:
            each.upload()
        for _ in range(20):
            for each in pairs:
                each.queue()
        for each, answer in zip(pairs, wanted, strict=True):
            found = each.found()
            for name, array in answer.items():
                assert found[name].tobytes() == array.tobytes(), (case, name)


def test_built_ins_and_kernels_follow_each_other_on_a_stream(device: CudaDevice) -> None:
    source = r"""extern "C" __global__ void twice(float* x, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) x[i] *= 2;
    }"""
    n = 1 << 20
    kernel = device.load(Module.from_source(source), ("twice",)).kernel("twice")
    x = np.full(n, 1, np.float32)
    case = Case("axpy", {"x": x, "y": x, "alpha": 1.0}, {})
    prepared = Prepared(device, case)
    packed = PackedArguments([pointer(prepared.operands["y"].address), np.int32(n).tobytes()])
    expected = 1.0
    for _ in range(10):
        prepared.queue()
        prepared.stream.launch(kernel, (n // 256, 1, 1), (256, 1, 1), packed, 0)
        expected = (expected + 1) * 2
    np.testing.assert_array_equal(prepared.found()["y"], np.full(n, expected, np.float32))


def test_numbers_are_read_when_a_call_is_queued(device: CudaDevice) -> None:
    prepared = Prepared(device, Case("axpy", {"x": np.ones(1000, np.float32), "y": np.zeros(1000, np.float32)}, {}))
    for alpha in (1, 0.5, 100.0):
        prepared.operands["alpha"] = alpha
        prepared.queue()
    np.testing.assert_array_equal(prepared.found()["y"], np.full(1000, 101.5, np.float32))


# ---------------------------------------------------------------------------------------------------- other packages'


def custom(run: Any) -> Builtin:
    def check(call: Call) -> None:
        if call.shape("x") != call.shape("out"):
            raise Mistake("the shapes differ", "out")

    parameters = (reads("x"), writes("out"), number("by", 2.0))
    return Builtin("test.scaled", parameters, check, {"plus": 0.0}, run=run)


def call_custom(device: CudaDevice, run: Any) -> np.ndarray:
    x = values("float32", 5, 7)
    operands = {name: Operand(name, "float32", x.shape, is_buffer=True) for name in ("x", "out")}
    stream = device.stream()
    given: dict[str, Any] = {"x": device.allocate(x.nbytes), "out": device.allocate(x.nbytes), "by": 3.0}
    stream.copy_in(given["x"], raw(x))
    stream.operate(device.prepare(Call(custom(run), operands, {"plus": 1.0})), given)
    out = np.empty_like(x)
    stream.copy_out(given["out"], raw(out))
    stream.synchronize()
    np.testing.assert_allclose(out, x * 3 + 1, rtol=1e-6)
    return out


def test_a_built_in_of_another_package_gets_cupy_arrays_on_the_operands_memory(device: CudaDevice) -> None:
    seen: dict[str, Any] = {}

    def run(xp: Any, operands: dict[str, Any], attrs: dict[str, Any]) -> None:
        seen.update(operands, stream=xp.cuda.get_current_stream().ptr, name=xp.__name__)
        operands["out"][...] = operands["x"] * operands["by"] + attrs["plus"]

    call_custom(device, run)
    assert seen["name"] == "cupy"
    assert seen["stream"] != 0
    assert type(seen["by"]) is float
    assert (seen["x"].shape, seen["x"].dtype) == ((5, 7), np.float32)


def test_an_error_in_a_built_in_of_another_package_fails_the_request_naming_it(device: CudaDevice) -> None:
    def run(xp: Any, operands: dict[str, Any], attrs: dict[str, Any]) -> None:
        raise ZeroDivisionError("no such luck")

    with pytest.raises(KernelFailed, match=r"test\.scaled.*ZeroDivisionError: no such luck"):
        call_custom(device, run)
    assert not device.poisoned


def test_a_built_in_that_the_device_lacks_is_rejected(device: CudaDevice) -> None:
    known = call_of("relu", {"x": values("float32", 4), "out": blank("float32", 4)}, {})
    unknown = Builtin("unheard_of", known.builtin.parameters, known.builtin.check)
    with pytest.raises(ModuleRejected, match="unheard_of"):
        device.prepare(known._replace(builtin=unknown))
