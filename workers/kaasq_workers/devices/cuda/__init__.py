"""The cuda device: a GPU through CuPy and NVIDIA's Python bindings. CUDA is imported when one is opened, not before."""

from kaasq_workers.devices.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
