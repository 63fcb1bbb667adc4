"""Compiles a Triton kernel ahead of time to a cubin. The only module that imports triton; needs no GPU."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kaasq.errors import BadRequest
from kaasq.importers.triton.kernel import WARP_THREADS, TritonKernel
from kaasq.importers.triton.ptx import parameter_sizes
from kaasq.importers.triton.types import POINTER_BYTES, Parameter, parameter
from kaasq.model import Module

OLDEST = (3, 3)  # older ones take signatures and hints in other forms
MOST_WARPS = 32  # 1024 threads, the most that a block has
ALIGNMENT = 256  # what every kaasq buffer starts at a multiple of
SHOWN_CHARACTERS = 2000  # of what the compiler says

_TARGET = re.compile(r"sm_(\d{2,3})a?", re.ASCII)
_HINT = ["tt.divisibility", 16]
# Pointers that Triton appends to the parameters, in this order, as the metadata tells their sizes.
_SCRATCH = ("global_scratch", "profile_scratch")
_REFUSED = {
    "launch_cooperative_grid": "a cooperative launch (launch_cooperative_grid)",
    "launch_pdl": "programmatic dependent launch (launch_pdl)",
}


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
    architecture = _architecture(target)
    _check_warps(num_warps)
    parameters, fixed = _bound(function, signature, constants or {})
    hinted = _hinted(parameters, multiples_of_16)
    settings = _options(triton, {"num_warps": num_warps, "num_stages": num_stages, **options})
    compiled = _compiled(triton, function, parameters, fixed, hinted, architecture, settings)
    metadata = compiled.metadata
    _check_launchable(metadata)
    return TritonKernel(
        module=Module(kind="cubin", code=compiled.asm["cubin"]),
        name=metadata.name,
        target=f"sm_{architecture}",
        num_warps=metadata.num_warps,  # more than asked for where Triton specialises warps
        shared_bytes=metadata.shared,
        parameters=parameters,
        constants=fixed,
        multiples_of_16=hinted,
        scratch=_scratch(compiled, parameters, triton.__version__),
    )


def _triton() -> Any:
    try:
        import triton
        import triton.backends.nvidia.compiler
        import triton.compiler
        import triton.errors
        import triton.runtime.jit
    except ImportError as error:
        raise BadRequest(f"compiling Triton kernels needs Triton: pip install 'kaasq[triton]' ({error})") from error
    version = tuple(int(each) for each in re.findall(r"\d+", triton.__version__)[:2])
    if version < OLDEST:
        raise BadRequest(
            f"Triton {triton.__version__} is installed, {'.'.join(map(str, OLDEST))} or newer is needed: "
            "pip install -U 'kaasq[triton]'"
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
    if isinstance(getattr(fn, "fn", None), triton.runtime.jit.JITFunction) or kind in {"Autotuner", "Heuristics"}:
        raise BadRequest(
            f"a kernel under @triton.{kind.lower()}: give the function itself (its .fn), and the values that "
            "were chosen as constants and options",
            at="fn",
        )
    raise BadRequest(f"expected a @triton.jit function, given a {kind}", at="fn")


def _check_warps(given: object) -> None:
    if not isinstance(given, int) or not 1 <= given <= MOST_WARPS or given & (given - 1):
        raise BadRequest(f"expected a power of 2 from 1 to {MOST_WARPS}, given {given!r:.60}", at="num_warps")


def _architecture(target: object) -> int:
    found = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if found is None:
        raise BadRequest(
            f"expected one NVIDIA architecture such as 'sm_90', given {target!r:.60}: a cubin runs on no other, so "
            "compile once for each and make a graph of each (nvidia-smi --query-gpu=compute_cap --format=csv tells "
            "that of a GPU: 9.0 is sm_90)",
            at="target",
        )
    return int(found.group(1))


def _bound(
    function: Any, signature: Mapping[str, str], constants: Mapping[str, Any]
) -> tuple[tuple[Parameter, ...], dict[str, Any]]:
    """The parameters that a launch gives, and the values of the others."""
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
            if typed not in {None, "constexpr"}:
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


def _hinted(parameters: Collection[Parameter], names: Iterable[str]) -> frozenset[str]:
    whole = {each.name for each in parameters if not each.pointer and "int" in each.dtype}
    chosen = frozenset([names] if isinstance(names, str) else names)
    for name in sorted(chosen - whole):
        raise BadRequest(
            f"{name!r} is no whole number that a launch gives; those are {', '.join(sorted(whole)) or 'none'}",
            at="multiples_of_16",
        )
    return chosen


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
    hinted: Collection[str],
    architecture: int,
    options: dict[str, Any],
) -> Any:
    types = {each.name: each.type for each in parameters}
    hints = {each.name for each in parameters if each.pointer or each.name in hinted}
    names: list[str] = list(function.arg_names)
    source = triton.compiler.ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs={(names.index(name),): [list(_HINT)] for name in names if name in hints},
    )
    target = triton.backends.compiler.GPUTarget("cuda", architecture, WARP_THREADS)
    try:
        return triton.compile(source, target=target, options=options)
    except triton.errors.TritonError as error:
        told = str(error)
    except (AssertionError, AttributeError, NameError, RuntimeError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"  # names, options and targets that it finds wrong early on
    raise BadRequest(
        f"kernel {function.__name__} does not compile for sm_{architecture}: {told[:SHOWN_CHARACTERS]}", at="fn"
    )


def _check_launchable(metadata: Any) -> None:
    """Whether kaasq can launch it. Which fields there are differs between the versions of Triton."""
    if getattr(metadata, "num_ctas", 1) != 1 or tuple(getattr(metadata, "cluster_dims", ()) or ()) not in {
        (),
        (1, 1, 1),
    }:
        raise BadRequest("needs clusters of blocks (num_ctas above 1), which kaasq does not launch", at="num_ctas")
    for name, what in _REFUSED.items():
        if getattr(metadata, name, False):
            raise BadRequest(f"needs {what}, which kaasq does not offer", at=name)
    if getattr(metadata, "tensordesc_meta", None):
        raise BadRequest("takes TMA descriptors made on the host, which kaasq cannot pass", at="signature")
    warp = getattr(metadata, "warp_size", WARP_THREADS)
    if warp != WARP_THREADS:
        raise BadRequest(f"has warps of {warp} threads, kaasq launches warps of {WARP_THREADS}", at="target")
    if not 1 <= metadata.num_warps <= MOST_WARPS:
        raise BadRequest(f"needs {metadata.num_warps} warps a block; at most {MOST_WARPS} are possible", at="num_warps")


def _scratch(compiled: Any, parameters: Collection[Parameter], version: str) -> tuple[int, ...]:
    """Bytes per program of the pointers that Triton appended, which the parameters of the code itself must confirm."""
    metadata = compiled.metadata
    present = [each for each in _SCRATCH if hasattr(metadata, f"{each}_size")]
    for each in present:
        alignment = getattr(metadata, f"{each}_align", 1)
        if ALIGNMENT % alignment:
            raise BadRequest(
                f"{each} must start at a multiple of {alignment} bytes, kaasq's are of {ALIGNMENT}", at="fn"
            )
    expected = (*(each.nbytes for each in parameters), *(POINTER_BYTES for _ in present))
    found = parameter_sizes(compiled.asm.get("ptx", ""), metadata.name)
    if found != expected:
        raise BadRequest(
            f"Triton {version} gave the kernel parameters of {found} bytes where {expected} were expected (those of "
            f"the signature and {len(present)} pointers of its own): this version or an option is not supported",
            at="fn",
        )
    return tuple(getattr(metadata, f"{each}_size") or 0 for each in present)
