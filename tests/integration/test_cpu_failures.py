"""What fails or is refused on the CPU device, and in which words; options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq.errors import KernelFailed, ModuleRejected, OutOfMemory
from kaasq.model import Module
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.module import CpuModule
from tests.support.cpu import ints, load, python, run


def test_a_divergent_barrier_fails_and_the_device_goes_on(cpu: CpuDevice, features: CpuModule) -> None:
    for _ in range(3):
        with pytest.raises(KernelFailed, match=r"'diverges'.*divergent barrier: 16 threads wait") as caught:
            run(cpu, features, "diverges", 200, 32, ints(32))
        assert caught.value.kernel == "diverges"
    out = ints(50)
    run(cpu, features, "block_votes", 1, 50, out)
    assert set(out.tolist()) == {17 | 1 << 8 | 1 << 10}


def test_a_barrier_that_the_source_hides_fails_and_one_that_an_option_names_is_found(cpu: CpuDevice) -> None:
    kernel = """extern "C" __global__ void k(int* out) {
        __shared__ int mine[64];
        mine[threadIdx.x] = threadIdx.x;
        WAIT();
        out[threadIdx.x] = mine[63 - threadIdx.x];
    }"""
    out = ints(64)
    run(cpu, load(cpu, kernel, "k", options=("-DWAIT=__syncthreads",)), "k", 1, 64, out)
    np.testing.assert_array_equal(out, 63 - np.arange(64))
    joined = "#define JOIN(a, b) a##b\n" + kernel.replace("WAIT", "JOIN(__sync, threads)")
    for hidden in (joined, joined.replace("JOIN(__sync, threads)()", "out[0] = JOIN(__shfl_, sync)(~0u, 1, 0)")):
        with pytest.raises(KernelFailed, match="it waits for other threads, which its source does not show"):
            run(cpu, load(cpu, hidden, "k"), "k", 1, 64, ints(64))


@pytest.mark.parametrize(
    ("name", "reason"), [("checked", r"assertion failed at kernel.cu:\d+: x\["), ("checked_together", "__trap")]
)
def test_a_failed_assertion_fails_the_launch(cpu: CpuDevice, features: CpuModule, name: str, reason: str) -> None:
    x = ints(32)
    x[7] = 13
    with pytest.raises(KernelFailed, match=reason):
        run(cpu, features, name, 1, 32, x)
    run(cpu, features, name, 1, 32, y := ints(32))
    assert y.all()


def test_printf(code_folder: Path) -> None:
    script = """
        import numpy as np, sys
        from pathlib import Path
        sys.path.insert(0, "")
        from kaasq.model import Module
        from kaasq_workers.executor.arguments import PackedArguments
        from kaasq_workers.devices.cpu import CpuDevice
        device = CpuDevice(cache_dir=Path(sys.argv[1]))
        source = 'extern "C" __global__ void k() { printf("thread %d of %u\\\\n", threadIdx.x, blockDim.x); }'
        module = device.load(Module.from_source(source), ("k",))
        device.stream().launch(module.kernel("k"), (1, 1, 1), (3, 1, 1), PackedArguments([]), 0)
        import os; os._exit(0)  # what was printed must be out by now
    """
    said = python(script, code_folder / "cpu")
    assert said.splitlines() == [f"thread {i} of 3" for i in range(3)]


@pytest.mark.parametrize(
    ("line", "construct"),
    [
        ('asm volatile("bar.sync 0;");', "inline assembly"),
        ("nvcuda::wmma::fill_fragment(f, 0.0f);", "wmma"),
        ("float v = tex2D<float>(t, 0, 0);", "textures"),
        ("child<<<1, 32>>>(x);", "launches from a kernel"),
        ("auto c = cg::this_cluster();", "clusters"),
        ("auto g = cooperative_groups::this_grid();", "whole grid"),
    ],
)
def test_what_only_a_gpu_can_do_is_named(cpu: CpuDevice, line: str, construct: str) -> None:
    with pytest.raises(ModuleRejected, match=construct) as caught:
        load(cpu, f'extern "C" __global__ void k(float* x) {{\n  // asm\n  {line}\n}}', "k")
    assert caught.value.line == 3


def test_what_only_a_gpu_can_do_is_named_within_an_active_condition(cpu: CpuDevice) -> None:
    source = '#ifdef __CUDACC__\nextern "C" __global__ void k() { asm volatile("bar.sync 0;"); }\n#endif'
    with pytest.raises(ModuleRejected, match=r"kernel.cu:2: inline assembly"):
        load(cpu, source, "k")


@pytest.mark.parametrize("kind", ["ptx", "cubin", "fatbin"])
def test_code_for_a_gpu_is_refused(cpu: CpuDevice, kind: Any) -> None:
    with pytest.raises(ModuleRejected, match=f"a CPU cannot run {kind}"):
        cpu.load(Module(kind=kind, code=b"..."), ("k",))


def test_diagnostics_speak_of_the_users_lines_only(cpu: CpuDevice) -> None:
    source = '#include <math.h>\nextern "C" __global__ void k(float* x) {\n  atomicAdd(x, "one");\n  *x = nowhere;\n}'
    with pytest.raises(ModuleRejected) as caught:
        load(cpu, source, "k")
    assert caught.value.line == 3
    assert "kernel.cu:4:" in caught.value.log
    assert "nowhere" in caught.value.log
    assert "kaasq_atomics.h" not in caught.value.log


def test_an_undefined_function_is_named(cpu: CpuDevice) -> None:
    source = '__device__ float elsewhere(float);\nextern "C" __global__ void k(float* x) { *x = elsewhere(*x); }'
    with pytest.raises(ModuleRejected, match=r"undefined reference to .?elsewhere"):
        load(cpu, source, "k")


def test_a_template_without_arguments_and_one_that_does_not_fit(cpu: CpuDevice) -> None:
    source = "template <class T> __global__ void scale(T* x) { *x *= 2; }"
    with pytest.raises(ModuleRejected, match="is a template"):
        load(cpu, source, "scale")
    with pytest.raises(ModuleRejected, match="kernel 'scale<nonsense>' cannot be used"):
        load(cpu, source, "scale<nonsense>")


def test_an_unknown_option_is_refused(cpu: CpuDevice) -> None:
    with pytest.raises(ModuleRejected, match="-G"):
        load(cpu, 'extern "C" __global__ void k() {}', "k", options=("-G",))


def test_options_do_not_disturb_the_prelude(cpu: CpuDevice) -> None:
    source = 'extern "C" __global__ void k(T* x) { *x = N * kernel; }'
    options = ("-DT=float", "-DN=3", "-Dkernel=2", "-std=c++14", "--use_fast_math", "-fmad=false")
    module = load(cpu, source, "k", options=options)
    x = np.zeros(1, np.float32)
    run(cpu, module, "k", 1, 1, x)
    assert x[0] == 6


def test_nan_survives_fast_math(cpu: CpuDevice) -> None:
    source = 'extern "C" __global__ void k(float* x) { x[0] = isnan(x[0]) ? 1 : 2; x[1] = isinf(x[1]) ? 1 : 2; }'
    module = load(cpu, source, "k", options=("--use_fast_math",))
    x = np.array([np.nan, np.inf], np.float32)
    run(cpu, module, "k", 1, 1, x)
    assert x.tolist() == [1, 1]


def test_memory_is_counted(tmp_path: Path) -> None:
    device = CpuDevice(cache_dir=tmp_path / "code", memory_limit=1 << 20)
    first = device.allocate(700_000)
    with pytest.raises(OutOfMemory) as caught:
        device.allocate(700_000)
    assert (caught.value.needed, caught.value.capacity) == (700_000, 1 << 20)
    first.free()
    device.allocate(700_000).free()
    device.allocate(0).free()


def test_a_copy_outside_of_the_memory_is_refused(cpu: CpuDevice) -> None:
    memory = cpu.allocate(10)
    with pytest.raises(ValueError, match="outside"):
        cpu.stream().copy_in(memory, memoryview(b"12345"), offset=6)
    memory.free()
