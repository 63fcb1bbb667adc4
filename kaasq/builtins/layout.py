"""Moving elements about: copies, casts, transposes, parts."""

from __future__ import annotations

from kaasq.builtins.rules import axis_of, broadcast, has_shape, per_axis, same_dtype
from kaasq.builtins.signature import ANY, Builtin, Call, Mistake, number, reads, updates, writes


def _copy(call: Call) -> None:
    same_dtype(call, "x", "out")
    _stretch(call)


def _stretch(call: Call) -> None:
    x, out = call.shape("x"), call.shape("out")
    aligned = out[len(out) - len(x) :] if len(x) <= len(out) else ()
    if len(aligned) != len(x) or any(size not in {1, wide} for size, wide in zip(x, aligned, strict=True)):
        raise Mistake(f"x of shape {x} cannot be stretched to {out}", "x")


def _cast(call: Call) -> None:
    has_shape(call, "out", call.shape("x"))


def _transpose(call: Call) -> None:
    same_dtype(call, "x", "out")
    shape = call.shape("x")
    order = call.attrs["axes"] or tuple(reversed(range(len(shape))))
    if sorted(order) != list(range(len(shape))):
        raise Mistake(f"axes is to be an order of the {len(shape)} axes of x, given {order}", "axes")
    has_shape(call, "out", tuple(shape[axis] for axis in order))


def _slice(call: Call) -> None:
    same_dtype(call, "x", "out")
    _inside(call, part="out", whole="x")


def _paste(call: Call) -> None:
    same_dtype(call, "x", "out")
    _inside(call, part="x", whole="out")


def _inside(call: Call, *, part: str, whole: str) -> None:
    shape, sizes = call.shape(whole), call.shape(part)
    if len(sizes) != len(shape):
        raise Mistake(f"{part} has {len(sizes)} axes, {whole} has {len(shape)}", part)
    starts = per_axis(call, "starts", len(shape), 0, 0)
    steps: tuple[int, ...] = call.attrs["steps"] or (1,) * len(shape)
    if len(steps) != len(shape) or 0 in steps:
        raise Mistake(f"steps is to be {len(shape)} numbers other than 0, given {steps}", "steps")
    for axis, (start, step, count, size) in enumerate(zip(starts, steps, sizes, shape, strict=True)):
        last = start + step * (count - 1)
        if not (0 <= start < size and 0 <= last < size):
            raise Mistake(
                f"on axis {axis} {part} would go from {start} to {last}, outside of the {size} of {whole}", "starts"
            )


def _pad(call: Call) -> None:
    same_dtype(call, "x", "out")
    shape = call.shape("x")
    before, after = per_axis(call, "before", len(shape), 0, 0), per_axis(call, "after", len(shape), 0, 0)
    has_shape(call, "out", tuple(b + size + a for b, size, a in zip(before, shape, after, strict=True)))


def _gather(call: Call) -> None:
    same_dtype(call, "x", "out")
    axis = axis_of(call, call.attrs["axis"], "x")
    shape = call.shape("x")
    has_shape(call, "out", (*shape[:axis], *call.shape("indices"), *shape[axis + 1 :]))


def _fill(call: Call) -> None:
    broadcast(call, "out", "out")


_X, _OUT = reads("x", ANY), writes("out", ANY)

LAYOUT = (
    Builtin("copy", (_X, _OUT), _copy, summary="out = x, stretched by NumPy's broadcasting rules"),
    Builtin(
        "cast",
        (_X, _OUT),
        _cast,
        summary=(
            "out = x in out's dtype: to integers towards zero, saturating, NaN as 0; to bool whether it is not 0; "
            "to a narrower float to the nearest, infinite if too large"
        ),
    ),
    Builtin("fill", (_OUT, number("value")), _fill, summary="out = value everywhere, in out's dtype as cast does"),
    Builtin("transpose", (_X, _OUT), _transpose, {"axes": ()}, summary="out's axis i is x's axes[i]; () reverses them"),
    Builtin(
        "slice", (_X, _OUT), _slice, {"starts": (), "steps": ()}, summary="out[i] = x[starts + steps * i] on each axis"
    ),
    Builtin(
        "paste",
        (_X, updates("out", ANY)),
        _paste,
        {"starts": (), "steps": ()},
        summary="out[starts + steps * i] = x[i] on each axis; the rest of out stays. Concatenation is several of these",
    ),
    Builtin(
        "pad",
        (_X, _OUT, number("value", 0.0)),
        _pad,
        {"before": (), "after": ()},
        summary="x with before and after elements of value (in x's dtype as cast does) on each axis",
    ),
    Builtin(
        "gather",
        (_X, reads("indices", ("int32", "int64")), _OUT),
        _gather,
        {"axis": 0},
        summary="x's entries at indices along axis; negative ones count from the end, what is outside gives 0",
    ),
)
