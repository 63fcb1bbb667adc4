"""Guard mode: finds launches that write outside of a buffer, or to one that they promised not to.

Each buffer lies between two bands of a known pattern, in one allocation; they are looked at after every launch. What a
kernel writes farther off than a band is wide is seen only if it hits another buffer's band or nothing at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from kaasq.errors import KernelFailed
from kaasq.model import GraphSpec
from kaasq_workers.devices.protocol import Device, Memory, Stream

ALIGNMENT = 256  # what a buffer's address is a multiple of, here as anywhere
NEAR_BYTES = 256 << 20  # an address farther from every buffer than that says nothing about any


class Guard:
    """Allocates between bands and watches launches. ``band``: bytes, rounded up to a multiple of 256."""

    def __init__(self, device: Device, stream: Stream, band: int) -> None:
        self._device = device
        self._stream = stream
        self._band = -(-band // ALIGNMENT) * ALIGNMENT
        self._pattern = np.frombuffer(pattern(self._band), np.uint8)

    def allocate(self, nbytes: int) -> Memory:
        """Memory between two bands. Raises OutOfMemory."""
        whole = self._device.allocate(self._band + nbytes + self._band)
        for start in (0, self._band + nbytes):
            self._stream.copy_in(whole, self._pattern.data, start)
        return whole.part(self._band, nbytes)

    @contextmanager
    def watch(self, graph: GraphSpec, memory: Mapping[str, Memory]) -> Iterator[Callable[[], None]]:
        """Around a graph's launches; what it gives is to be called after each of them.

        Raises KernelFailed naming the buffer, the kernel and the launch.
        """
        promised = {each.name: self._bytes(memory[each.name]) for each in graph.buffers if each.const}
        done = 0

        def check() -> None:
            nonlocal done
            self._stream.synchronize()
            for name, given in memory.items():
                self._check_bands(name, given)
            for name, before in promised.items():
                _check_promise(name, before, self._bytes(memory[name]))
            done += 1

        try:
            yield check
        except KernelFailed as error:
            index = done % len(graph.launches)
            raise _placed(error, f"graph.launches[{index}]", graph.launches[index].kernel, memory) from error

    def _check_bands(self, name: str, memory: Memory) -> None:
        for end, start in ((False, -self._band), (True, memory.nbytes)):
            changed = np.flatnonzero(self._bytes(memory.part(start, self._band)) != self._pattern)
            if not changed.size:
                continue
            # How far off: from the buffer's last byte onwards, or from its first one backwards.
            nearest, farthest = (changed[0] + 1, changed[-1] + 1) if end else (self._band - changed[[-1, 0]])
            where = "past the end" if end else "before the start"
            raise KernelFailed(
                f"wrote outside of buffer {name!r} of {memory.nbytes} bytes: {changed.size} bytes changed, from "
                f"{nearest} to {farthest} bytes {where}",
                buffer=name,
                offset=int(start + changed[0]),
                changed=int(changed.size),
            )

    def _bytes(self, memory: Memory) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        data = np.empty(memory.nbytes, np.uint8)
        self._stream.copy_out(memory, data.data)
        self._stream.synchronize()
        return data


def pattern(nbytes: int) -> bytes:
    """What a band is filled with: the same in every run, and nothing that kernels like to write (0, 1, -1)."""
    drawn = np.frombuffer(hashlib.shake_128(b"kaasq guard band").digest(nbytes), np.uint8).copy()
    drawn[(drawn < 2) | (drawn == 0xFF)] = 0xA5
    return drawn.tobytes()


def _check_promise(name: str, before: np.ndarray, after: np.ndarray) -> None:
    changed = np.flatnonzero(before != after)
    if changed.size:
        raise KernelFailed(
            f"wrote to buffer {name!r}, which the graph declares const: {changed.size} of its {before.size} bytes "
            f"changed, the first at offset {changed[0]}; declare it without const, or mend the kernel",
            buffer=name,
            offset=int(changed[0]),
            changed=int(changed.size),
        )


def _placed(error: KernelFailed, place: str, kernel: str, memory: Mapping[str, Memory]) -> KernelFailed:
    """The same error, with the launch, and the buffer that an address it names is nearest to."""
    detail = {"kernel": kernel, "launch": place, **error.detail}
    message = error.message if "buffer" in error.detail else error.message.removeprefix(f"kernel {kernel!r} ")
    address = error.detail.get("address")
    if isinstance(address, int) and memory:
        name, offset = min(
            ((name, address - each.address) for name, each in memory.items()),
            key=lambda found: _distance(found[1], memory[found[0]].nbytes),
        )
        nbytes = memory[name].nbytes
        if _distance(offset, nbytes) <= NEAR_BYTES:
            off = f"{-offset} bytes before the start" if offset < 0 else f"{offset - nbytes + 1} bytes past the end"
            message += f"; the nearest buffer is {name!r} of {nbytes} bytes, {off}"
            detail |= {"buffer": name, "offset": offset}
    return KernelFailed(f"{place}: kernel {kernel!r} {message}", **detail)


def _distance(offset: int, nbytes: int) -> int:
    return -offset if offset < 0 else max(0, offset - nbytes + 1)
