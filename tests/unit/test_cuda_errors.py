"""CUDA's errors as kaasq's, and which of them cost the device its context. Needs no CUDA."""

from __future__ import annotations

import pytest

from kaasq.errors import KernelFailed, ModuleRejected, OutOfMemory, WorkerFailed
from kaasq_workers.devices.cuda.errors import load_error, run_error


class Gpu:
    name = "cuda:0"
    poisoned = False


class CudaError(RuntimeError):
    """As CuPy and cuda.bindings raise them: a number, and its name in the text."""

    def __init__(self, status: int, text: str = "CUDA_ERROR_SOMETHING: some text") -> None:
        super().__init__(text)
        self.status = status


@pytest.mark.parametrize("status", [700, 702, 710, 714, 715, 716, 717, 718, 719])
def test_a_kernel_that_crashed_poisons_the_device(status: int) -> None:
    gpu = Gpu()
    error = run_error(CudaError(status), gpu, "synchronisation", ("step",))
    assert isinstance(error, KernelFailed)
    assert gpu.poisoned
    assert "'step'" in error.message
    assert error.cuda_error == "CUDA_ERROR_SOMETHING"


@pytest.mark.parametrize("status", [1, 9, 701])
def test_a_refused_launch_leaves_the_device_usable(status: int) -> None:
    gpu = Gpu()
    assert isinstance(run_error(CudaError(status), gpu, "a launch of 'step'"), KernelFailed)
    assert not gpu.poisoned


def test_out_of_memory_leaves_the_device_usable() -> None:
    gpu = Gpu()
    assert isinstance(run_error(CudaError(2), gpu, "a launch"), OutOfMemory)
    assert not gpu.poisoned


@pytest.mark.parametrize("status", [214, 999, 12345, None])
def test_an_error_that_is_nobodys_fault_poisons_and_blames_the_worker(status: int | None) -> None:
    gpu = Gpu()
    error = RuntimeError("?") if status is None else CudaError(status)
    assert isinstance(run_error(error, gpu, "a copy"), WorkerFailed)
    assert gpu.poisoned


@pytest.mark.parametrize("status", [200, 209, 218, 222, 500])
def test_code_that_the_driver_refuses_is_rejected(status: int) -> None:
    gpu = Gpu()
    assert isinstance(load_error(CudaError(status), gpu, "the cubin"), ModuleRejected)
    assert not gpu.poisoned


def test_an_error_while_loading_that_is_not_the_codes_is_not_blamed_on_it() -> None:
    gpu = Gpu()
    assert isinstance(load_error(CudaError(700), gpu, "the cubin"), KernelFailed)
    assert gpu.poisoned
