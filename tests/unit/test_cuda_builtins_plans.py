"""What the cuda device makes of calls: which axes merge, how much moves at once, how work is split, what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.errors import ModuleRejected, OutOfMemory
from kaasq_workers.devices.cuda.builtins.elements import pack
from kaasq_workers.devices.cuda.builtins.steps import Bounds, KernelStep, ProductStep, blocks_for
from kaasq_workers.devices.cuda.builtins.walks import contiguous, divisor, merged, stretched, walk
from kaasq_workers.devices.cuda.builtins.workspaces import Workspaces
from tests.support.cuda_steps import Case


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_division_by_multiplication_is_exact(value: int, dividend: int) -> None:
    _, magic, shift = struct.unpack("<3I", divisor(value, wide=False))
    assert ((dividend * magic >> 32) + dividend) >> shift == dividend // value
    assert (dividend * magic >> 32) + dividend < 2**32  # the kernel adds in 32 bits


@given(st.data())
def test_merging_axes_changes_no_address(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    stretch = tuple(data.draw(st.sampled_from((1, size))) for size in shape)
    operands = [contiguous(shape), stretched(stretch, shape)]

    def addresses(sizes: tuple[int, ...], strides: Any) -> list[tuple[int, ...]]:
        return [
            tuple(sum(i * step for i, step in zip(at, each, strict=True)) for each in strides)
            for at in np.ndindex(*sizes)
        ]

    sizes, strides = merged(shape, operands)
    assert addresses(sizes, strides) == addresses(shape, operands)
    assert len(sizes) <= max(len(shape), 1)


@pytest.mark.parametrize(
    ("shape", "other", "itemsize", "axes", "lanes", "tail"),
    [
        ((4, 6, 8), (4, 6, 8), 4, 1, 4, 0),
        ((5, 7), (5, 7), 4, 1, 4, 3),  # the last three one by one
        ((5, 7), (7,), 4, 2, 1, 0),  # rows of 7 begin anywhere
        ((5, 8), (8,), 4, 2, 4, 0),
        ((5, 8), (1,), 2, 1, 8, 0),
        ((2, 3, 8, 8), (3, 1, 1), 4, 3, 4, 0),  # a channel's number stands for 64 neighbours
        ((8, 5), (8, 1), 4, 2, 1, 0),
        ((64,), (64,), 1, 1, 16, 0),
    ],
)
def test_as_much_moves_at_once_as_every_operand_allows(
    shape: Any, other: Any, itemsize: int, axes: int, lanes: int, tail: int
) -> None:
    path = walk(shape, (contiguous(shape), stretched(other, shape)), [itemsize] * 2, Bounds())
    assert (len(path.sizes), path.lanes, path.tail) == (axes, lanes, tail)
    assert path.packs * path.lanes + path.tail == np.prod(shape)


def test_a_part_that_begins_off_a_vectors_boundary_moves_by_elements() -> None:
    assert walk((8,), ((1,), (1,)), [4, 4], Bounds(), starts=(0, 4)).lanes == 4
    assert walk((8,), ((1,), (1,)), [4, 4], Bounds(), starts=(0, 2)).lanes == 2
    assert walk((8,), ((1,), (1,)), [4, 4], Bounds(), starts=(0, 1)).lanes == 1


def test_indices_have_64_bits_from_2_to_the_31_elements_on() -> None:
    def path(count: int) -> Any:
        return walk((count,), ((1,),), [1], Bounds(), vector=False)

    assert path(2**31 - 2048).counts_in == "unsigned"
    assert path(2**31).counts_in == path(2**40).counts_in == "unsigned long long"


def test_more_axes_than_kernels_have_are_refused_saying_how_many() -> None:
    shape = (2,) * 10
    strides = (contiguous(shape), tuple(step if axis % 2 else 0 for axis, step in enumerate(contiguous(shape))))
    with pytest.raises(ModuleRejected, match=r"10 axes .* at most 8"):
        walk(shape, strides, [4, 4], Bounds())


def test_more_than_a_grid_holds_is_refused() -> None:
    assert blocks_for(2**31 * 256 - 256) == 2**31 - 1
    with pytest.raises(ModuleRejected, match="split the buffer"):
        blocks_for(2**31 * 256)


def blank(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.empty(shape, dtype)


def test_few_outputs_of_many_elements_are_reduced_in_parts_that_fit_the_scratch_memory() -> None:
    def steps(bounds: Bounds) -> Any:
        return Case("reduce", {"x": blank(4, 1 << 16), "out": blank(4)}, {"op": "sum", "axes": (1,)}, bounds).steps()

    first, second = steps(Bounds())
    assert first.blocks[1] > 1
    assert second.kernel.startswith("reduce_parts")
    small, _ = steps(Bounds(scratch_bytes=4 * 4 * 3))
    assert small.blocks[1] == 3
    (only,) = steps(Bounds(scratch_bytes=0))
    assert only.blocks[1] == 1


def test_batches_with_one_matrix_for_all_become_one_product() -> None:
    def product(a: Any, b: Any, **attrs: bool) -> ProductStep:
        (step,) = Case("gemm", {"a": blank(*a), "b": blank(*b), "c": blank(3, 4, 6)}, attrs).steps()
        assert isinstance(step, ProductStep)
        return step

    folded = product((3, 4, 5), (5, 6))
    assert (folded.m, folded.batch, folded.a.batch_step, folded.c.batch_step) == (12, 1, 0, 0)
    turned = product((3, 5, 4), (5, 6), transpose_a=True)
    assert (turned.m, turned.batch, turned.a.batch_step, turned.b.batch_step) == (4, 3, 20, 0)
    shared = product((4, 5), (3, 5, 6))
    assert (shared.m, shared.batch, shared.a.batch_step, shared.b.batch_step) == (4, 3, 0, 30)


def convolution(scratch_bytes: int, kernel: int = 3, groups: int = 1) -> tuple[list[str], int]:
    """The steps' kinds, and the most bytes of columns at once."""
    x, w = blank(4, 8, 20, 20), blank(8, 8 // groups, kernel, kernel)
    pads = (kernel // 2,) * 4
    operands = {"x": x, "w": w, "out": blank(4, 8, 20, 20)}
    case = Case("conv2d", operands, {"pads": pads, "groups": groups}, Bounds(scratch_bytes))
    kinds, most = [], 0
    for step in case.steps():
        kinds.append("product" if isinstance(step, ProductStep) else step.kernel.partition("<")[0])
        if isinstance(step, KernelStep) and kinds[-1] == "im2col":
            all_rows, count = (struct.unpack("<q", step.args[at])[0] for at in (4, 6))
            most = max(most, all_rows * count * 4)
    return kinds, most


def test_convolutions_lay_out_no_more_than_the_scratch_memory_holds() -> None:
    image = 8 * 9 * 400 * 4
    assert convolution(64 << 20) == (["im2col", "product"], 4 * image)
    assert convolution(2 * image) == (["im2col", "product"] * 2, 2 * image)
    kinds, most = convolution(image // 2)
    assert kinds == ["im2col", "product"] * 8  # half of the windows of each of four images
    assert most <= image // 2
    with pytest.raises(ModuleRejected, match=r"one window takes 288 bytes of scratch memory, there are 100"):
        convolution(100)


def test_1_x_1_filters_need_no_columns_and_depthwise_ones_no_product() -> None:
    assert convolution(0, kernel=1)[0] == ["product"]
    assert convolution(0, groups=8)[0] == ["conv2d_direct"]


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("uint8", 300, 255),
        ("uint8", -1.0, 0),
        ("int8", float("nan"), 0),
        ("int64", float("inf"), 2**63 - 1),
        ("int32", -3.9, -3),
        ("float16", 1e9, float("inf")),
        ("float32", -1e39, float("-inf")),
        ("bool", 0.5, True),
    ],
)
def test_numbers_take_an_elements_type_as_cast_would(dtype: str, value: float, expected: float) -> None:
    assert np.frombuffer(pack(dtype, value), dtype)[0] == expected


class FakeStream:
    def __init__(self) -> None:
        self.workspace: Any = None


def test_every_stream_gets_a_workspace_of_its_own_once_one_is_needed() -> None:
    allocated: list[int] = []

    class Piece:
        def __init__(self, nbytes: int) -> None:
            allocated.append(nbytes)
            self.address, self.nbytes = 4096 * len(allocated), nbytes

        def free(self) -> None: ...

    workspaces = Workspaces(Piece, 1000, 500)
    first, second, third = FakeStream(), FakeStream(), FakeStream()
    workspaces.add(first)
    workspaces.add(second)
    assert not allocated
    workspaces.need()
    workspaces.need()
    workspaces.add(third)
    assert allocated == [1524] * 3
    assert len({each.workspace.scratch for each in (first, second, third)}) == 3
    assert first.workspace.product == first.workspace.scratch + 1024  # aligned


def test_a_workspace_that_does_not_fit_fails_the_plan_that_needs_it() -> None:
    def full(nbytes: int) -> Any:
        raise OutOfMemory("none left", needed=nbytes, capacity=0)

    workspaces = Workspaces(full, 1000, 500)
    stream = FakeStream()
    workspaces.add(stream)
    with pytest.raises(OutOfMemory):
        workspaces.need()
    workspaces.add(FakeStream())  # nothing needs it yet
    assert stream.workspace is None
