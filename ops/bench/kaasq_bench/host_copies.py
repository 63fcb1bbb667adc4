"""Counts what the devices of this process copy from and to the host, where all of it goes through: their streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kaasq_bench.setting import Setting


class HostCopies:
    """Bytes so far, in both directions."""

    def __init__(self) -> None:
        self.nbytes = 0

    def during(self, call: Callable[[], object]) -> int:
        """Bytes of one call."""
        before = self.nbytes
        call()
        return self.nbytes - before


@contextmanager
def counted(setting: Setting) -> Iterator[HostCopies]:
    """All copies of the setting's kind of device, for as long as it lasts."""
    copies, stream = HostCopies(), _stream_class(setting)
    names = ("copy_in", "copy_out")
    own = {name: getattr(stream, name) for name in names}
    for name in names:
        setattr(stream, name, _counting(copies, own[name]))
    try:
        yield copies
    finally:
        for name in names:
            setattr(stream, name, own[name])


def _counting(copies: HostCopies, copy: Callable[..., None]) -> Callable[..., None]:
    def counting(stream: Any, memory: Any, data: memoryview, offset: int = 0) -> None:
        copies.nbytes += data.nbytes
        copy(stream, memory, data, offset)

    return counting


def _stream_class(setting: Setting) -> type:
    if setting.gpu:
        from kaasq_workers.devices.cuda.stream import CudaStream

        return CudaStream
    from kaasq_workers.devices.cpu.device import CpuStream

    return CpuStream
