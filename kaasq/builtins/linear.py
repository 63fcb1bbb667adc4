"""Matrix products."""

from __future__ import annotations

from kaasq.builtins.rules import same_dtype
from kaasq.builtins.signature import Builtin, Call, Mistake, Shape, number, reads, updates


def _gemm(call: Call) -> None:
    same_dtype(call, "a", "b", "c")
    *batch, m, k = _matrices(call, "a", transpose=call.attrs["transpose_a"])
    *batch_b, k_b, n = _matrices(call, "b", transpose=call.attrs["transpose_b"])
    *batch_c, m_c, n_c = _matrices(call, "c", transpose=False)
    if k != k_b:
        raise Mistake(f"a has {k} columns, b has {k_b} rows (after transposing)", "b")
    if (m_c, n_c) != (m, n):
        raise Mistake(f"c is to be {m} x {n}, is {m_c} x {n_c}", "c")
    for name, given in (("a", batch), ("b", batch_b)):
        if given and given != batch_c:
            raise Mistake(f"{name} has batches {tuple(given)}, c has {tuple(batch_c)}", name)
    if batch_c and not batch and not batch_b:
        raise Mistake("c has batches, but neither a nor b has", "c")


def _matrices(call: Call, name: str, *, transpose: bool) -> Shape:
    shape = call.shape(name)
    if len(shape) < 2:
        raise Mistake(f"{name} is a matrix, or several, and has shape {shape}", name)
    return (*shape[:-2], shape[-1], shape[-2]) if transpose else shape


LINEAR = (
    Builtin(
        "gemm",
        (reads("a"), reads("b"), updates("c", scaled_by="beta"), number("alpha", 1.0), number("beta", 0.0)),
        _gemm,
        {"transpose_a": False, "transpose_b": False},
        summary=(
            "c = alpha * a b + beta * c, of matrices in the last two axes; what is before them are batches, and a or b "
            "without is used for all of them. float16 accumulates in float32; alpha and beta have the dtype that "
            "accumulates. With beta 0, c is not read; with alpha 0, a NaN or infinity in a or b may show or not"
        ),
    ),
)
