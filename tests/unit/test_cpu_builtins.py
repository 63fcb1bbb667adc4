"""How the CPU runs built-ins: in blocks, on all cores, with little memory, quietly, and never writing what it reads."""

from __future__ import annotations

import functools
import math
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kaasq
from kaasq import Graph, Module
from kaasq.builtins import builtin_names, resolve_call
from kaasq.builtins.catalogue import CATALOGUE
from kaasq.model import Buffer, Launch
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.builtins import prepare
from kaasq_workers.devices.cpu.builtins.blocks import blocks, spread
from kaasq_workers.devices.cpu.builtins.error_function import erf
from kaasq_workers.devices.cpu.builtins.table import FUNCTIONS
from kaasq_workers.devices.cpu.device import CpuStream
from kaasq_workers.devices.protocol import Memory
from tests.support.builtins import normal
from tests.support.graphs import SAXPY


@pytest.fixture(scope="module")
def device(code_folder) -> CpuDevice:
    return CpuDevice(cache_dir=code_folder / "cpu")


def run(device: CpuDevice, name: str, *arrays: np.ndarray, **attrs: Any) -> list[np.ndarray]:
    """Run it on device memory; what is there afterwards."""
    parameters = CATALOGUE[name].parameters
    declared: dict[str, Any] = {
        each.name: Buffer(name=each.name, role="inout", nbytes=array.nbytes, dtype=array.dtype.name, shape=array.shape)
        for each, array in zip(parameters, arrays, strict=False)
    }
    launch = Launch(module="kaasq", kernel=name, args=tuple(declared), attrs=attrs)
    memory: dict[str, Memory | Any] = {each.name: each.default for each in parameters if each.access == "number"}
    for key, array in zip(declared, arrays, strict=True):
        memory[key] = device.allocate(array.nbytes)
        device.stream().copy_in(memory[key], np.ascontiguousarray(array).data.cast("B"))
    found = [np.empty_like(array) for array in arrays]  # before the call, so that they count beside what it needs
    device.stream().operate(prepare(resolve_call(launch, "at", declared)), memory)
    for key, into in zip(declared, found, strict=True):
        device.stream().copy_out(memory[key], into.data.cast("B"))
        memory[key].free()
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "name", ["copy", "cast", "transpose", "slice", "paste", "pad", "add", "where", "axpy", "exp", "erf", "gelu", "relu"]
)
def test_arrays_without_axes_are_arrays_with_one_element(device, name: str, dtype: str) -> None:
    buffers = [each for each in CATALOGUE[name].parameters if each.access != "number"]
    given = [np.asarray(0.75, bool if "float16" not in each.dtypes else dtype) for each in buffers]
    *_, written = run(device, name, *given)
    *_, wanted = run(device, name, *(each.reshape(1) for each in given))
    assert written.shape == ()
    np.testing.assert_array_equal(written, wanted[0])


def test_it_has_every_builtin():
    assert FUNCTIONS.keys() == CATALOGUE.keys() <= set(builtin_names())


@given(st.lists(st.integers(1, 7), max_size=4), st.integers(1, 500))
def test_blocks_cover_each_element_once_within_the_limit(shape, limit):
    seen = np.zeros(shape, int)
    for block in blocks(shape, limit):
        seen[(*block, ...)] += 1
        assert math.prod(each.stop - each.start for each in block) <= limit
    assert (seen == 1).all()
    # Few of them: two blocks that follow each other could not be one.
    assert len(blocks(shape, limit)) <= 4 * math.prod(shape) / limit + 2


@pytest.mark.parametrize("in_main", [False, True])
def test_a_failure_in_any_thread_is_raised_once_all_are_done(monkeypatch, in_main):
    """The others write into memory that would be freed."""
    monkeypatch.setattr("kaasq_workers.devices.cpu.builtins.blocks._threads", lambda: 2)
    both, failed = threading.Barrier(2), threading.Event()
    finished: list[bool] = []

    def work(_: tuple[slice, ...]) -> None:
        both.wait(timeout=30)  # each thread has one of the two blocks
        if (threading.current_thread() is threading.main_thread()) == in_main:
            failed.set()
            raise MemoryError("no more")
        failed.wait(timeout=30)
        time.sleep(0.1)  # for the failed one to return, if it does not wait
        finished.append(True)

    with pytest.raises(MemoryError, match="no more"):
        spread(blocks((2,), 1), work, 1 << 30)
    assert finished == [True]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_do_not_depend_on_how_many_cores_there_are(device, monkeypatch, threads):
    monkeypatch.setattr("kaasq_workers.devices.cpu.builtins.blocks._threads", lambda: threads)
    x = normal(1, 900, 1100)
    calls: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("gelu", np.empty_like(x), {}),
        ("softmax", np.empty_like(x), {"axis": 0}),
        ("reduce", np.empty((), np.float32), {"op": "sum"}),
        ("reduce", np.empty(1100, np.float32), {"op": "mean", "axes": (0,)}),
    ]
    for name, out, attrs in calls:
        given = run(device, name, x, out, **attrs)[1]
        with monkeypatch.context() as alone:
            alone.setattr("kaasq_workers.devices.cpu.builtins.blocks._threads", lambda: 1)
            np.testing.assert_array_equal(run(device, name, x, out, **attrs)[1], given)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_erf_is_within_a_few_units_in_the_last_place(dtype):
    x = np.concatenate(
        [np.linspace(-7, 7, 100_001), np.logspace(-30, 0, 1001), [5.9999, 6, 1e300 if dtype > "float4" else 1e30]]
    )
    x = x.astype(dtype)
    out = np.empty_like(x)
    with np.errstate(over="ignore", under="ignore"):
        erf(x, out)
    exact = np.array([math.erf(each) for each in x.tolist()])
    units = np.abs(out - exact) / np.spacing(np.abs(exact).astype(dtype))
    assert units.max() <= (7 if dtype == "float32" else 4)
    np.testing.assert_array_equal(-out, [-each for each in out])


# (built-in, shapes of its buffers, attributes)
FRUGAL: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    ("gelu", [(4_000_000,)] * 2, {}),
    ("add", [(2000, 1), (2000,), (2000, 2000)], {}),
    ("softmax", [(2000, 2000)] * 2, {"axis": 0}),
    ("layernorm", [(2000, 2000)] * 2, {}),
    ("reduce", [(2000, 2000), (2000,)], {"op": "sum", "axes": (0,)}),
    ("transpose", [(2000, 2000)] * 2, {}),
    ("slice", [(3000, 2000), (3000, 1999)], {"starts": (0, 1)}),
    ("conv2d", [(1, 1, 60, 1000), (60, 1, 1, 1), (1, 60, 60, 1000)], {}),
    ("conv2d", [(1, 8, 700, 700), (8, 8, 7, 7), (1, 8, 694, 694)], {}),
    ("conv2d", [(1, 2, 1, 2_000_000), (1, 2, 1, 9), (1, 1, 1, 1_999_992)], {}),
    ("pool2d", [(1, 1, 2000, 2000), (1, 1, 1994, 1994)], {"op": "mean", "kernel": (7, 7)}),
]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_memory_stays_bounded_whatever_the_size(device, monkeypatch, dtype):
    """The largest of these would unfold to 750 MB."""
    monkeypatch.setattr("kaasq_workers.devices.cpu.builtins.blocks._threads", lambda: 2)
    for name, shapes, attrs in FRUGAL:
        arrays = [np.ones(shape, dtype) for shape in shapes]
        peak = _peak(functools.partial(run, device, name, *arrays, **attrs))
        # run's own copies of the arrays, and what the built-in needs besides
        assert peak <= sum(each.nbytes for each in arrays) + (8 << 20), name


def test_gemm_of_float16_converts_a_tile_at_a_time(device):
    a, b, c = (np.ones(shape, np.float16) for shape in ((3000, 4000), (4000, 2000), (3000, 2000)))
    copies = a.nbytes + b.nbytes + c.nbytes
    assert _peak(lambda: run(device, "gemm", a, b, c)) <= copies + (24 << 20)


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_numpy_does_not_warn_in_any_thread(device):
    x = np.full((2000, 2000), np.nan, np.float32)
    x[:, ::3], x[:, 1::3] = np.inf, -1e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("exp", "log", "sqrt", "gelu", "softplus", "softmax", "layernorm", "silu", "rsqrt"):
            run(device, name, x, np.empty_like(x))
        run(device, "cast", x, np.empty(x.shape, np.int8))
        run(
            device,
            "div",
            np.ones((2000, 2000), np.int32),
            np.zeros((2000, 2000), np.int32),
            np.empty((2000, 2000), np.int32),
        )


def test_a_buffer_that_is_only_read_is_read_only(device):
    """So that what a built-in of another package does to it is an error, not another request's wrong answer."""
    written: list[bool] = []
    call = resolve_call(
        Launch(module="kaasq", kernel="relu", args=("x", "out")),
        "at",
        {each: Buffer(name=each, role="inout", nbytes=16, dtype="float32", shape=(4,)) for each in ("x", "out")},
    )
    operation = prepare(call)
    operation._function = lambda _, given: written.extend(given[each].flags.writeable for each in ("x", "out"))
    operation.run({each: device.allocate(16) for each in ("x", "out")})
    assert written == [False, True]


USES = {
    "read by a built-in": (0, False, ("add",)),
    "read by two": (0, False, ("add", "add")),
    "updated by a built-in": (1, False, ("axpy",)),
    "read, then updated": (1, False, ("add", "axpy")),
    "taken by a kernel": (1, False, ("kernel",)),
    "read, and taken by a kernel": (1, False, ("add", "kernel")),
    "promised not to be written by the kernel": (0, True, ("kernel",)),
}


@pytest.mark.parametrize("use", USES)
def test_a_stored_input_is_copied_only_if_something_may_write_to_it(monkeypatch, use):
    copies, const, calls = USES[use]
    graph = Graph("uses")
    x = graph.input("x", shape=4, dtype="float32", const=const)
    out = graph.output("out", shape=4, dtype="float32")
    for each in calls:
        if each == "kernel":
            kernel = Module.from_source(SAXPY).kernel("saxpy")
            graph.launch(kernel, grid=1, block=4, args=[np.float32(1), x, x, out, np.int32(4)])
        elif each == "axpy":
            graph.call("axpy", out, x)
        else:
            graph.call("add", x, x, out)
    copied: list[int] = []
    copy = CpuStream.copy

    def counted(self: CpuStream, destination: Memory, source: Memory) -> None:
        copied.append(source.nbytes)
        copy(self, destination, source)

    monkeypatch.setattr(CpuStream, "copy", counted)
    with kaasq.local(device="cpu") as client:
        stored = client.put(normal(1, 4))
        answers = [client.run(graph, x=stored, timeout=60)["out"] for _ in range(2)]
        np.testing.assert_array_equal(*answers)
        np.testing.assert_array_equal(client.get(stored), normal(1, 4))
    assert copied == [16] * 2 * copies


def test_windows_that_lie_far_apart_take_no_time(device) -> None:
    x, out = np.full((1, 1, 1, 1), 3, np.float32), np.zeros((1, 1, 1000, 1), np.float32)
    far = {"kernel": (2**30, 1), "strides": (2**20, 1), "pads": (2**30, 0, 1000 * 2**20 - 2, 0)}
    started = time.perf_counter()
    _, found = run(device, "pool2d", x, out, op="max", **far)
    assert time.perf_counter() - started < 5
    # Window i covers [i * 2^20 - 2^30, i * 2^20), and x lies at 0: windows 1 to 1000 would, the first one ends before.
    np.testing.assert_array_equal(found[0, 0, :, 0], [-np.inf, *[3] * 999])
