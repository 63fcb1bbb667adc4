"""The built-ins on the CPU, with NumPy (and its BLAS)."""

from kaasq_workers.devices.cpu.builtins.operation import CpuOperation, prepare

__all__ = ["CpuOperation", "prepare"]
