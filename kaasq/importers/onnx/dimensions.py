"""The shapes of a model's inputs: what the model says, completed by what the caller says."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ValueInfoProto

from kaasq.errors import BadRequest

Shape = tuple[int, ...]
Dimension = int | str | None
"""A size, the name of a size, or nothing known."""


def input_shapes(graph: GraphProto, shapes: Mapping[str, Shape], batch: int | None) -> dict[str, Shape]:
    """A shape for every input. Those with a default (an initialiser of the same name) are constants and not among them.

    Raises BadRequest listing every dimension left open, or naming what does not fit.
    """
    constants = {each.name for each in graph.initializer}
    declared = {each.name: _declared(each) for each in graph.input if each.name not in constants}
    for name in shapes:
        if name not in declared:
            raise BadRequest(f"the model has no input {name!r}; it has {', '.join(declared)}", at="shapes")
    if batch is not None and batch < 1:
        raise BadRequest(f"is {batch}; expected 1 or more", at="batch")
    sizes: dict[str, int] = {}
    found = {name: _given(name, dims, shapes.get(name), sizes) for name, dims in declared.items()}
    if batch is not None:
        for dims in found.values():
            if dims and isinstance(dims[0], str):
                sizes.setdefault(dims[0], batch)
            elif dims and dims[0] is None:
                dims[0] = batch
    return _settled(found, sizes)


def _declared(value: ValueInfoProto) -> list[Dimension] | None:
    """None where the model does not even say how many dimensions there are."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise BadRequest(
            f"is a {str(kind).removesuffix('_type')}; only tensors can be inputs", at=f"input {value.name!r}"
        )
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [
        each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else each.dim_param or None
        for each in value.type.tensor_type.shape.dim
    ]


def _given(name: str, dims: list[Dimension] | None, shape: Shape | None, sizes: dict[str, int]) -> list[Dimension]:
    at = f"shapes[{name!r}]"
    if shape is None:
        if dims is None:
            raise BadRequest(f"the model does not say the shape of input {name!r}; give it", at=at)
        return dims
    if min(shape, default=1) < 1:
        raise BadRequest(f"{shape} is no shape: expected sizes of 1 or more", at=at)
    if dims is not None and len(dims) != len(shape):
        raise BadRequest(f"{shape} has {len(shape)} dimensions; the model says {_shown(dims)}", at=at)
    for size, dim in zip(shape, dims or (), strict=False):
        known = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        if known not in {None, size}:
            raise BadRequest(f"{shape} does not fit: {dim!r} is {known} in the model or for another input", at=at)
    return list(shape)


def _settled(found: Mapping[str, list[Dimension]], sizes: Mapping[str, int]) -> dict[str, Shape]:
    settled: dict[str, Shape] = {}
    open_ones: list[str] = []
    for name, dims in found.items():
        shape = tuple([sizes.get(each) if isinstance(each, str) else each for each in dims])
        if None in shape:
            open_ones.append(f"{name!r} {_shown(dims)}")
        else:
            settled[name] = tuple([each for each in shape if each is not None])
    if open_ones:
        raise BadRequest(
            f"these inputs have open dimensions: {'; '.join(open_ones)}. Give shapes={{name: (...)}}, or batch= where "
            "only the first one is open",
            at="shapes",
        )
    return settled


def _shown(dims: list[Dimension]) -> str:
    return f"({', '.join('?' if each is None else str(each) for each in dims)})"
