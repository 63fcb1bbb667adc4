"""Kernels that fail in every way there is, among others' requests: the culprit is told so, the others get answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import kaasq
from tests.support.graphs import CRASH, ENDLESS, only_output, saxpy
from tests.support.tenants import Tenants, tenants

X = np.arange(1000, dtype=np.float32)

ABORT = r"""
extern "C" void abort();
extern "C" __global__ void aborts(int* out) { abort(); }
"""
OVERFLOW = r"""
__device__ int deeper(volatile int* out, int n)
{ volatile int here[256]; here[n & 255] = n; if (out[0] == 12345) return n; return deeper(out, n + 1) + here[n & 255]; }
extern "C" __global__ void overflows(int* out) { out[1] = deeper(out, 0); }
"""
ASSERT = r"""
#include <assert.h>
extern "C" __global__ void asserts(int* out) { assert(out[0] == 1); }
"""
TRAP = r"""
extern "C" __global__ void traps(int* out) { if (out[0] == 0) __trap(); }
"""
MISALIGNED = r"""
extern "C" __global__ void misaligned(char* out) { *(volatile int*)(out + 1) = 1; }
"""

CPU = "cpu"
CUDA = pytest.param("cuda:0", marks=pytest.mark.gpu)


@pytest.fixture(scope="module", params=[CPU, CUDA])
def served(request, tmp_path_factory) -> Iterator[Tenants]:
    """Two tenants who share an executor."""
    with tenants(request.param, tmp_path_factory.mktemp("served"), "ann", "bob") as clients:
        yield clients


def beside(served: Tenants, graph: kaasq.Graph, **how: float) -> tuple[kaasq.KaasqError, str]:
    """What becomes of it, by the error and its id, while another tenant's requests have their right answers."""
    ann, bob = served
    before = [ann.submit(saxpy(1000), x=X, y=X, a=float(i), timeout=60) for i in range(10)]
    culprit = bob.submit(graph, **{"timeout": 60, **how})
    after = [ann.submit(saxpy(1000), x=X, y=X, a=float(i), timeout=60) for i in range(10)]
    for i, (one, other) in enumerate(zip(before, after, strict=True)):
        np.testing.assert_array_equal(one.result(60)["out"], i * X + X)
        np.testing.assert_array_equal(other.result(60)["out"], i * X + X)
    with pytest.raises(kaasq.KaasqError) as caught:
        culprit.result(60)
    np.testing.assert_array_equal(bob.run(saxpy(1000), x=X, y=X, timeout=60)["out"], 3 * X)
    assert culprit.request_id is not None
    return caught.value, culprit.request_id


@pytest.mark.parametrize(
    ("served", "source", "kernel", "how"),
    [
        (CPU, CRASH, "crash", "SIGSEGV"),
        (CPU, ABORT, "aborts", "SIGABRT"),
        (CPU, OVERFLOW, "overflows", "SIGSEGV"),
    ],
    ids=["cpu-crash", "cpu-abort", "cpu-stack"],
    indirect=["served"],
)
def test_what_ends_the_process_is_found_out_and_dead_lettered(served, source, kernel, how):
    error, request_id = beside(served, only_output(source, kernel))
    assert isinstance(error, kaasq.KernelFailed)
    assert (error.how, error.kills) == (how, 2)
    letter = served.dead_letter(request_id)
    assert (letter.code, letter.tenant) == ("kernel_failed", "bob")
    assert (letter.evidence["how"], letter.evidence["kills"]) == (how, 2)
    assert letter.evidence["worker"].endswith("/cpu")


@pytest.mark.parametrize(
    ("served", "source", "kernel"),
    [
        (CPU, ASSERT, "asserts"),
        (CPU, TRAP, "traps"),
        pytest.param("cuda:0", CRASH, "crash", marks=pytest.mark.gpu),
        pytest.param("cuda:0", ASSERT, "asserts", marks=pytest.mark.gpu),
        pytest.param("cuda:0", TRAP, "traps", marks=pytest.mark.gpu),
        pytest.param("cuda:0", MISALIGNED, "misaligned", marks=pytest.mark.gpu),
    ],
    ids=["cpu-assert", "cpu-trap", "cuda-crash", "cuda-assert", "cuda-trap", "cuda-misaligned"],
    indirect=["served"],
)
def test_what_fails_on_the_device_is_told(served, source, kernel):
    error, _ = beside(served, only_output(source, kernel))
    assert isinstance(error, kaasq.KernelFailed)


def test_an_endless_kernel_is_stopped_at_its_deadline(served):
    error, _ = beside(served, only_output(ENDLESS, "endless"), timeout=3)
    assert isinstance(error, kaasq.DeadlineExceeded | kaasq.ReplyTimeout)


def test_what_does_not_fit_on_the_device_is_refused_and_costs_nobody_anything(served):
    graph = kaasq.Graph("test.huge")
    huge = graph.temp("huge", nbytes=1 << 40)
    out = graph.output("out", nbytes=64)
    source = 'extern "C" __global__ void k(char* huge, char* out) { out[0] = huge[0]; }'
    graph.launch(kaasq.Module.from_source(source).kernel("k"), grid=1, block=1, args=[huge, out])
    error, _ = beside(served, graph)
    assert isinstance(error, kaasq.OutOfMemory)
    assert error.needed > error.capacity


def test_several_culprits_at_once_cost_no_innocent_its_answer(served):
    ann, bob = served
    bad = [
        bob.submit(only_output(source, kernel), timeout=60)
        for source, kernel in [(CRASH, "crash"), (TRAP, "traps"), (CRASH, "crash"), (ASSERT, "asserts")]
    ]
    good = [ann.submit(saxpy(1000), x=X, y=X, a=float(i), timeout=60) for i in range(30)]
    for i, each in enumerate(good):
        np.testing.assert_array_equal(each.result(60)["out"], i * X + X)
    for each in bad:
        with pytest.raises(kaasq.KernelFailed):
            each.result(60)
