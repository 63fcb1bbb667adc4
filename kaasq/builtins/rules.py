"""Rules about shapes and dtypes that several built-ins share. Each raises Mistake. Pure."""

from __future__ import annotations

from kaasq.builtins.signature import Call, Mistake, Shape


def same_dtype(call: Call, *names: str) -> str:
    """Those operands (as far as given) have one dtype, which is returned."""
    first, *rest = [each for each in names if call.has(each)]
    for each in rest:
        if call.dtype(each) != call.dtype(first):
            raise Mistake(f"{first} is {call.dtype(first)}, {each} is {call.dtype(each)}; they must be the same", each)
    return call.dtype(first)


def has_shape(call: Call, name: str, shape: Shape) -> None:
    """That operand has that shape."""
    if call.shape(name) != shape:
        raise Mistake(f"{name} is to have shape {shape}, has {call.shape(name)}", name)


def broadcast(call: Call, out: str, *names: str) -> None:
    """Those operands, by NumPy's rules, stretch to the shape of ``out``."""
    wide: list[int] = []
    for name in names:
        shape = call.shape(name)
        wide[:0] = [1] * (len(shape) - len(wide))
        for back, size in enumerate(reversed(shape), 1):
            if wide[-back] == 1:
                wide[-back] = size
            elif size not in {1, wide[-back]}:
                shown = ", ".join(str(call.shape(each)) for each in names)
                raise Mistake(f"the shapes {shown} cannot be stretched to one shape", name)
    has_shape(call, out, tuple(wide))


def axis_of(call: Call, axis: int, name: str, about: str = "axis") -> int:
    """The axis of that operand, counted from the front."""
    rank = len(call.shape(name))
    if not -rank <= axis < rank:
        raise Mistake(f"{about} is {axis}; {name} has {rank} axes", about)
    return axis % rank


def axes_of(call: Call, axes: tuple[int, ...], name: str, about: str = "axes") -> tuple[int, ...]:
    """Distinct axes of that operand, counted from the front, in order; all of them for ()."""
    found = [axis_of(call, each, name, about) for each in axes]
    if len(set(found)) < len(found):
        raise Mistake(f"{about} names an axis twice: {axes}", about)
    return tuple(sorted(found)) if axes else tuple(range(len(call.shape(name))))


def per_axis(call: Call, about: str, count: int, least: int, default: int) -> tuple[int, ...]:
    """An attribute with a number per axis; () stands for the default everywhere."""
    given: tuple[int, ...] = call.attrs[about] or (default,) * count
    if len(given) != count or min(given, default=least) < least:
        raise Mistake(f"{about} is to be {count} numbers, each at least {least}; given {call.attrs[about]}", about)
    return given


def windows(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """How many windows of a convolution or pooling fit along one axis; 0 or less if none does."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
