"""The kernels' source, put together per family: one text, so that the compiler's cache sees all that it depends on."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from kaasq.model import Module

HALF = "__half"


@cache
def family_module(family: str, half: bool) -> Module:
    """The module of a family. ``half``: with float16, whose header takes longer to compile than all else."""
    folder = files(__package__) / "kernels"
    parts = ["common", *(["half"] if half else []), family]
    return Module.from_source("\n".join((folder / f"{each}.cuh").read_text() for each in parts))


def module_of(family: str, kernel: str) -> Module:
    """The module that has that kernel."""
    return family_module(family, HALF in kernel)
