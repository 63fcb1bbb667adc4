"""Grid-stride loops on the CPU device give what one thread after the other gives, and fast."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from kaasq.model import Dim3, Module, dim3
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.executor.arguments import PackedArguments, pointer

SOURCE = r"""
#define ME (blockIdx.x * blockDim.x + threadIdx.x)
#define ALL (gridDim.x * blockDim.x)
extern "C" __global__ void saxpy(const float* x, float* out, int n, float a) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = a * x[i] + out[i];
}
extern "C" __global__ void skipping(const float* x, float* out, int n, float a) {
    const int stride = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        if (x[i] < 0.5f) continue;
        for (int k = 0; k < 3; k++) out[i] += k * a;
    }
}
extern "C" __global__ void walking(const float* x, float* out, int n, float a) {
    unsigned i = threadIdx.x + blockIdx.x * blockDim.x;
    while (i < n) { out[i] = x[i] + a; i += blockDim.x * gridDim.x; }
}
// A slot for each thread: its own rounds must come in order.
extern "C" __global__ void ordered(const float* x, float* out, int n, float a) {
    const unsigned tid = blockIdx.x * blockDim.x + threadIdx.x;
    for (size_t i = tid; i < n; i += gridDim.x * blockDim.x) out[tid] = out[tid] * a + x[i];
}
extern "C" __global__ void within_a_block(const float* x, float* out, int n, float a) {
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < n; i += blockDim.x * blockDim.y)
        atomicAdd(&out[blockIdx.x + gridDim.x * blockIdx.y], a * x[i]);
}
// Looks like one, but the sum goes from round to round: the compiler says so, and the plain form is taken.
__device__ float add(float& sum, float x) { return sum += x; }
extern "C" __global__ void carrying(const float* x, float* out, int n, float a) {
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = add(sum, a * x[i]);
}
"""
NAMES = ("saxpy", "skipping", "walking", "ordered", "within_a_block", "carrying")


@pytest.fixture(scope="module")
def modules(cpu: CpuDevice) -> dict[str, Any]:
    return {name: cpu.load(Module.from_source(SOURCE), (name,)) for name in NAMES}


def expected(name: str, x: np.ndarray, out: np.ndarray, a: np.float32, grid: Dim3, block: Dim3) -> np.ndarray:
    """What the threads give, one by one."""
    result, n = out.copy(), x.size
    threads = grid[0] * block[0]
    match name:
        case "saxpy":
            return a * x + out
        case "skipping":
            return np.where(x < 0.5, out, out + 3 * a)
        case "walking":
            return x + a
        case "ordered":
            for i in range(n):
                result[i % threads] = result[i % threads] * a + x[i]
        case "within_a_block":
            result[: grid[0] * grid[1]] += a * x.sum(dtype=np.float64)
        case "carrying":
            for start in range(threads):
                result[start::threads] = np.cumsum(a * x[start::threads], dtype=np.float64)
    return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("n", "grid", "block"),
    [(100_003, 7, 96), (100_003, 64, 256), (1000, 64, 256), (64, 2, 32), (1, 3, 33), (0, 1, 32), (5000, 1, 1)],
)
def test_every_element_once_and_in_order(cpu: CpuDevice, modules, name: str, n: int, grid: int, block: int) -> None:
    shape, threads = dim3(grid), dim3(block)
    if name == "within_a_block":
        shape, threads = (grid, 2, 1), (block, 3, 1)
    random = np.random.default_rng(5)
    x, out = random.random(n, dtype=np.float32), random.random(max(n, grid * block, 2 * grid), dtype=np.float32)[:n]
    out = np.concatenate([out, np.zeros(2 * grid * block, np.float32)])
    a = np.float32(0.75)
    wanted = out.copy()
    whole = expected(name, x, out if name in {"ordered", "within_a_block"} else out[:n], a, shape, threads)
    wanted[: whole.size] = whole
    values = [pointer(x.ctypes.data), pointer(out.ctypes.data), np.int32(n).tobytes(), a.tobytes()]
    cpu.stream().launch(modules[name].kernel(name), shape, threads, PackedArguments(values), 0)
    np.testing.assert_allclose(out, wanted, rtol=2e-4)


def test_which_kernels_are_run_round_by_round(modules) -> None:
    assert {name for name in NAMES if modules[name].kernel(name).strided} == {*NAMES} - {"carrying"}


def test_a_kernel_that_is_not_asked_for_costs_the_others_nothing(cpu: CpuDevice) -> None:
    names = tuple(name for name in NAMES if name != "carrying")
    assert all(cpu.load(Module.from_source(SOURCE), names).kernel(name).strided for name in names)
    assert not cpu.load(Module.from_source(SOURCE), NAMES).kernel("saxpy").strided


def test_a_template_is_run_round_by_round_too(cpu: CpuDevice) -> None:
    source = """namespace deep { template <class T, int factor> __global__ void scale(T* x, int n) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] *= factor;
    } }"""
    name = "deep::scale<double, 3>"
    kernel = cpu.load(Module.from_source(source), (name,)).kernel(name)
    assert kernel.strided
    x = np.arange(1000.0)
    arguments = PackedArguments([pointer(x.ctypes.data), np.int32(x.size).tobytes()])
    cpu.stream().launch(kernel, (1, 1, 1), (32, 1, 1), arguments, 0)
    np.testing.assert_array_equal(x, 3 * np.arange(1000.0))


def test_a_limit_or_stride_that_the_second_form_cannot_take_is_left_to_the_first(cpu: CpuDevice) -> None:
    """Near the counter's end, with strides that differ, and not forwards."""
    source = """
    extern "C" __global__ void far(int* out, unsigned from, unsigned to) {
        for (unsigned i = from + threadIdx.x; i < to; i += blockDim.x) atomicAdd(&out[i - from], 1);
    }
    extern "C" __global__ void uneven(int* out, unsigned from, unsigned to) {
        for (unsigned i = from + threadIdx.x; i < to; i += 1 + threadIdx.x) atomicAdd(&out[i - from], 1);
    }"""
    module = cpu.load(Module.from_source(source), ("far", "uneven"))
    start, count = 2**32 - 2000, 1500
    for name, begin, counts in (
        ("far", start, np.ones(count)),
        ("uneven", 5, [sum(i >= t and (i - t) % (1 + t) == 0 for t in range(32)) for i in range(count)]),
    ):
        out = np.zeros(count, np.int32)
        values = [pointer(out.ctypes.data), np.uint32(begin).tobytes(), np.uint32(begin + count).tobytes()]
        cpu.stream().launch(module.kernel(name), (1, 1, 1), (32, 1, 1), PackedArguments(values), 0)
        np.testing.assert_array_equal(out, counts)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("#ifndef SIZE\n#define SIZE 64\n#endif\nKERNEL { LOOP(SIZE) out[i] = x[i]; }", ("-DSIZE=500",)),
        ("#define n 5\n#undef n\nKERNEL { LOOP(n) out[i] = x[i]; }", ()),
        ("KERNEL { LOOP(n) { if (x[i] > 0.8f) END; out[i] = x[i]; } }", ("-DEND=break",)),
        ("KERNEL { float sum = 0; LOOP(n) { (float&)sum += x[i]; out[i] = sum; } }", ()),
        (
            """extern __shared__ float mine[];
            KERNEL { LOOP(n) {
                mine[threadIdx.x] = (i < ALL ? 0 : mine[threadIdx.x]) + x[i];
                out[i] = mine[threadIdx.x];
            } }""",
            (),
        ),
    ],
    ids=["option before default", "macro that ended", "break by option", "sum in disguise", "sum in shared memory"],
)
def test_what_is_no_plain_loop_gives_what_threads_one_by_one_give(cpu: CpuDevice, source: str, options: Any) -> None:
    loop = "for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < {}; i += ALL)"
    source = re.sub(r"LOOP\((\w+)\)", lambda found: loop.format(found[1]), source)
    source = source.replace("ALL", "gridDim.x * blockDim.x").replace(
        "KERNEL", 'extern "C" __global__ void k(const float* x, float* out, int n)'
    )
    x = np.random.default_rng(5).random(1000, dtype=np.float32)

    def launched(text: str) -> np.ndarray:
        out = np.zeros_like(x)
        module = cpu.load(Module.from_source(text, options=options), ("k",))
        values = [pointer(x.ctypes.data), pointer(out.ctypes.data), np.int32(x.size).tobytes()]
        cpu.stream().launch(module.kernel("k"), (3, 1, 1), (32, 1, 1), PackedArguments(values), 128)
        return out

    plain = source.replace("int n) {", "int n) { if (n < 0) return;")  # has no second form
    np.testing.assert_array_equal(launched(source), launched(plain))
    assert launched(source).any()


def test_a_specialisation_is_not_run_as_its_template(cpu: CpuDevice) -> None:
    loop = "for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] ="
    source = f"""template <class T> __global__ void k(T* x, int n) {{ {loop} 1; }}
        template <> __global__ void k<float>(float* x, int n) {{ {loop} 2; }}"""
    x = np.zeros(1000, np.float32)
    kernel = cpu.load(Module.from_source(source), ("k<float>",)).kernel("k<float>")
    cpu.stream().launch(
        kernel, (1, 1, 1), (32, 1, 1), PackedArguments([pointer(x.ctypes.data), np.int32(1000).tobytes()]), 0
    )
    np.testing.assert_array_equal(x, 2)
