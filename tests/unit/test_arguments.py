"""Arguments against a kernel's parameter table, and how they are packed."""

import ctypes

import numpy as np
import pytest

from kaasq import BadArguments, Graph, Module
from kaasq.model import Buffer, Scalar
from kaasq_workers.devices.protocol import Parameter
from kaasq_workers.executor.arguments import PackedArguments, pack

MODULE = Module.from_source("__global__ void k() {}")


class Kernel:
    threads_per_block = 1024
    static_shared_bytes = 0

    def __init__(self, *sizes: int, pointers: tuple[bool | None, ...] | None = None) -> None:
        self.name = "k"
        kinds = pointers or (None,) * len(sizes)
        self.parameters: tuple[Parameter, ...] | None = tuple(
            Parameter(8 * i, *each) for i, each in enumerate(zip(sizes, kinds, strict=True))
        )


def graph(*constants, scalar: str | None = None) -> Graph:
    made = Graph("g")
    args = [made.input("x", nbytes=16), *constants]
    if scalar:
        args.append(made.scalar("a", scalar, 1))
    made.launch(MODULE.kernel("k"), grid=1, block=1, args=args)
    return made


def packed(made: Graph, kernel: Kernel) -> PackedArguments:
    spec = made.freeze()
    declared: dict[str, Buffer | Scalar] = {each.name: each for each in spec.buffers}
    declared.update((each.name, each) for each in spec.scalars)
    return pack(spec.launches[0], "graph.launches[0]", kernel, declared)


def values(arguments: PackedArguments, *sizes: int) -> list[bytes]:
    pointers = (ctypes.c_void_p * arguments.count).from_address(arguments.pointers)
    return [ctypes.string_at(pointers[i], size) for i, size in enumerate(sizes)]


def test_each_pointer_leads_to_its_value():
    arguments = packed(graph(np.int32(-2), np.float64(0.5), b"abc", scalar="float32"), Kernel(8, 4, 8, 3, 4))
    assert values(arguments, 8, 4, 8, 3, 4) == [
        bytes(8),
        np.int32(-2).tobytes(),
        np.float64(0.5).tobytes(),
        b"abc",
        np.float32(1).tobytes(),
    ]


def test_rewriting_one_value_leaves_its_neighbours():
    arguments = packed(graph(np.int32(1), np.int32(2)), Kernel(8, 4, 4))
    arguments.set(1, np.int32(9).tobytes())
    assert values(arguments, 8, 4, 4)[1:] == [np.int32(9).tobytes(), np.int32(2).tobytes()]


@pytest.mark.parametrize(
    ("kernel", "complaint"),
    [
        (Kernel(8), "takes 1 parameters, 2 arguments"),
        (Kernel(8, 4, 4), "takes 3 parameters, 2 arguments"),
        (Kernel(8, 8), r"args\[1\].*expects 8 bytes there, int32 5 has 4"),
        (Kernel(8, 4, pointers=(True, True)), r"args\[1\].*a pointer, so a buffer"),
        (Kernel(8, 4, pointers=(False, False)), r"args\[0\].*a value, not a buffer; buffer 'x'"),
    ],
)
def test_what_does_not_fit_the_table_is_refused_naming_the_argument(kernel, complaint):
    with pytest.raises(BadArguments, match=complaint):
        packed(graph(np.int32(5)), kernel)


def test_a_kernel_without_a_table_takes_what_the_graph_says():
    kernel = Kernel()
    kernel.parameters = None
    assert packed(graph(np.int32(5)), kernel).count == 2
