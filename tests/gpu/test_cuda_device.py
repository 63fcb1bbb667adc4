"""The cuda device on a real GPU: what the suite over all devices does not ask. Needs no compiler but NVRTC."""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq.errors import DeviceUnavailable, KernelFailed, ModuleRejected, OutOfMemory
from kaasq.model import Module, ModuleKind
from kaasq_workers.devices.cuda import CudaDevice
from kaasq_workers.devices.cuda.parameters import read_cubin
from kaasq_workers.executor.arguments import PackedArguments, pointer

pytestmark = pytest.mark.gpu

CUBINS = Path(__file__).parent.parent / "data" / "cubins"
KERNELS = (CUBINS / "kernels.cu").read_text()
SYMBOLS = {
    "saxpy": "saxpy",
    "mixed": "mixed",
    "wide": "wide",
    "nothing": "nothing",
    "scale<float>": "_Z5scaleIfEvPT_S0_i",
    "scale<double>": "_Z5scaleIdEvPT_S0_i",
}
SPIN = r"""
extern "C" __global__ void spin(long long cycles) { long long start = clock64(); while (clock64() - start < cycles); }
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CudaDevice]:
    opened = CudaDevice(0, cache_dir=tmp_path_factory.mktemp("cuda-cache"))
    yield opened
    assert not opened.poisoned
    opened.close()
    opened.close()


@pytest.fixture
def stream(device: CudaDevice) -> Any:
    return device.stream()


@pytest.fixture(scope="module")
def capability() -> tuple[int, int]:
    from cupy.cuda import runtime

    return runtime.deviceGetAttribute(75, 0), runtime.deviceGetAttribute(76, 0)


def arguments(*values: Any) -> PackedArguments:
    """Device memory as pointers, NumPy scalars and bytes as they are."""

    def raw(value: Any) -> bytes:
        match value:
            case bytes():
                return value
            case np.generic():
                return value.tobytes()
        return pointer(value.address)

    return PackedArguments([raw(each) for each in values])


def upload(device: CudaDevice, stream: Any, array: np.ndarray) -> Any:
    memory = device.allocate(array.nbytes)
    stream.copy_in(memory, array.data)
    return memory


def download(stream: Any, memory: Any, like: np.ndarray) -> np.ndarray:
    array = np.empty_like(like)
    stream.copy_out(memory, array.data)
    stream.synchronize()
    return array


def run(device: CudaDevice, module: Module, kernel: str, *values: Any, threads: int = 1, shared: int = 0) -> None:
    stream = device.stream()
    block = min(threads, 128)
    loaded = device.load(module, (kernel,))
    stream.launch(loaded.kernel(kernel), (-(-threads // block), 1, 1), (block, 1, 1), arguments(*values), shared)
    stream.synchronize()


def add(device: CudaDevice, module: Module, kernel: str = "add") -> None:
    """Run the ``add`` kernel of some module and check it."""
    stream = device.stream()
    x = np.arange(1000, dtype=np.float32)
    memory = upload(device, stream, x)
    stream.synchronize()
    run(device, module, kernel, memory, np.float32(3), np.int32(1000), threads=1000)
    np.testing.assert_array_equal(download(stream, memory, x), x + 3)


# ------------------------------------------------------------------------------------------------------------- modules


def test_source_runs_extern_c_kernels(device: CudaDevice) -> None:
    add(device, Module.from_source((CUBINS / "add.cu").read_text()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_source_runs_template_kernels_by_name_expression(device: CudaDevice, stream: Any, dtype: str) -> None:
    x = np.arange(64, dtype=dtype)
    memory = upload(device, stream, x)
    stream.synchronize()
    name = {"float32": "scale<float>", "float64": "scale<double>"}[dtype]
    run(device, Module.from_source(KERNELS), name, memory, np.dtype(dtype).type(2), np.int32(64), threads=64)
    np.testing.assert_array_equal(download(stream, memory, x), x * 2)


def test_source_runs_kernels_in_namespaces_and_without_extern_c(device: CudaDevice, stream: Any) -> None:
    source = """
        namespace a { namespace b { __global__ void one(int* x) { *x = 1; } } }
        __global__ void two(int* x) { *x = 2; }
    """
    memory = upload(device, stream, np.zeros(1, np.int32))
    stream.synchronize()
    for kernel, expected in (("a::b::one", 1), ("two", 2)):
        run(device, Module.from_source(source), kernel, memory)
        assert download(stream, memory, np.zeros(1, np.int32))[0] == expected


def test_options_reach_the_compiler(device: CudaDevice, stream: Any) -> None:
    source = 'extern "C" __global__ void k(int* x) { *x = VALUE + (__cplusplus >= 202002L); }'
    memory = upload(device, stream, np.zeros(1, np.int32))
    stream.synchronize()
    run(device, Module.from_source(source, options=("-DVALUE=41", "--std=c++20")), "k", memory)
    assert download(stream, memory, np.zeros(1, np.int32))[0] == 42


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("cuda_fp16.h", "*x = __half2float(__float2half(1.5f)) * 2;"),
        ("cuda_bf16.h", "*x = __bfloat162float(__float2bfloat16(1.5f)) * 2;"),
        ("cooperative_groups.h", "*x = cooperative_groups::this_thread_block().size() + 2;"),
        ("cuda_runtime.h", "float2 v = make_float2(1, 2); *x = v.x + v.y;"),
        ("stdint.h", "uint64_t wide = UINT32_MAX; *x = (wide >> 31) + 2;"),
        ("cmath", "*x = std::sqrt(9.0f) + (INFINITY < 0);"),
        ("cuda/std/cstdint", "cuda::std::uint8_t small = 3; *x = small;"),
    ],
)
def test_source_finds_headers_offline(device: CudaDevice, stream: Any, header: str, body: str) -> None:
    memory = upload(device, stream, np.zeros(1, np.float32))
    stream.synchronize()
    run(
        device,
        Module.from_source(f'#include <{header}>\nextern "C" __global__ void k(float* x) {{ {body} }}'),
        "k",
        memory,
    )
    assert download(stream, memory, np.zeros(1, np.float32))[0] == 3


def test_a_source_that_does_not_compile_is_rejected_with_the_line_and_the_log(device: CudaDevice) -> None:
    with pytest.raises(ModuleRejected, match=r"kernel\.cu\(2\): error.*undeclared") as caught:
        device.load(Module.from_source('extern "C" __global__ void k(int* x)\n{ *x = undeclared; }'), ("k",))
    assert "undeclared" in caught.value.log


def test_a_kernel_that_is_not_there_is_rejected_naming_those_that_are(device: CudaDevice) -> None:
    with pytest.raises(ModuleRejected, match=r"'absent'.*saxpy, mixed, scale"):
        device.load(Module.from_source(KERNELS), ("absent",))
    with pytest.raises(ModuleRejected, match=r"'absent'.*it has add"):
        device.load(Module(kind="ptx", code=(CUBINS / "add.ptx").read_bytes()), ("absent",))
    with pytest.raises(ModuleRejected, match=r"'absent'.*it has add"):
        device.load(Module(kind="fatbin", code=(CUBINS / "add.fatbin").read_bytes()), ("absent",))
    with pytest.raises(ModuleRejected, match=r"'saxpy'.*it has mixed"):
        device.load(Module.from_source(KERNELS), ("mixed",)).kernel("saxpy")


def test_ptx_runs(device: CudaDevice) -> None:
    add(device, Module(kind="ptx", code=(CUBINS / "add.ptx").read_bytes()))


def test_ptx_that_does_not_assemble_is_rejected(device: CudaDevice) -> None:
    code = (CUBINS / "add.ptx").read_bytes()
    for broken in (b"nonsense", code[: len(code) // 2], code.replace(b".target sm_75", b".target sm_999")):
        with pytest.raises(ModuleRejected):
            device.load(Module(kind="ptx", code=broken), ("add",))


def test_a_fatbin_runs(device: CudaDevice) -> None:
    add(device, Module(kind="fatbin", code=(CUBINS / "add.fatbin").read_bytes()))


def test_a_fatbin_without_code_for_the_device_is_rejected_naming_both(
    device: CudaDevice, capability: tuple[int, int]
) -> None:
    module = Module(kind="fatbin", code=(CUBINS / "add_sm_75.fatbin").read_bytes())
    if capability[0] == 7:
        add(device, module)
        return
    with pytest.raises(ModuleRejected, match=f"sm_75.*sm_{capability[0]}{capability[1]}"):
        device.load(module, ("add",))
    assert not device.poisoned


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_90_cuda12"])
def test_a_cubin_runs_on_its_architecture_and_is_rejected_elsewhere(
    device: CudaDevice, stream: Any, capability: tuple[int, int], name: str
) -> None:
    from cupy.cuda import runtime

    code = (CUBINS / f"{name}.cubin").read_bytes()
    module = Module(kind="cubin", code=code)
    if capability[0] * 10 != read_cubin(code).arch:
        with pytest.raises(ModuleRejected, match=f"{name[:5]}, the device is sm_{capability[0]}{capability[1]}"):
            device.load(module, ("saxpy",))
        return
    if runtime.driverGetVersion() < 13000 and name != "sm_90_cuda12":
        with pytest.raises(ModuleRejected):  # code of a newer CUDA than the driver's
            device.load(module, ("saxpy",))
        return
    x = np.arange(1000, dtype=np.float32)
    xs, ys, out = upload(device, stream, x), upload(device, stream, x + 1), device.allocate(x.nbytes)
    stream.synchronize()
    run(device, module, "saxpy", np.float32(2), xs, ys, out, np.int32(1000), threads=1000)
    np.testing.assert_array_equal(download(stream, out, x), 2 * x + x + 1)


@pytest.mark.parametrize("kind", ["cubin", "fatbin"])
def test_damaged_binaries_are_rejected(device: CudaDevice, kind: ModuleKind) -> None:
    whole = (CUBINS / {"cubin": "sm_90.cubin", "fatbin": "add.fatbin"}[kind]).read_bytes()
    for code in (b"", b"nonsense" * 100, whole[: len(whole) // 2], whole[:-1]):
        with pytest.raises(ModuleRejected):
            device.load(Module(kind=kind, code=code), ("saxpy",))
    assert not device.poisoned


def test_the_drivers_parameter_tables_are_those_read_from_the_cubin(device: CudaDevice) -> None:
    from cupy.cuda import driver

    from kaasq_workers.devices.cuda.compiled import CompiledCache
    from kaasq_workers.devices.cuda.compiler import Compiler

    compiler = Compiler(device._capability, CompiledCache(None))
    image = compiler.compile_source(KERNELS, (), tuple(SYMBOLS))
    assert image.cubin is not None
    assert image.symbols == SYMBOLS
    loaded = device.load(Module.from_source(KERNELS), tuple(SYMBOLS))
    for name, symbol in SYMBOLS.items():
        kernel, read = loaded.kernel(name), image.cubin.kernels[symbol]
        assert kernel.parameters == read.parameters, name
        told = driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, kernel.function)
        assert told == kernel.static_shared_bytes == read.static_shared_bytes, name
    assert loaded.kernel("mixed").threads_per_block == 128


def test_structs_and_small_types_by_value_arrive(device: CudaDevice, stream: Any) -> None:
    xs, ys = upload(device, stream, np.array([5, 7], np.float32)), upload(device, stream, np.zeros(2, np.float32))
    stream.synchronize()
    params = struct.pack("<f4xd3i4x", 2.0, 0.25, 0, 0, 100)
    module = Module.from_source(KERNELS)
    run(device, module, "mixed", xs, ys, params, np.int16(1000), np.uint8(200), np.int64(1), threads=64)
    assert download(stream, ys, np.zeros(2, np.float32))[1] == 2 * 7 + 1000 + 200 + 5 + 100 + 0.25


def test_parameters_of_more_than_4_kib_arrive(device: CudaDevice, stream: Any) -> None:
    out = upload(device, stream, np.zeros(1101, np.int32))
    stream.synchronize()
    values = np.arange(1100, dtype=np.float32)
    run(device, Module.from_source(KERNELS), "wide", values.tobytes(), out, np.int32(1099))
    assert download(stream, out, np.zeros(1101, np.int32))[0] == 1099


def test_compiled_code_is_found_on_disk_by_the_next_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Module.from_source((CUBINS / "add.cu").read_text())
    ptx = Module(kind="ptx", code=(CUBINS / "add.ptx").read_bytes())
    first = CudaDevice(0, cache_dir=tmp_path)
    add(first, source)
    add(first, ptx)
    first.close()

    from kaasq_workers.devices.cuda import compiler

    def fail(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiler, "_compile", fail)
    monkeypatch.setattr(compiler.Compiler, "_assemble", fail)
    second = CudaDevice(0, cache_dir=tmp_path)
    add(second, source)
    add(second, ptx)
    second.close()


def test_a_kernel_keeps_its_module_loaded_until_it_goes_too(device: CudaDevice, stream: Any) -> None:
    memory = upload(device, stream, np.zeros(1, np.float32))
    kernel = device.load(Module.from_source((CUBINS / "add.cu").read_text()), ("add",)).kernel("add")
    gc.collect()
    stream.launch(kernel, (1, 1, 1), (1, 1, 1), arguments(memory, np.float32(4), np.int32(1)), 0)
    assert download(stream, memory, np.zeros(1, np.float32))[0] == 4
    module = device.load(Module.from_source((CUBINS / "add.cu").read_text()), ("add",))
    module.unload()
    module.unload()


# -------------------------------------------------------------------------------------------------------------- memory


def test_memory_is_aligned_and_an_empty_buffer_has_an_address(device: CudaDevice, stream: Any) -> None:
    for nbytes in (0, 1, 513, 1 << 20):
        memory = device.allocate(nbytes)
        assert memory.address
        assert memory.address % 256 == 0
        assert memory.nbytes == nbytes
        stream.zero(memory)
        stream.copy(memory, memory)
        stream.synchronize()
        memory.free()
        memory.free()


def test_out_of_memory_says_need_and_capacity_and_leaves_the_device_usable() -> None:
    small = CudaDevice(0, memory_limit=64 << 20)
    assert small.limits.memory == 64 << 20
    with pytest.raises(OutOfMemory) as caught:
        small.allocate((64 << 20) + 1)
    assert (caught.value.needed, caught.value.capacity) == ((64 << 20) + 1, 64 << 20)
    with pytest.raises(OutOfMemory):
        small.allocate(1 << 62)
    pieces = [small.allocate(16 << 20) for _ in range(4)]
    with pytest.raises(OutOfMemory):
        small.allocate(1 << 20)
    for piece in pieces:
        piece.free()
    small.allocate(60 << 20).free()  # what is cached in smaller pieces counts as free
    assert not small.poisoned
    small.close()


def test_more_than_the_gpu_has_is_out_of_memory() -> None:
    from cupy.cuda import runtime

    _, total = runtime.memGetInfo()
    greedy = CudaDevice(0, memory_limit=total)
    with pytest.raises(OutOfMemory):
        greedy.allocate(total)  # the context itself takes some
    greedy.allocate(1 << 20).free()
    assert not greedy.poisoned
    greedy.close()


# -------------------------------------------------------------------------------------------------------------- copies

ODD = (64 << 20) + 12345


def test_a_large_read_only_file_map_is_copied_in_and_out(device: CudaDevice, stream: Any, tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, ODD, np.uint8)
    path = tmp_path / "data"
    path.write_bytes(data.tobytes())
    memory = device.allocate(ODD + 7)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        with memoryview(mapped) as view:
            stream.copy_in(memory, view, 7)
        target = np.zeros(ODD + 1, np.uint8)
        stream.copy_out(memory, target.data[1:], 7)
        stream.synchronize()
    np.testing.assert_array_equal(target[1:], data)
    memory.free()


def test_pinned_memory_is_copied_without_staging(device: CudaDevice, stream: Any) -> None:
    import cupy

    pinned = cupy.cuda.PinnedMemory(ODD)
    view = np.ctypeslib.as_array((ctypes.c_uint8 * ODD).from_address(pinned.ptr))
    view[:] = np.random.default_rng(2).integers(0, 256, ODD, np.uint8)
    expected = view.copy()
    memory = device.allocate(ODD)
    stream.copy_in(memory, view.data)
    stream.synchronize()
    view[:] = 0
    stream.copy_out(memory, view.data)
    stream.synchronize()
    np.testing.assert_array_equal(view, expected)
    assert stream._staging is None
    memory.free()


def test_random_copies_arrive_in_order(device: CudaDevice, stream: Any) -> None:
    random = np.random.default_rng(3)
    size = 24 << 20
    memory = device.allocate(size)
    stream.zero(memory)
    model = np.zeros(size, np.uint8)
    outputs = []
    for _ in range(60):
        length = int(random.choice([1, 100, 4096, 4097, 70_000, 5 << 20, 20 << 20]))
        offset = int(random.integers(0, size - length))
        if random.random() < 0.5:
            data = random.integers(0, 256, length, np.uint8)
            model[offset : offset + length] = data
            stream.copy_in(memory, data.data, offset)
            data[:] = 0
        else:
            target = np.zeros(length, np.uint8)
            stream.copy_out(memory, target.data, offset)
            outputs.append((target, model[offset : offset + length].copy()))
    stream.synchronize()
    for target, expected in outputs:
        np.testing.assert_array_equal(target, expected)
    memory.free()


def test_a_copy_that_leaves_its_memory_is_refused(device: CudaDevice, stream: Any) -> None:
    memory = device.allocate(100)
    for offset in (-1, 91):
        with pytest.raises(ValueError, match="leaves"):
            stream.copy_in(memory, memoryview(bytes(10)), offset)
    with pytest.raises(ValueError, match="read-only"):
        stream.copy_out(memory, memoryview(bytes(10)))


# ------------------------------------------------------------------------------------------------------------ launches

SHARED = r"""
extern "C" __global__ void last(int* out, int bytes)
{ extern __shared__ char s[]; s[bytes - 1] = 7; __syncthreads(); *out = s[bytes - 1]; }
"""


def test_all_shared_memory_of_a_block_can_be_used(device: CudaDevice, stream: Any) -> None:
    assert device.limits.shared_per_block > 48 << 10
    memory = upload(device, stream, np.zeros(1, np.int32))
    stream.synchronize()
    module = Module.from_source(SHARED)
    for nbytes in (1, 48 << 10, device.limits.shared_per_block):
        stream.zero(memory)
        stream.synchronize()
        run(device, module, "last", memory, np.int32(nbytes), shared=nbytes)
        assert download(stream, memory, np.zeros(1, np.int32))[0] == 7
    with pytest.raises(KernelFailed, match="shared memory"):
        run(device, module, "last", memory, np.int32(1), shared=device.limits.shared_per_block + 1)
    assert not device.poisoned


def test_a_launch_that_the_gpu_cannot_do_is_refused_and_costs_nothing_else(device: CudaDevice, stream: Any) -> None:
    kernel = device.load(Module.from_source(KERNELS), ("nothing",)).kernel("nothing")
    for grid, block in (((1, 70_000, 1), (1, 1, 1)), ((1, 1, 1), (1025, 1, 1))):
        with pytest.raises(KernelFailed, match="refused"):
            stream.launch(kernel, grid, block, arguments(), 0)
    assert not device.poisoned
    stream.launch(kernel, (1, 1, 1), (1, 1, 1), arguments(), 0)
    stream.synchronize()


def test_marks_measure_what_lies_between_them(device: CudaDevice, stream: Any) -> None:
    kernel = device.load(Module.from_source(SPIN), ("spin",)).kernel("spin")
    first = stream.mark()
    stream.launch(kernel, (1, 1, 1), (1, 1, 1), arguments(np.int64(10_000_000)), 0)
    last = stream.mark()
    stream.synchronize()
    assert 2_000 < last.us_since(first) < 100_000  # 10 million cycles at 0.1 to 5 GHz


def test_streams_run_beside_each_other(device: CudaDevice) -> None:
    kernel = device.load(Module.from_source(SPIN), ("spin",)).kernel("spin")
    streams = [device.stream() for _ in range(4)]
    packed = arguments(np.int64(20_000_000))
    marks = []
    for stream in streams:
        before = stream.mark()
        stream.launch(kernel, (1, 1, 1), (1, 1, 1), packed, 0)
        marks.append((before, stream.mark()))
    for stream in streams:
        stream.synchronize()
    each = marks[0][1].us_since(marks[0][0])
    assert marks[-1][1].us_since(marks[0][0]) < 2 * each


def test_a_cuda_graph_can_be_made_of_its_kernels_and_streams(device: CudaDevice, stream: Any) -> None:
    """The seam for plans as CUDA graphs: cuda.core takes our handles."""
    from cuda import core
    from cuda.core.graph import GraphDefinition

    core.Device(0).set_current()
    x = np.zeros(100, np.float32)
    memory = upload(device, stream, x)
    stream.synchronize()
    loaded = device.load(Module.from_source((CUBINS / "add.cu").read_text()), ("add",))
    kernel = core.Kernel.from_handle(loaded.kernel("add").handle)
    definition = GraphDefinition()
    config = core.LaunchConfig(grid=1, block=100)
    node: Any = definition
    for _ in range(5):
        node = node.launch(config, kernel, memory.address, np.float32(2), np.int32(100))
    graph = definition.instantiate()
    graph.launch(core.Stream.from_handle(stream.pointer))
    np.testing.assert_array_equal(download(stream, memory, x), x + 10)


# ------------------------------------------------------------------------------------------------------------- crashes

CRASHES = r"""
extern "C" __global__ void illegal(int* x) { *(volatile int*)(((long long)1 << 45) + 4096) = 1; }
extern "C" __global__ void misaligned(int* x) { *(volatile int*)((char*)x + 1) = 1; }
extern "C" __global__ void asserts(int* x) { assert(x == nullptr); }
extern "C" __global__ void traps(int* x) { __trap(); }
"""
CRASH = """
import json, sys
import numpy as np
from kaasq.errors import KaasqError
from kaasq.model import Module
from kaasq_workers.executor.arguments import PackedArguments, pointer
from kaasq_workers.devices.cuda import CudaDevice
device = CudaDevice(0)
stream = device.stream()
memory = device.allocate(4096)
kernel = device.load(Module.from_source(sys.argv[1]), (sys.argv[2],)).kernel(sys.argv[2])
said = []
def attempt(work):
    try:
        work()
        said.append(["none", "", device.poisoned])
    except KaasqError as error:
        said.append([error.code, error.message, device.poisoned])
def crash():
    stream.copy_out(memory, memoryview(bytearray(4096)))
    stream.launch(kernel, (1, 1, 1), (1, 1, 1), PackedArguments([pointer(memory.address)]), 0)
    stream.copy_out(memory, memoryview(bytearray(4096)))
    stream.synchronize()
attempt(crash)
attempt(stream.synchronize)
attempt(lambda: device.allocate(1 << 30))
memory.free()
device.close()
print(json.dumps(said))
"""


@pytest.mark.parametrize("kernel", ["illegal", "misaligned", "asserts", "traps"])
def test_a_kernel_that_crashes_poisons_the_device_and_says_so(kernel: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", CRASH, CRASHES, kernel],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    first, *later = json.loads(finished.stdout.splitlines()[-1])
    assert (first[0], first[2]) == ("kernel_failed", True), first
    assert kernel in first[1]
    assert all(poisoned for _, _, poisoned in later)
    assert later[0][0] != "none"


def test_there_is_no_such_device() -> None:
    with pytest.raises(DeviceUnavailable, match="cuda:99"):
        CudaDevice(99)
    with pytest.raises(DeviceUnavailable, match="cuda:-1"):
        CudaDevice(-1)
