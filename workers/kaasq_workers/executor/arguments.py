"""Checks a launch's arguments against the kernel's real parameters, and packs them for the device."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from kaasq.dtypes import pack_number
from kaasq.errors import BadArguments
from kaasq.model import Buffer, Launch, Scalar
from kaasq_workers.devices.protocol import LoadedKernel

POINTER_BYTES = 8


class PackedArguments:
    """The values of one launch in one block of memory, and the array of pointers to them that launching takes.

    Packed once per plan; a request only rewrites the addresses and scalars that changed.
    """

    def __init__(self, values: list[bytes]) -> None:
        offsets: list[int] = []
        end = 0
        for value in values:
            end = -(-end // 16) * 16  # enough for every type a kernel can take by value
            offsets.append(end)
            end += len(value)
        self._values = ctypes.create_string_buffer(max(end, 1) + 16)
        base = -(-ctypes.addressof(self._values) // 16) * 16
        self._slots = [base + offset for offset in offsets]
        self._sizes = [len(each) for each in values]
        self._pointers = (ctypes.c_void_p * max(len(values), 1))(*self._slots)
        self.pointers = ctypes.addressof(self._pointers)
        self.count = len(values)
        for index, value in enumerate(values):
            self.set(index, value)

    def set(self, index: int, value: bytes) -> None:
        """Rewrite one value; it must have the size it was packed with."""
        ctypes.memmove(self._slots[index], value, len(value))

    def copy(self) -> PackedArguments:
        """The same values in memory of their own."""
        return PackedArguments([ctypes.string_at(at, size) for at, size in zip(self._slots, self._sizes, strict=True)])


def pack(launch: Launch, at: str, kernel: LoadedKernel, declared: Mapping[str, Buffer | Scalar]) -> PackedArguments:
    """The launch's arguments, checked for count and size; addresses and scalars without default are still 0.

    ``declared`` are the graph's buffers and scalars by name. Raises BadArguments naming launch and argument.
    """
    values: list[bytes] = []
    described: list[str] = []
    for index, arg in enumerate(launch.args):
        if isinstance(arg, str):
            match declared[arg]:
                case Buffer():
                    values.append(pointer(0))
                    described.append(f"buffer {arg!r}")
                case Scalar(dtype=dtype, default=default):
                    values.append(pack_number(dtype, default or 0, f"scalars.{arg}"))
                    described.append(f"scalar {arg!r} ({dtype})")
        elif arg.dtype == "bytes":
            values.append(arg.data)
            described.append(f"a struct of {len(arg.data)} bytes")
        else:
            values.append(pack_number(arg.dtype, arg.value, f"{at}.args[{index}]"))
            described.append(f"{arg.dtype} {arg.value}")
    check(at, kernel, values, described)
    return PackedArguments(values)


def check(at: str, kernel: LoadedKernel, values: list[bytes], described: list[str]) -> None:
    """Compare the values' count, sizes and kinds with the kernel's parameter table, where it has one."""
    table = kernel.parameters
    if table is None:
        return
    if len(values) != len(table):
        raise BadArguments(
            f"{at}: kernel {kernel.name!r} takes {len(table)} parameters, {len(values)} arguments were given",
            launch=at,
            kernel=kernel.name,
            expected=len(table),
            given=len(values),
        )
    for index, (value, parameter) in enumerate(zip(values, table, strict=True)):
        is_buffer = described[index].startswith("buffer")
        if len(value) != parameter.size:
            raise BadArguments(
                f"{at}.args[{index}]: kernel {kernel.name!r} expects {parameter.size} bytes there, "
                f"{described[index]} has {len(value)}",
                launch=at,
                kernel=kernel.name,
                argument=index,
                expected=parameter.size,
                given=len(value),
            )
        if parameter.pointer is not None and parameter.pointer != is_buffer:
            wanted = "a pointer, so a buffer" if parameter.pointer else "a value, not a buffer"
            raise BadArguments(
                f"{at}.args[{index}]: kernel {kernel.name!r} expects {wanted}; {described[index]} was given",
                launch=at,
                kernel=kernel.name,
                argument=index,
            )


def pointer(address: int) -> bytes:
    """A device address as a kernel's parameter."""
    return address.to_bytes(POINTER_BYTES, "little")
