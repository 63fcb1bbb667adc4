"""What a built-in comes down to: kernels to launch and matrix products, as data that a request's addresses go into.

Pure: which steps a call needs is decided without a GPU, and so can be looked at and, on the cpu device, run there.
"""

from __future__ import annotations

from typing import NamedTuple

from kaasq.errors import ModuleRejected
from kaasq.model import Dim3, Number
from kaasq_workers.devices.cuda.builtins.elements import pack, rounded, wide
from kaasq_workers.devices.cuda.builtins.workspaces import SCRATCH_BYTES

THREADS = 256  # of a block, in nearly all kernels
SCRATCH = "(scratch)"
"""In place of an operand's name: memory for what a step leaves to the next ones."""

_MOST_BLOCKS = 2**31 - 1


class Bounds(NamedTuple):
    """What plans must keep to. ``narrow_below``: from so many elements on, indices have 64 bits."""

    scratch_bytes: int = SCRATCH_BYTES
    narrow_below: int = 2**31

    def wide(self, count: int) -> bool:
        """Whether so many elements need indices of 64 bits. One more block of threads must fit beside them."""
        return count >= self.narrow_below - 1024


class Pointer(NamedTuple):
    """An operand's address, or ``SCRATCH``, plus some bytes. Without a name: a null pointer."""

    name: str = ""
    offset: int = 0


class Figure(NamedTuple):
    """A number that comes with each request.

    ``dtype``: what it is rounded to first. ``wide``: whether the kernel takes it as what such elements are computed in.
    """

    name: str
    dtype: str
    wide: bool = True

    def packed(self, value: Number) -> bytes:
        """The number as the kernel takes it."""
        target = wide(self.dtype) if self.wide else self.dtype
        return pack(target, value if target == self.dtype else rounded(self.dtype, value))


class KernelStep(NamedTuple):
    """A launch of a kernel of ``kernels/<family>.cuh``, by its name expression. Bytes are values, packed."""

    family: str
    kernel: str
    blocks: tuple[int, int]
    args: tuple[Pointer | Figure | bytes, ...]
    threads: int = THREADS

    @property
    def grid(self) -> Dim3:
        """All dimensions."""
        return (*self.blocks, 1)

    @property
    def block(self) -> Dim3:
        """All dimensions."""
        return (self.threads, 1, 1)


class Matrix(NamedTuple):
    """Matrices in rows: so many elements from row to row (as stored), and from one matrix of the batch to the next."""

    at: Pointer
    row_step: int
    batch_step: int = 0
    transposed: bool = False


class ProductStep(NamedTuple):
    """c = alpha * a b + beta * c, m x k times k x n after transposing, ``batch`` times."""

    dtype: str
    m: int
    n: int
    k: int
    batch: int
    a: Matrix
    b: Matrix
    c: Matrix
    alpha: Figure | float = 1.0
    beta: Figure | float = 0.0


Step = KernelStep | ProductStep
Steps = tuple[Step, ...]


def blocks_for(count: int, each: int = THREADS) -> int:
    """How many blocks of so many threads cover ``count``. Raises ModuleRejected if no grid is so large."""
    blocks = -(-count // each)
    if blocks > _MOST_BLOCKS:
        raise ModuleRejected(f"{count} elements are more than one launch can take: split the buffer")
    return blocks
