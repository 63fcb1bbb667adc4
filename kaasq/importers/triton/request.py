"""What somebody asks the compiler for, checked: architecture, warps, parameters, hints. Pure; needs no Triton."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kaasq.errors import BadRequest
from kaasq.importers.triton.types import Parameter, parameter

MOST_WARPS = 32  # 1024 threads, the most that a block has

_TARGET = re.compile(r"sm_(\d{2,3})a?", re.ASCII)


def architecture(target: object) -> int:
    """The number in ``sm_90`` (or ``sm_90a``). Raises BadRequest."""
    found = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if found is None:
        raise BadRequest(
            f"expected one NVIDIA architecture such as 'sm_90', given {target!r:.60}: a cubin runs on no other, so "
            "compile once for each and make a graph of each (nvidia-smi --query-gpu=compute_cap --format=csv tells "
            "that of a GPU: 9.0 is sm_90)",
            at="target",
        )
    return int(found.group(1))


def check_warps(given: object) -> None:
    """Raises BadRequest for what is no number of warps."""
    if not isinstance(given, int) or not 1 <= given <= MOST_WARPS or given & (given - 1):
        raise BadRequest(f"expected a power of 2 from 1 to {MOST_WARPS}, given {given!r:.60}", at="num_warps")


def bound(
    function: Any, signature: Mapping[str, str], constants: Mapping[str, Any]
) -> tuple[tuple[Parameter, ...], dict[str, Any]]:
    """The parameters that a launch of the ``@triton.jit`` function gives, and the values of the others.

    Raises BadRequest for names, types or values that do not fit the function.
    """
    declared = {each.name: each for each in function.params}
    for at, given in (("signature", signature), ("constants", constants)):
        for name in given:
            if name not in declared:
                raise BadRequest(
                    f"{function.__name__} has no parameter {name!r}; it has {', '.join(declared)}", at=f"{at}.{name}"
                )
    parameters, fixed = [], {}
    for name, formal in declared.items():
        typed = signature.get(name)
        if name in constants:
            if typed not in (None, "constexpr"):
                raise BadRequest(f"{name!r} has a value in constants, so no type {typed!r:.60}", at=f"signature.{name}")
            fixed[name] = constants[name]
        elif formal.is_constexpr or typed == "constexpr":
            if formal.default is inspect.Parameter.empty:
                raise BadRequest(f"{name!r} is a constexpr and needs a value", at="constants")
            fixed[name] = formal.default
        elif typed is None:
            raise BadRequest(
                f"{name!r} needs a type, such as '*fp32' or 'i32' (or a value, in constants)", at="signature"
            )
        else:
            parameters.append(parameter(name, typed, f"signature.{name}"))
    return tuple(parameters), fixed


def hinted(parameters: Collection[Parameter], names: Iterable[str]) -> frozenset[str]:
    """The names of whole numbers that may be taken for multiples of 16. Raises BadRequest."""
    whole = {each.name for each in parameters if not each.pointer and "int" in each.dtype}
    chosen = frozenset([names] if isinstance(names, str) else names)
    for name in sorted(chosen - whole):
        raise BadRequest(
            f"{name!r} is no whole number that a launch gives; those are {', '.join(sorted(whole)) or 'none'}",
            at="multiples_of_16",
        )
    return chosen
