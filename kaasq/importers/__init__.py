"""Kernels that other tools made, as graphs or launches of kaasq. Each importer loads its tool when it is called."""
