"""What is asked of the built-ins and of CuPy and PyTorch alike: products, what memory bounds, convolutions."""

from __future__ import annotations

from functools import partial

import cupy
import numpy as np

from kaasq_bench.peers.array_calls import CUPY, TORCH, Calls, Subject, Work, array, shared, torch

ROW = 1024
LAYERS = (  # batch, channels, size, filters, kernel, groups: of a ResNet-50, and a depthwise one
    (32, 64, 56, 64, 3, 1),
    (32, 256, 56, 64, 1, 1),
    (32, 512, 7, 512, 3, 1),
    (1, 64, 56, 64, 3, 1),
    (32, 144, 56, 144, 3, 144),
)


def product(calls: Calls, dtype: str, n: int) -> Subject:
    """A square product, TF32 off."""
    a, b, c, d = (array(dtype, n, n) for _ in range(4))
    peers: dict[str, Work] = {CUPY: partial(cupy.matmul, a, b, out=d)}
    if torch:
        peers[TORCH] = partial(torch.matmul, shared(a), shared(b), out=shared(d))
    return Subject(f"gemm {dtype} {n}", calls.ours("gemm", {"a": a, "b": b, "c": c}), peers, 2.0 * n**3)


def moving(calls: Calls, dtype: str, nbytes: int) -> list[Subject]:
    """What memory's bandwidth bounds. Bytes are those that must be read and written once."""
    count = nbytes // np.dtype(dtype).itemsize
    x, y, out = (array(dtype, count // ROW, ROW) for _ in range(3))
    row, line, turned = array(dtype, ROW), array(dtype, count // ROW), array(dtype, ROW, count // ROW)
    runtime, pointer = cupy.cuda.runtime, calls.stream.pointer

    def memcpy() -> None:
        runtime.memcpyAsync(out.data.ptr, x.data.ptr, nbytes, runtime.memcpyDeviceToDevice, pointer)

    ours: dict[str, tuple[Work, float]] = {
        "copy": (calls.ours("copy", {"x": x, "out": out}), 2),
        "add": (calls.ours("add", {"a": x, "b": y, "out": out}), 3),
        "add a row": (calls.ours("add", {"a": x, "b": row, "out": out}), 2),
        "gelu": (calls.ours("gelu", {"x": x, "out": out}), 2),
        "transpose": (calls.ours("transpose", {"x": x, "out": turned}), 2),
        "sum of rows": (calls.ours("reduce", {"x": x, "out": line}, op="sum", axes=(1,)), 1),
        "sum of columns": (calls.ours("reduce", {"x": x, "out": row}, op="sum", axes=(0,)), 1),
        "softmax": (calls.ours("softmax", {"x": x, "out": out}), 2),
        "layernorm": (calls.ours("layernorm", {"x": x, "out": out, "scale": row, "bias": row}), 2),
    }
    peers: dict[str, dict[str, Work]] = {name: {} for name in ours}
    peers["copy"] |= {CUPY: lambda: cupy.copyto(out, x), "memcpy": memcpy}
    peers["add"][CUPY] = lambda: cupy.add(x, y, out=out)
    peers["add a row"][CUPY] = lambda: cupy.add(x, row, out=out)
    peers["transpose"][CUPY] = lambda: cupy.copyto(turned, x.T)
    peers["sum of rows"][CUPY] = lambda: cupy.sum(x, axis=1, out=line)
    peers["sum of columns"][CUPY] = lambda: cupy.sum(x, axis=0, out=row)
    if torch:
        tx, ty, tout, trow, tturned, tline = map(shared, (x, y, out, row, turned, line))
        functional = torch.nn.functional
        peers["copy"][TORCH] = lambda: tout.copy_(tx)
        peers["add"][TORCH] = lambda: torch.add(tx, ty, out=tout)
        peers["add a row"][TORCH] = lambda: torch.add(tx, trow, out=tout)
        peers["gelu"][TORCH] = lambda: functional.gelu(tx)
        peers["transpose"][TORCH] = lambda: tturned.copy_(tx.T)
        peers["sum of rows"][TORCH] = lambda: torch.sum(tx, dim=1, out=tline)
        peers["sum of columns"][TORCH] = lambda: torch.sum(tx, dim=0, out=trow)
        peers["softmax"][TORCH] = lambda: torch.softmax(tx, dim=-1, out=tout)
        peers["layernorm"][TORCH] = lambda: functional.layer_norm(tx, (ROW,), trow, trow)
    return [
        Subject(f"{name} {dtype} {nbytes >> 20} MiB", work, peers[name], times * nbytes)
        for name, (work, times) in ours.items()
    ]


def convolution(calls: Calls, dtype: str, layer: tuple[int, int, int, int, int, int]) -> Subject:
    """One layer; beside cuDNN through PyTorch."""
    n, channels, size, filters, kernel, groups = layer
    pad = kernel // 2
    x, w = array(dtype, n, channels, size, size), array(dtype, filters, channels // groups, kernel, kernel)
    out = array(dtype, n, filters, size, size)
    ours = calls.ours("conv2d", {"x": x, "w": w, "out": out}, pads=(pad,) * 4, groups=groups)
    peers: dict[str, Work] = {}
    if torch:
        peers[TORCH] = partial(torch.nn.functional.conv2d, shared(x), shared(w), padding=pad, groups=groups)
    name = f"conv2d {dtype} {n}x{channels}x{size}x{size} * {filters}x{kernel}x{kernel} groups {groups}"
    return Subject(name, ours, peers, 2.0 * out.size * (channels // groups) * kernel * kernel)


def small(calls: Calls) -> list[Subject]:
    """Calls on next to nothing, for what the host does for each."""
    a, b, c = (array("float32", 32, 32) for _ in range(3))
    return [
        Subject("add", calls.ours("add", {"a": a, "b": b, "out": c}), {CUPY: lambda: cupy.add(a, b, out=c)}, 1),
        Subject("gemm", calls.ours("gemm", {"a": a, "b": b, "c": c}), {CUPY: lambda: cupy.matmul(a, b, out=c)}, 1),
        Subject("softmax", calls.ours("softmax", {"x": a, "out": c}), {}, 1),
        Subject("axpy", calls.ours("axpy", {"x": a, "y": c, "alpha": 0.0}), {}, 1),
    ]
