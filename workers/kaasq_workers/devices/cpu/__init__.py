"""The CPU standing in for a GPU: compiles a module's CUDA C++ for the host and runs it on a pool of threads."""

from kaasq_workers.devices.cpu.device import CpuDevice

__all__ = ["CpuDevice"]
