"""Compiles a Triton kernel ahead of time to a cubin. The only module that imports triton; needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from kaasq.errors import BadRequest
from kaasq.extras import install
from kaasq.importers.triton.kernel import WARP_THREADS, TritonKernel
from kaasq.importers.triton.metadata import check_launchable, scratch
from kaasq.importers.triton.request import architecture, bound, check_warps, hinted
from kaasq.importers.triton.types import Parameter
from kaasq.model import Module

OLDEST = (3, 4)  # the oldest that was tried
SHOWN_CHARACTERS = 2000  # of what the compiler says

_HINT = ("tt.divisibility", 16)


def compile(  # noqa: A001 - what Triton calls it, too
    fn: Any,
    *,
    signature: Mapping[str, str],
    target: str,
    constants: Mapping[str, Any] | None = None,
    num_warps: int = 4,
    num_stages: int = 3,
    multiples_of_16: Iterable[str] = (),
    **options: Any,
) -> TritonKernel:
    """The ``@triton.jit`` function as machine code for one architecture. Runs no CUDA.

    ``signature`` gives each parameter's type, ``*fp32`` or ``i32``; ``constants`` the values of the ``tl.constexpr``
    ones and of any other that is to be compiled in (an ``n`` of 1, a pointer that is None). ``target`` is the
    architecture of the worker's GPU, ``sm_90``. Pointers are compiled as multiples of 16, which kaasq's buffers are;
    ``multiples_of_16`` names whole numbers of which that may be assumed, too. ``options`` are Triton's own (maxnreg,
    enable_fp_fusion and the like).

    Raises BadRequest: Triton is missing or too old, the names or types do not fit the function, it does not compile, or
    the result needs what kaasq does not offer (clusters, cooperative launches, descriptors made on the host).
    """
    triton = _triton()
    function = _function(triton, fn)
    number = architecture(target)
    check_warps(num_warps)
    parameters, fixed = bound(function, signature, constants or {})
    multiples = hinted(parameters, multiples_of_16)
    settings = _options(triton, {"num_warps": num_warps, "num_stages": num_stages, **options})
    compiled = _compiled(triton, function, parameters, fixed, multiples, number, settings)
    metadata = compiled.metadata
    check_launchable(metadata)
    return TritonKernel(
        module=Module(kind="cubin", code=compiled.asm["cubin"]),
        name=metadata.name,
        target=f"sm_{number}",
        num_warps=metadata.num_warps,  # more than asked for where Triton specialises warps
        shared_bytes=metadata.shared,
        parameters=parameters,
        constants=MappingProxyType(fixed),
        multiples_of_16=multiples,
        scratch=scratch(metadata, compiled.asm.get("ptx", ""), parameters, triton.__version__),
    )


def _triton() -> Any:
    try:
        import triton
        import triton.backends.nvidia.compiler
        import triton.compiler
        import triton.errors
        import triton.runtime.jit
    except ImportError as error:
        raise BadRequest(f"compiling Triton kernels needs Triton: {install('triton')} ({error})") from error
    version = tuple(int(each) for each in re.findall(r"\d+", triton.__version__)[:2])
    if version < OLDEST:
        raise BadRequest(
            f"Triton {triton.__version__} is installed, {'.'.join(map(str, OLDEST))} or newer is needed: "
            f"{install('triton')}"
        )
    return triton


def _function(triton: Any, fn: Any) -> Any:
    if isinstance(fn, triton.runtime.jit.JITFunction):
        if getattr(fn, "is_gluon", bool)():
            raise BadRequest("a Gluon kernel; only @triton.jit functions can be imported", at="fn")
        return fn
    kind = type(fn).__name__
    if kind == "InterpretedFunction":
        raise BadRequest(
            "the kernel was decorated with TRITON_INTERPRET set, so it cannot be compiled: unset it", at="fn"
        )
    if hasattr(fn, "fn"):
        raise BadRequest(
            f"a function under another decorator ({kind}): give the @triton.jit function itself, its .fn, and the "
            "values that the decorator would choose as constants and options",
            at="fn",
        )
    raise BadRequest(f"expected a @triton.jit function, given a {kind}", at="fn")


def _options(triton: Any, given: dict[str, Any]) -> dict[str, Any]:
    known = triton.backends.nvidia.compiler.CUDAOptions.__dataclass_fields__
    for name in given:
        if name not in known:  # Triton would ignore it
            raise BadRequest(f"Triton {triton.__version__} has no such option; it has {', '.join(known)}", at=name)
    # Said, because Triton's own default changes with its versions; this one is also that of kaasq's CUDA C++.
    return {"enable_fp_fusion": True, **given}


def _compiled(
    triton: Any,
    function: Any,
    parameters: Collection[Parameter],
    fixed: Mapping[str, Any],
    multiples: Collection[str],
    number: int,
    options: dict[str, Any],
) -> Any:
    types = {each.name: each.type for each in parameters}
    hints = {each.name for each in parameters if each.pointer or each.name in multiples}
    names: list[str] = list(function.arg_names)
    source = triton.compiler.ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs={(names.index(name),): [list(_HINT)] for name in names if name in hints},
    )
    target = triton.backends.compiler.GPUTarget("cuda", number, WARP_THREADS)
    try:
        return triton.compile(source, target=target, options=options)
    except triton.errors.TritonError as error:
        told = "\n".join(str(each) for each in (error, error.__cause__) if each is not None)
    except (AssertionError, AttributeError, NameError, RuntimeError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"  # names, options and targets that it finds wrong early on
    raise BadRequest(f"kernel {function.__name__} does not compile for sm_{number}: {told[:SHOWN_CHARACTERS]}", at="fn")
