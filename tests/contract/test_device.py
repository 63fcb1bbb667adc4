"""What every device must do, run on each: the CPU everywhere, the GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaasq.errors import KaasqError, ModuleRejected, OutOfMemory
from kaasq.model import Dim3, Module, dim3
from kaasq_workers.devices.protocol import Device, Memory, Stream
from kaasq_workers.executor.arguments import PackedArguments, pointer

SOURCE = r"""
#include <cuda_fp16.h>

extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a * x[i] + y[i];
}

#define TILE 16
extern "C" __global__ void matmul(const float* a, const float* b, float* c, int n) {
    __shared__ float left[TILE][TILE], right[TILE][TILE];
    int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0;
    for (int tile = 0; tile < n / TILE; tile++) {
        left[threadIdx.y][threadIdx.x] = a[row * n + tile * TILE + threadIdx.x];
        right[threadIdx.y][threadIdx.x] = b[(tile * TILE + threadIdx.y) * n + column];
        __syncthreads();
        for (int k = 0; k < TILE; k++) sum += left[threadIdx.y][k] * right[k][threadIdx.x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

extern "C" __global__ void tree_sum(const float* x, float* out, int n) {
    extern __shared__ float partial[];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(out, partial[0]);
}

__device__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    return value;
}
extern "C" __global__ void shuffle_sum(const float4* x, float* out, int n) {
    __shared__ float warps[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float4 v = x[i];
        sum += v.x + v.y + v.z + v.w;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum(threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0.0f);
        if (threadIdx.x == 0) atomicAdd(out, sum);
    }
}

extern "C" __global__ void histogram(const unsigned char* x, unsigned* bins, int n) {
    __shared__ unsigned mine[256];
    mine[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&mine[x[i]], 1u);
    __syncthreads();
    atomicAdd(&bins[threadIdx.x], mine[threadIdx.x]);
}

extern "C" __global__ void where(unsigned* out, int nx, int ny) {
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    unsigned z = blockIdx.z * blockDim.z + threadIdx.z;
    out[(z * ny + y) * nx + x] = x | y << 8 | z << 16 | gridDim.z << 24;
}

struct Line { float slope; double offset; char tag; };
extern "C" __global__ void line(Line line, const float* x, float* out, char last) {
    out[threadIdx.x] = line.slope * x[threadIdx.x] + (float)line.offset + line.tag + last;
}

template <class T, int factor>
__global__ void scale(const T* x, T* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] * (T)factor;
}

extern "C" __global__ void early_return(const half* x, half* out, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __syncthreads();
    out[i] = __float2half(a * __half2float(x[i]));
}
"""
NAMES = (
    "saxpy", "matmul", "tree_sum", "shuffle_sum", "histogram", "where", "line", "scale<float, 3>",
    "scale<double, -2>", "early_return",
)  # fmt: skip
CPU_MEMORY_BYTES = 1 << 30


class Rig:
    """A device with the kernels loaded, for arrays in and arrays out."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.stream: Stream = device.stream()
        self.module = device.load(Module.from_source(SOURCE), NAMES)

    def put(self, array: np.ndarray) -> Memory:
        memory = self.device.allocate(array.nbytes)
        self.stream.copy_in(memory, np.ascontiguousarray(array).data.cast("B"))
        return memory

    def get(self, memory: Memory, like: np.ndarray) -> np.ndarray:
        data = bytearray(like.nbytes)
        self.stream.copy_out(memory, memoryview(data))
        self.stream.synchronize()
        return np.frombuffer(data, like.dtype).reshape(like.shape)

    def run(self, name: str, grid: int | Dim3, block: int | Dim3, *args: object, shared_bytes: int = 0) -> None:
        """Launch with arrays copied in and, since kernels write to them, copied back."""
        placed = {id(each): self.put(each) for each in args if isinstance(each, np.ndarray)}
        values = [pointer(placed[id(a)].address) if isinstance(a, np.ndarray) else _value(a) for a in args]
        arguments = PackedArguments(values)
        self.stream.launch(self.module.kernel(name), dim3(grid), dim3(block), arguments, shared_bytes)
        self.stream.synchronize()
        for each in args:
            if isinstance(each, np.ndarray):
                each[...] = self.get(placed[id(each)], each)
                placed[id(each)].free()


def _value(value: object) -> bytes:
    assert isinstance(value, np.generic | bytes)
    return value if isinstance(value, bytes) else value.tobytes()


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def made(request: pytest.FixtureRequest, code_folder: Path) -> Iterator[Device]:
    if request.param == "cpu":
        from kaasq_workers.devices.cpu import CpuDevice

        device: Device = CpuDevice(cache_dir=code_folder / "cpu", memory_limit=CPU_MEMORY_BYTES)
    else:
        from kaasq_workers.devices.cuda import CudaDevice

        device = CudaDevice(0, cache_dir=code_folder / "cuda")
    yield device
    device.close()


@pytest.fixture(scope="module")
def rig(made: Device) -> Rig:
    return Rig(made)


@pytest.fixture
def device(made: Device) -> Device:
    return made


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_a_device_says_what_it_is_and_what_it_can_take(device: Device) -> None:
    assert device.description
    assert device.name in {"cpu", "cuda:0"}
    assert not device.poisoned
    assert device.limits.memory > 0
    assert device.limits.shared_per_block >= 48 << 10
    assert device.limits.threads_per_block == 1024


def test_the_parameter_table_is_the_kernels_own(rig: Rig) -> None:
    table = rig.module.kernel("saxpy").parameters
    assert table is not None
    assert [(p.offset, p.size) for p in table] == [(0, 4), (8, 8), (16, 8), (24, 8), (32, 4)]
    assert [p.pointer for p in table] in ([False, True, True, True, False], [None] * 5)

    table = rig.module.kernel("line").parameters
    assert table is not None
    assert [(p.offset, p.size) for p in table] == [(0, 24), (24, 8), (32, 8), (40, 1)]


def test_static_shared_memory_is_the_kernels_own(rig: Rig) -> None:
    used = {name: rig.module.kernel(name).static_shared_bytes for name in NAMES}
    expected = {"matmul": 2 * 16 * 16 * 4, "shuffle_sum": 32 * 4, "histogram": 256 * 4}
    assert used == {name: expected.get(name, 0) for name in NAMES}


def test_saxpy(rig: Rig) -> None:
    n = 100_003
    x, y = rng().random((2, n), dtype=np.float32)
    out = np.zeros(n, np.float32)
    rig.run("saxpy", -(-n // 256), 256, np.float32(3), x.copy(), y.copy(), out, np.int32(n))
    np.testing.assert_allclose(out, 3 * x + y, rtol=1e-6)


def test_a_tiled_matrix_product_with_static_shared_memory(rig: Rig) -> None:
    n = 64
    a, b = rng().random((2, n, n), dtype=np.float32)
    c = np.zeros((n, n), np.float32)
    rig.run("matmul", (n // 16, n // 16, 1), (16, 16, 1), a.copy(), b.copy(), c, np.int32(n))
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)


def test_a_tree_sum_in_dynamic_shared_memory(rig: Rig) -> None:
    x, out = rng().random(70_001, dtype=np.float32), np.zeros(1, np.float32)
    rig.run("tree_sum", 8, 256, x, out, np.int32(x.size), shared_bytes=1024)
    np.testing.assert_allclose(out[0], x.sum(dtype=np.float64), rtol=1e-5)


def test_a_sum_by_warp_shuffles_of_float4(rig: Rig) -> None:
    x, out = rng().random(64_000, dtype=np.float32), np.zeros(1, np.float32)
    rig.run("shuffle_sum", 8, 128, x, out, np.int32(x.size // 4))
    np.testing.assert_allclose(out[0], x.sum(dtype=np.float64), rtol=1e-5)


def test_a_histogram_with_shared_and_global_atomics(rig: Rig) -> None:
    x, bins = rng().integers(0, 256, 100_000, dtype=np.uint8), np.zeros(256, np.uint32)
    rig.run("histogram", 16, 256, x, bins, np.int32(x.size))
    np.testing.assert_array_equal(bins, np.bincount(x, minlength=256))


def test_a_grid_of_three_dimensions(rig: Rig) -> None:
    out = np.zeros((4, 6, 10), np.uint32)
    rig.run("where", (5, 2, 2), (2, 3, 2), out, np.int32(10), np.int32(6))
    z, y, x = np.indices(out.shape, dtype=np.uint32)
    np.testing.assert_array_equal(out, x | y << 8 | z << 16 | np.uint32(2 << 24))


def test_a_struct_by_value(rig: Rig) -> None:
    x, out = rng().random(32, dtype=np.float32), np.zeros(32, np.float32)
    line = np.zeros(1, np.dtype([("slope", "f4"), ("offset", "f8"), ("tag", "i1")], align=True))
    line[0] = (2.5, 10.25, -3)
    rig.run("line", 1, 32, line.tobytes(), x.copy(), out, np.int8(1))
    np.testing.assert_allclose(out, 2.5 * x + 8.25, rtol=1e-6)


@pytest.mark.parametrize(("name", "dtype", "factor"), [("scale<float, 3>", "f4", 3), ("scale<double, -2>", "f8", -2)])
def test_a_template_by_name_expression(rig: Rig, name: str, dtype: str, factor: int) -> None:
    x = rng().random(1000).astype(dtype)
    out = np.zeros_like(x)
    rig.run(name, 4, 256, x.copy(), out, np.int32(x.size))
    np.testing.assert_array_equal(out, x * np.dtype(dtype).type(factor))


def test_threads_that_return_before_a_barrier(rig: Rig) -> None:
    x = rng().random(1000).astype(np.float16)
    out = np.zeros_like(x)
    rig.run("early_return", 4, 256, x.copy(), out, np.float32(3), np.int32(x.size))
    np.testing.assert_array_equal(out, (np.float32(3) * x.astype(np.float32)).astype(np.float16))


def test_copies_and_zero_with_offsets(rig: Rig) -> None:
    data = np.arange(4096, dtype=np.uint8)
    memory, other = rig.device.allocate(4096), rig.device.allocate(8192)
    assert memory.address % 256 == 0
    assert memory.nbytes == 4096

    rig.stream.zero(memory)
    rig.stream.copy_in(memory, memoryview(data.data)[:100], offset=1000)
    expected = np.zeros(4096, np.uint8)
    expected[1000:1100] = data[:100]
    np.testing.assert_array_equal(rig.get(memory, expected), expected)

    rig.stream.zero(other)
    rig.stream.copy(other, memory)
    part = bytearray(200)
    rig.stream.copy_out(other, memoryview(part), offset=950)
    rig.stream.synchronize()
    assert bytes(part) == expected[950:1150].tobytes()
    memory.free()
    memory.free()
    other.free()


def test_input_may_be_read_only(rig: Rig) -> None:
    memory = rig.device.allocate(5)
    rig.stream.copy_in(memory, memoryview(b"hello"))
    assert rig.get(memory, np.zeros(5, np.uint8)).tobytes() == b"hello"


def test_marks_measure_what_lies_between_them(rig: Rig) -> None:
    n = 1 << 20
    x = rig.put(np.ones(n, np.float32))
    arguments = PackedArguments([_value(np.float32(1)), *[pointer(x.address)] * 3, _value(np.int32(n))])
    before = rig.stream.mark()
    rig.stream.launch(rig.module.kernel("saxpy"), (n // 256, 1, 1), (256, 1, 1), arguments, 0)
    after = rig.stream.mark()
    rig.stream.synchronize()
    assert 0 < after.us_since(before) < 1e6


def test_a_syntax_error_is_reported_with_its_line(device: Device) -> None:
    source = '\n\nextern "C" __global__ void k(float* x) {\n    x[0] = undeclared + 1;\n}\n'
    with pytest.raises(ModuleRejected) as caught:
        device.load(Module.from_source(source), ("k",))
    assert "undeclared" in caught.value.message
    assert "(4)" in caught.value.log or ":4:" in caught.value.log


def test_a_missing_kernel_is_reported_with_those_there_are(device: Device) -> None:
    source = (
        'extern "C" __global__ void first(int* x) { *x = 1; }\nextern "C" __global__ void second(int* x) { *x = 2; }'
    )
    with pytest.raises(ModuleRejected, match="third") as caught:
        device.load(Module.from_source(source), ("third",)).kernel("third")
    assert "first" in caught.value.message
    assert "second" in caught.value.message


def test_a_module_that_is_not_code_is_rejected(device: Device) -> None:
    with pytest.raises(ModuleRejected):
        device.load(Module(kind="cubin", code=b"not a cubin"), ("k",)).kernel("k")


def test_options_define_macros(rig: Rig) -> None:
    source = 'extern "C" __global__ void k(int* x) { *x = WIDTH + FLAG; }'
    module = rig.device.load(Module.from_source(source, options=("-DWIDTH=40", "-DFLAG")), ("k",))
    memory = rig.device.allocate(4)
    arguments = PackedArguments([pointer(memory.address)])
    rig.stream.launch(module.kernel("k"), (1, 1, 1), (1, 1, 1), arguments, 0)
    assert rig.get(memory, np.zeros(1, np.int32))[0] == 41
    module.unload()


def test_a_launch_with_too_many_threads_fails(rig: Rig) -> None:
    memory = rig.put(np.zeros(16, np.float32))
    arguments = PackedArguments([_value(np.float32(1)), *[pointer(memory.address)] * 3, _value(np.int32(0))])
    with pytest.raises(KaasqError) as caught:  # noqa: PT012  # a device may say so at once or when it is waited for
        rig.stream.launch(rig.module.kernel("saxpy"), (1, 1, 1), (2048, 1, 1), arguments, 0)
        rig.stream.synchronize()
    assert caught.value.code == "kernel_failed"


def test_more_memory_than_there_is(device: Device) -> None:
    with pytest.raises(OutOfMemory) as caught:
        device.allocate(1 << 50)
    assert caught.value.needed == 1 << 50
    assert 0 < caught.value.capacity < 1 << 50
