"""The demo: a photograph through fourteen launches of nine CUDA C++ kernels, checked against NumPy and drawn."""
