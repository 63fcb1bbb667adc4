"""The parameters of a compiled kernel as its PTX declares them, hidden ones included. Pure."""

from __future__ import annotations

import re

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)", re.DOTALL)
# .param .u64 .ptr .global .align 1 add_param_0  |  .param .f32 add_param_1  |  .param .align 2 .b8 add_param_2[2]
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.[a-z]+(\d+)\s[^,\[]*(?:\[(\d+)\])?")


def parameter_sizes(ptx: str, kernel: str) -> tuple[int, ...] | None:
    """Bytes of each parameter of the kernel, in order; None if the PTX does not define it."""
    for name, declared in _ENTRY.findall(ptx):
        if name == kernel:
            return tuple(int(bits) // 8 * int(count or 1) for bits, count in _PARAMETER.findall(declared))
    return None
