"""Loads all that a CudaDevice needs, so that opening one later is quick. Touches no GPU, and takes no memory of one."""

from kaasq_workers.devices.cuda import (
    compiler,
    large_copies,
    memory,
    module,
    pinning,
    stream,
)
from kaasq_workers.devices.cuda.builtins import builtins

__all__ = ["builtins", "compiler", "large_copies", "memory", "module", "pinning", "stream"]
