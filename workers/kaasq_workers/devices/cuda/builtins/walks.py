"""Walks over operands of one shape, each with its strides: axes merged, vectors chosen, packed for kernels. Pure.

``kernels/common.cuh`` says what a kernel makes of one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cuda.builtins.steps import Bounds

Shape = tuple[int, ...]

MOST_AXES = 8  # after merging
VECTOR_BYTES = 16
_WIDTHS = (16, 8, 4, 2)


class Walk(NamedTuple):
    """``sizes`` in packs of ``lanes`` elements, steps likewise on the last axis; ``tail`` elements follow."""

    sizes: Shape
    steps: tuple[Shape, ...]
    starts: Shape
    lanes: int
    tail: int
    wide: bool

    @property
    def packs(self) -> int:
        """How many packs."""
        return math.prod(self.sizes)

    @property
    def threads(self) -> int:
        """Threads to walk it, one for each pack and element of the tail."""
        return self.packs + self.tail

    @property
    def counts_in(self) -> str:
        """The type of its indices."""
        return index_type(self.wide)

    @property
    def template(self) -> str:
        """The kernel's last arguments: index, axes, lanes."""
        return f"{self.counts_in}, {len(self.sizes)}, {self.lanes}"

    def packed(self) -> bytes:
        """The kernel's ``Walk``."""
        signed = [*self.starts, *(each for steps in self.steps for each in steps)]
        head = struct.pack(f"<{len(signed)}q", *signed) + b"".join(divisor(each, self.wide) for each in self.sizes)
        return aligned(head + pack_index(self.packs, self.wide) + pack_index(self.tail, self.wide))


def walk(
    sizes: Sequence[int],
    strides: Sequence[Sequence[int]],
    itemsizes: Sequence[int],
    bounds: Bounds,
    *,
    starts: Sequence[int] | None = None,
    vector: bool = True,
    also: Sequence[int] = (),
) -> Walk:
    """A walk over ``sizes``, innermost last. ``strides`` (0 where an operand stretches) are per operand, in elements.

    ``vector``: whether several elements may move at once; ``also``: of which numbers theirs must be a divisor. Raises
    ModuleRejected for more than MOST_AXES.
    """
    sizes, steps = merged(sizes, strides)
    if len(sizes) > MOST_AXES:
        raise ModuleRejected(
            f"{len(sizes)} axes are left after merging those that lie together in memory; at most {MOST_AXES} are "
            "supported: copy into a contiguous buffer first, or split the call"
        )
    begins = tuple(starts or (0,) * len(steps))
    lanes = _lanes(sizes, steps, begins, max(itemsizes), also) if vector else 1
    inner, tail = divmod(sizes[-1], lanes)
    packed_steps = tuple((*each[:-1], each[-1] * lanes) for each in steps)
    wide = bounds.wide(math.prod(sizes))
    return Walk((*sizes[:-1], inner), packed_steps, begins, lanes, tail, wide)


def merged(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[Shape, tuple[Shape, ...]]:
    """The same walk with fewer axes: none of size 1, and those as one that every operand steps through as one."""
    kept: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        here = [each[axis] for each in strides]
        if kept and all(before[-1] == now * size for before, now in zip(steps, here, strict=True)):
            kept[-1] *= size
            for before, now in zip(steps, here, strict=True):
                before[-1] = now
        else:
            kept.append(size)
            for before, now in zip(steps, here, strict=True):
                before.append(now)
    if not kept:
        return (1,), tuple((0,) for _ in strides)
    return tuple(kept), tuple(map(tuple, steps))


def _lanes(sizes: Shape, steps: tuple[Shape, ...], starts: Shape, itemsize: int, also: Sequence[int]) -> int:
    """How many elements to move at once: all operands contiguous or constant along the last axis, and aligned."""
    if steps[0][-1] != 1 or any(each[-1] not in {0, 1} for each in steps):
        return 1
    for lanes in _WIDTHS:
        if lanes * itemsize > VECTOR_BYTES or lanes > sizes[-1] or (sizes[-1] % lanes and len(sizes) > 1):
            continue
        if any(each % lanes for each in also):
            continue
        vectors = [(start, each) for start, each in zip(starts, steps, strict=True) if each[-1]]
        if all(start % lanes == 0 and all(step % lanes == 0 for step in each[:-1]) for start, each in vectors):
            return lanes
    return 1


def contiguous(shape: Sequence[int]) -> Shape:
    """Strides of rows in order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def stretched(shape: Shape, to: Shape) -> Shape:
    """Strides of an operand that stretches to a shape by NumPy's rules."""
    own = (0,) * (len(to) - len(shape)) + contiguous(shape)
    return tuple(
        0 if size == 1 else step for size, step in zip((1,) * (len(to) - len(shape)) + shape, own, strict=True)
    )


def index_type(wide: bool) -> str:
    """What kernels count in."""
    return "unsigned long long" if wide else "unsigned"


def pack_index(value: int, wide: bool) -> bytes:
    """A count as a kernel's parameter."""
    return struct.pack("<Q" if wide else "<I", value)


def divisor(value: int, wide: bool) -> bytes:
    """The kernel's ``Divisor``."""
    if wide:
        return struct.pack("<Q", value)
    shift = (value - 1).bit_length()
    magic = (2**32 * (2**shift - value)) // value + 1
    return struct.pack("<3I", value, magic, shift)


def aligned(data: bytes) -> bytes:
    """As a struct whose widest member has 8 bytes."""
    return data + bytes(-len(data) % 8)
