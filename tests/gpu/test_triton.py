"""Triton kernels on a GPU through kaasq: NumPy's answers, and where PyTorch is those of Triton's own launcher."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq.importers.triton import TritonKernel
from kaasq.importers.triton import compile as compile_kernel
from tests.support import triton_kernels as kernels

pytestmark = pytest.mark.gpu

N = 100_003  # no multiple of any block
RANDOM = np.random.default_rng(1)
X = RANDOM.random(N, dtype=np.float32)
Y = RANDOM.random(N, dtype=np.float32)
ADD = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"}
NUMBERS = dict(zip("abcdefghij", ("i1", "i8", "u16", "i64", "fp16", "u32", "i32", "fp32", "fp64", "i16"), strict=True))


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[kaasq.Client]:
    with kaasq.local(device="cuda:0") as opened:
        yield opened


@pytest.fixture(scope="module")
def target() -> str:
    from cupy.cuda import runtime

    return f"sm_{runtime.deviceGetAttribute(75, 0)}{runtime.deviceGetAttribute(76, 0)}"


def compiled(fn: Any, target: str, signature: dict[str, str], **changes: Any) -> TritonKernel:
    return compile_kernel(fn, signature=signature, target=target, **changes)


@pytest.mark.parametrize("hints", [[], ["n"]], ids=["plain", "hinted"])
def test_vector_addition(client, target, hints):
    n = N if not hints else N - N % 16
    kernel = compiled(kernels.add, target, ADD, constants={"BLOCK": 1024}, multiples_of_16=hints)
    graph = kernel.graph(
        "add",
        grid=lambda given: -(-n // given["BLOCK"]),
        inputs={"x_ptr": n, "y_ptr": n},
        outputs={"out_ptr": n},
        scalars={"n": n},
        const=True,
    )
    np.testing.assert_array_equal(client.run(graph, x_ptr=X[:n], y_ptr=Y[:n])["out_ptr"], X[:n] + Y[:n])


def test_a_scalar_that_the_request_sets_bounds_the_work(client, target):
    kernel = compiled(kernels.add, target, ADD, constants={"BLOCK": 512})
    graph = kernel.graph("add", grid=-(-N // 512), inputs={"x_ptr": N, "y_ptr": N}, outputs={"out_ptr": N})
    for n in (1, 1000, N):
        expected = np.where(np.arange(N) < n, X + Y, 0)
        np.testing.assert_array_equal(client.run(graph, x_ptr=X, y_ptr=Y, n=n)["out_ptr"], expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 3])
def test_specialised_arguments(client, target, bias, stride):
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "a": "fp32", "n": "i32"}
    constants: dict[str, Any] = {"stride": 1} if stride == 1 else {}
    signature |= {"stride": "i32"} if stride != 1 else {}
    signature |= {"bias_ptr": "*fp32"} if bias else {}
    constants |= {"bias_ptr": None} if not bias else {}
    kernel = compiled(kernels.scale_add, target, signature, constants=constants)
    n = N // stride
    graph = kernel.graph(
        "scale",
        grid=-(-n // 256),
        inputs={"x_ptr": N} | ({"bias_ptr": n} if bias else {}),
        outputs={"out_ptr": n},
        scalars={"a": 2.5, "n": n} | ({"stride": stride} if stride != 1 else {}),
    )
    answer = client.run(graph, x_ptr=X, **({"bias_ptr": Y[:n]} if bias else {}))["out_ptr"]
    expected = np.float32(2.5) * X[: n * stride : stride] + (Y[:n] if bias else 0)
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_softmax_uses_shared_memory(client, target):
    rows, columns = 257, 1000
    x = RANDOM.standard_normal((rows, columns), dtype=np.float32)
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "x_stride": "i32", "out_stride": "i32", "columns": "i32"}
    kernel = compiled(kernels.softmax, target, signature, constants={"BLOCK": 1024}, num_warps=8)
    graph = kernel.graph(
        "softmax",
        grid=rows,
        inputs={"x_ptr": x.shape},
        outputs={"out_ptr": x.shape},
        scalars={"x_stride": columns, "out_stride": columns, "columns": columns},
    )
    e = np.exp(x - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        client.run(graph, x_ptr=x)["out_ptr"], e / e.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-7
    )


def test_reduction_into_an_output_that_starts_as_zeros(client, target):
    kernel = compiled(
        kernels.total, target, {"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"}, constants={"BLOCK": 1024}
    )
    graph = kernel.graph("total", grid=-(-N // 1024), inputs={"x_ptr": N}, outputs={"out_ptr": 1}, scalars={"n": N})
    for _ in range(3):
        np.testing.assert_allclose(client.run(graph, x_ptr=X)["out_ptr"], [X.sum(dtype=np.float64)], rtol=1e-4)


@pytest.mark.parametrize("num_stages", [1, 4])
def test_matmul_on_tensor_cores(client, target, num_stages):
    m, n, k = 256, 192, 128
    a = RANDOM.standard_normal((m, k)).astype(np.float16)
    b = RANDOM.standard_normal((k, n)).astype(np.float16)
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    kernel = compiled(
        kernels.matmul,
        target,
        signature,
        constants={"BM": 64, "BN": 64, "BK": 32},
        num_stages=num_stages,
        multiples_of_16=["M", "N", "K"],
    )
    assert kernel.shared_bytes > 0
    graph = kernel.graph(
        "matmul",
        grid=(m // 64, n // 64),
        inputs={"a_ptr": a.shape, "b_ptr": b.shape},
        outputs={"c_ptr": (m, n)},
        scalars={"M": m, "N": n, "K": k},
        const=True,
    )
    answer = client.run(graph, a_ptr=a, b_ptr=b)["c_ptr"]
    np.testing.assert_allclose(answer, a.astype(np.float32) @ b.astype(np.float32), rtol=1e-3, atol=1e-3)


def test_more_shared_memory_than_a_kernel_gets_unasked(client, target):
    m = n = k = 256
    a = RANDOM.standard_normal((m, k)).astype(np.float16)
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    kernel = compiled(
        kernels.matmul, target, signature, constants={"BM": 128, "BN": 128, "BK": 64}, num_stages=3, num_warps=8
    )
    assert kernel.shared_bytes > 48 << 10
    graph = kernel.graph(
        "matmul",
        grid=(m // 128, n // 128),
        inputs={"a_ptr": a.shape, "b_ptr": a.shape},
        outputs={"c_ptr": (m, n)},
        scalars={"M": m, "N": n, "K": k},
    )
    answer = client.run(graph, a_ptr=a, b_ptr=a)["c_ptr"]
    np.testing.assert_allclose(answer, a.astype(np.float32) @ a.astype(np.float32), rtol=1e-3, atol=1e-2)


def test_numbers_of_every_type(client, target):
    kernel = compiled(kernels.numbers, target, {"out_ptr": "*fp64"} | NUMBERS)
    graph = kernel.graph("numbers", grid=1, outputs={"out_ptr": 1})
    given = {"a": True, "b": -8, "c": 65535, "d": -(2**40), "e": 0.5, "f": 2**32 - 1, "g": -1, "h": 0.25, "i": 0.125}
    expected = 1 - 8 + 65535 - 2**40 + 0.5 + 2**32 - 1 - 1 + 0.25 + 0.125 + 3
    assert client.run(graph, **given, j=3)["out_ptr"][0] == expected


def test_kernels_of_a_graph_share_its_buffers(client, target):
    add = compiled(kernels.add, target, ADD, constants={"BLOCK": 1024})
    total = compiled(
        kernels.total, target, {"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"}, constants={"BLOCK": 1024}
    )
    graph = kaasq.Graph("add-total")
    x, y = graph.input("x", shape=N, dtype="float32"), graph.input("y", shape=N, dtype="float32")
    both, out = graph.temp("both", shape=N, dtype="float32"), graph.output("out", shape=1, dtype="float32")
    grid = -(-N // 1024)
    add.launch(graph, grid=grid, args={"x_ptr": x, "y_ptr": y, "out_ptr": both, "n": N})
    total.launch(graph, grid=grid, args={"x_ptr": both, "out_ptr": out, "n": N})
    np.testing.assert_allclose(client.run(graph, x=X, y=Y)["out"], [(X + Y).sum(dtype=np.float64)], rtol=1e-4)


def test_descriptors_in_scratch_memory(client, target):
    if int(target[3:]) < 90:
        pytest.skip(f"{target} has no TMA")
    x = RANDOM.standard_normal((192, 64)).astype(np.float16)
    signature = {"x_ptr": "*fp16", "out_ptr": "*fp16", "rows": "i32", "columns": "i32"}
    kernel = compiled(kernels.twice, target, signature, constants={"BM": 64, "BN": 64})
    assert any(kernel.scratch)
    graph = kernel.graph(
        "twice",
        grid=3,
        inputs={"x_ptr": x.shape},
        outputs={"out_ptr": x.shape},
        scalars={"rows": 192, "columns": 64},
    )
    for _ in range(3):  # scratch of an earlier request must not matter
        np.testing.assert_array_equal(client.run(graph, x_ptr=x)["out_ptr"], x * 2)


def test_a_kernel_for_another_architecture_is_rejected_naming_both(client, target):
    other = "sm_80" if target != "sm_80" else "sm_90"
    kernel = compiled(kernels.add, other, ADD, constants={"BLOCK": 128})
    graph = kernel.graph("add", grid=1, inputs={"x_ptr": 4, "y_ptr": 4}, outputs={"out_ptr": 4})
    with pytest.raises(kaasq.ModuleRejected, match=f"{other}.*{target}"):
        client.run(graph, x_ptr=X[:4], y_ptr=Y[:4], n=4)


@pytest.mark.skipif(find_spec("torch") is None, reason="no PyTorch, which Triton's own launcher takes its tensors from")
def test_the_same_bits_as_tritons_own_launcher(client, target):
    import torch  # type: ignore[import-not-found]

    if not torch.cuda.is_available():
        pytest.fail("PyTorch is there but does not see the GPU")
    rows, columns = 64, 1000
    x = RANDOM.standard_normal((rows, columns), dtype=np.float32)
    source = torch.from_numpy(x).cuda()
    out = torch.empty_like(source)
    kernels.softmax[(rows,)](out, source, columns, columns, columns, BLOCK=1024, num_warps=4, enable_fp_fusion=True)
    torch.cuda.synchronize()
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "x_stride": "i32", "out_stride": "i32", "columns": "i32"}
    kernel = compiled(kernels.softmax, target, signature, constants={"BLOCK": 1024})
    graph = kernel.graph(
        "softmax",
        grid=rows,
        inputs={"x_ptr": x.shape},
        outputs={"out_ptr": x.shape},
        scalars={"x_stride": columns, "out_stride": columns, "columns": columns},
    )
    np.testing.assert_array_equal(client.run(graph, x_ptr=x)["out_ptr"], out.cpu().numpy())
