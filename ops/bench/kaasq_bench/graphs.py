"""The work that is measured, as data: kernels, steps and arrays, from which kaasq's graph and every peer are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kaasq import Graph, Module
from kaasq.model import Buffer
from kaasq_bench.sources import FILL, HALVE, HALVE_INTO, JACOBI, NOOP, PASS_ON, SAXPY, SPIN, TOUCH

Floats = npt.NDArray[np.float32]


class Step(NamedTuple):
    """One launch. ``args``: names of arrays, and NumPy scalars."""

    kernel: str
    grid: int
    block: int
    args: tuple[str | np.generic, ...]


class Program(NamedTuple):
    """Kernels over float arrays. ``resident`` stays on the device from request to request, ``given`` comes with each.

    ``outputs`` (name to length) start as zeros.
    """

    name: str
    source: str
    steps: tuple[Step, ...]
    iterations: int
    resident: Mapping[str, Floats]
    given: Mapping[str, Floats]
    temps: Mapping[str, int]
    outputs: Mapping[str, int]

    @property
    def launches(self) -> int:
        return len(self.steps) * self.iterations

    def graph(self) -> Graph:
        """The same as kaasq's graph. What is an input is promised not to be written to."""
        graph = Graph(f"bench.{self.name}")
        buffers: dict[str, Buffer] = {}
        for name, array in {**self.resident, **self.given}.items():
            buffers[name] = graph.input(name, shape=array.shape, dtype="float32", const=True)
        for name, length in self.temps.items():
            buffers[name] = graph.temp(name, shape=length, dtype="float32")
        for name, length in self.outputs.items():
            buffers[name] = graph.output(name, shape=length, dtype="float32")
        module = Module.from_source(self.source)
        for step in self.steps:
            args: list[Any] = [buffers[each] if isinstance(each, str) else each for each in step.args]
            graph.launch(module.kernel(step.kernel), grid=step.grid, block=step.block, args=args)
        graph.iterations = self.iterations
        return graph


def noop() -> Graph:
    """One empty kernel."""
    graph = Graph("bench.noop")
    graph.launch(Module.from_source(NOOP).kernel("noop"), grid=1, block=1, args=[])
    return graph


def passing_on(n: int = 1) -> Graph:
    """One empty kernel, and numbers that come and go unchanged: a no-op that others can follow."""
    graph = Graph("bench.passing-on")
    x = graph.inout("x", shape=n, dtype="float32")
    graph.launch(Module.from_source(PASS_ON).kernel("pass_on"), grid=1, block=1, args=[x])
    return graph


def adding_up(items: int, n: int = 1) -> Graph:
    """The graph of sum = all of so many items of so many numbers."""
    graph = Graph("bench.adding-up")
    parts = graph.input("parts", shape=(items, n), dtype="float32", const=True)
    graph.call("reduce", parts, graph.output("sum", shape=(1, 1), dtype="float32"), op="sum", keepdims=True)
    return graph


def halving(n: int) -> Graph:
    """The graph of out = x / 2 + 1 over n floats."""
    graph = Graph("bench.halving")
    x = graph.input("x", shape=n, dtype="float32", const=True)
    out = graph.output("out", shape=n, dtype="float32")
    kernel = Module.from_source(HALVE_INTO).kernel("halve_into")
    graph.launch(kernel, grid=-(-n // 256), block=256, args=[x, out, np.int32(n)])
    return graph


def saxpy(n: int, source: str = SAXPY) -> Graph:
    """The graph of out = 2 x + y over n floats."""
    graph = Graph("bench.saxpy")
    x = graph.input("x", shape=n, dtype="float32", const=True)
    y = graph.input("y", shape=n, dtype="float32", const=True)
    out = graph.output("out", shape=n, dtype="float32")
    kernel = Module.from_source(source).kernel("saxpy")
    graph.launch(kernel, grid=-(-n // 256), block=256, args=[np.float32(2), x, y, out, np.int32(n)])
    return graph


def small_launches(count: int, n: int = 1024) -> Program:
    """So many launches over n floats, each waiting for the one before."""
    step = Step("halve", -(-n // 256), 256, ("x", np.int32(n)))
    return Program(f"launches-{count}", HALVE, (step,) * count, 1, {}, {}, {}, {"x": n})


def jacobi(n: int, sweeps: int, seed: int = 1) -> Program:
    """Jacobi's iteration for a x = b: dense, diagonally dominant, from zero; an even number of sweeps ends in x."""
    random = np.random.default_rng(seed)
    a = random.random((n, n), dtype=np.float32) + n * np.eye(n, dtype=np.float32)
    b = random.random(n, dtype=np.float32)
    block = 64
    there = Step("sweep", -(-n // block), block, ("a", "b", "x", "next", np.int32(n)))
    back = Step("sweep", -(-n // block), block, ("a", "b", "next", "x", np.int32(n)))
    columns = np.ascontiguousarray(a.T)
    return Program("jacobi", JACOBI, (there, back), sweeps // 2, {"a": columns}, {"b": b}, {"next": n}, {"x": n})


def product_chain(squares: int, n: int, columns: int) -> Graph:
    """The graph of out = (((w0 w1) w2) ...) x by the built-in ``gemm``: squares of n x n, x of n x columns."""
    graph = Graph("bench.product-chain")
    weights = [graph.input(f"w{i}", shape=(n, n), dtype="float32", const=True) for i in range(squares)]
    x = graph.input("x", shape=(n, columns), dtype="float32", const=True)
    out = graph.output("out", shape=(n, columns), dtype="float32")
    left = weights[0]
    for i in range(1, squares):
        product = graph.temp(f"t{i}", shape=(n, n), dtype="float32")
        graph.call("gemm", left, weights[i], product)
        left = product
    graph.call("gemm", left, x, out)
    return graph


def chain_arrays(squares: int, n: int, columns: int, seed: int) -> tuple[list[Floats], Floats]:
    """Weights that keep what they multiply at its size, and an x."""
    random = np.random.default_rng(seed)
    scale = np.float32((12 / n) ** 0.5)  # uniform numbers: a normal distribution takes seconds for what a GPU needs
    weights = [(random.random((n, n), dtype=np.float32) - np.float32(0.5)) * scale for _ in range(squares)]
    return weights, random.random((n, columns), dtype=np.float32)


def reading(nbytes: int) -> Graph:
    """An input of that size, of which a kernel reads four bytes."""
    graph = Graph("bench.reading")
    x = graph.input("x", nbytes=nbytes, const=True)
    out = graph.output("out", shape=1, dtype="float32")
    graph.launch(Module.from_source(TOUCH).kernel("touch"), grid=1, block=1, args=[x, out])
    return graph


def writing(nbytes: int) -> Graph:
    """An output of that size, of which a kernel writes four bytes; the rest is zeros."""
    graph = Graph("bench.writing")
    out = graph.output("out", nbytes=nbytes)
    graph.launch(Module.from_source(FILL).kernel("fill"), grid=1, block=1, args=[out])
    return graph


def spinning(blocks: int, rounds: int, threads: int = 256) -> Graph:
    """A kernel of few blocks that computes for a while; ``rounds`` may be set with the request."""
    graph = Graph("bench.spinning")
    out = graph.output("out", shape=blocks * threads, dtype="float32")
    count = graph.scalar("rounds", "int32", default=rounds)
    graph.launch(Module.from_source(SPIN).kernel("spin"), grid=blocks, block=threads, args=[out, count])
    return graph
