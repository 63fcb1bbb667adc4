"""What a user binds to a graph: which values go where, in the message or in the store. Pure: touches neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kaasq.errors import BadRequest, BufferMissing
from kaasq.flows.model import Value
from kaasq.messages import Element, Stored
from kaasq.model import Buffer, GraphSpec, Number, Scalar
from kaasq_producers.later import Later
from kaasq_producers.references import BufferRef, Keep
from kaasq_producers.values import Data, InputField, check_given, kept, number, reference

K = TypeVar("K")


class Bound(NamedTuple):
    """A request's bindings: what travels in the message, what lies in the store, scalars, names of kept outputs.

    Of what runs later, ``stored`` and ``scalars`` have outputs of what runs before it, too.
    """

    inline: dict[str, Data]
    stored: dict[str, Stored]
    scalars: dict[str, Number | Element | Value]
    keep: dict[str, str]


LIST_EFFORT = 64
"""To make an array of a list of numbers takes so many times as long as to copy an array of as many bytes; at least."""


class Binder:
    """Binds values to a graph's inputs: made once per graph, used for every request."""

    def __init__(self, graph: GraphSpec, what: str = "graph") -> None:
        """``what`` it is called in errors."""
        self._what = what
        self._fields: dict[str, InputField | Scalar] = {each.name: InputField(each) for each in graph.buffers}
        self._fields.update({each.name: each for each in graph.scalars})
        self.given_bytes = sum(each.nbytes for each in graph.buffers if each.given)
        self._needed = [each.name for each in graph.buffers if each.given]
        self._needed_scalars = [each.name for each in graph.scalars if each.default is None]

    def bind(self, *groups: Mapping[str, Any], takes: type[Later[Any]] | None = None) -> Bound:
        """Check and convert the values of several mappings from buffer or scalar names.

        ``takes``: what can be bound in place of data, because it is there when its turn comes.

        Raises BadRequest, BufferSize, BufferMissing, each naming buffer or scalar, what was expected and given.
        """
        bound = Bound({}, {}, {}, {})
        for group in groups:
            for name, value in group.items():
                field = self._fields.get(name)
                if field is None:
                    raise BadRequest(
                        f"the {self._what} has no buffer or scalar {name!r}; it has {_listed(self._fields)}",
                        at=f"bind.{name}",
                    )
                if name in bound.inline or name in bound.stored or name in bound.scalars or name in bound.keep:
                    raise BadRequest(f"{name!r} is given twice", at=f"bind.{name}")
                if isinstance(value, Later):
                    _take(bound, field, value, takes)
                elif isinstance(field, Scalar):
                    bound.scalars[name] = number(field, value)
                elif isinstance(value, np.ndarray):  # first: by far the most frequent
                    bound.inline[name] = field.data(value)
                elif isinstance(value, Keep):
                    _keep(bound, field.buffer, value.name)
                elif isinstance(value, (BufferRef, Stored)):
                    bound.stored[name] = reference(field.buffer, value)
                else:
                    bound.inline[name] = field.data(value)
        for name in self._needed:
            if name not in bound.inline and name not in bound.stored:
                field = self._fields[name]
                assert isinstance(field, InputField)
                raise BufferMissing(f"nothing is bound to {field.buffer.role} {name!r}", buffer=name)
        for name in self._needed_scalars:
            if name not in bound.scalars:
                raise BadRequest(f"scalar {name!r} has no default and was not given", at=f"scalars.{name}")
        return bound

    def buffer(self, name: str) -> Buffer:
        """What is bound under that name, which is a buffer's."""
        field = self._fields[name]
        assert isinstance(field, InputField)
        return field.buffer

    def effort(self, *groups: Mapping[str, Any]) -> int:
        """How many bytes of arrays take as long to copy as binding these values takes, roughly."""
        total = 0
        for group in groups:
            for name, value in group.items():
                field = self._fields.get(name)
                if isinstance(field, InputField) and not isinstance(value, (BufferRef, Stored, Keep)):
                    total += field.buffer.nbytes * (LIST_EFFORT if isinstance(value, (list, tuple)) else 1)
        return total

    def keep(self, bound: Bound, names: Mapping[str, str]) -> None:
        """Add outputs to keep, by buffer name. An inout is both bound and kept, so it needs this second way."""
        check_mapping(names, "keep")
        for name, target in names.items():
            field = self._fields.get(name)
            if not isinstance(field, InputField):
                raise BadRequest(
                    f"the {self._what} has no buffer {name!r}; it has {_listed(self._fields)}", at=f"keep.{name}"
                )
            _keep(bound, field.buffer, target)


def _take(bound: Bound, field: InputField | Scalar, value: Later[Any], takes: type[Later[Any]] | None) -> None:
    name = field.name if isinstance(field, Scalar) else field.buffer.name
    at = f"{'scalars' if isinstance(field, Scalar) else 'bind'}.{name}"
    if takes is None or not isinstance(value, takes):
        raise BadRequest(f"{value!r}: {value.misplaced}", at=at)
    if isinstance(field, Scalar):
        bound.scalars[name] = value.element(at)
    else:
        check_given(field.buffer)
        bound.stored[name] = value.source(at)


def given_groups(
    bindings: Mapping[str, Any], bind: Mapping[str, Any] | None, scalars: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    """What a call gives by name, in ``bind`` and in ``scalars``. Raises BadRequest for what gives nothing by name."""
    groups = [bindings]
    for at, group in (("bind", bind), ("scalars", scalars)):
        if group is not None:
            check_mapping(group, at)
            groups.append(group)
    return groups


def check_mapping(given: object, at: str) -> None:
    """Raises BadRequest for what gives nothing by name."""
    if not isinstance(given, Mapping):
        example = '{"out": "model/scores"}' if at == "keep" else '{"x": xs}'
        raise BadRequest(f"expected a mapping by name, as {example}, given a {type(given).__name__}", at=at)


def too_large(inline: Mapping[K, Data], limit: int) -> list[K]:
    """Which inputs to move to the store so that the rest fits the message: the largest first, as few as possible."""
    total = sum(map(_nbytes, inline.values()))
    moved: list[K] = []
    if total <= limit:
        return moved
    for name in sorted(inline, key=lambda name: _nbytes(inline[name]), reverse=True):
        if total <= limit:
            break
        moved.append(name)
        total -= _nbytes(inline[name])
    return moved


def _keep(bound: Bound, buffer: Buffer, target: object) -> None:
    name = kept(buffer, target)
    if buffer.name in bound.keep:
        raise BadRequest(
            f"{buffer.name!r} is to be kept under two names, {bound.keep[buffer.name]!r} and {name!r}",
            at=f"keep.{buffer.name}",
        )
    if name in bound.keep.values():
        raise BadRequest(f"two outputs cannot be kept under one name, {name!r}", at=f"keep.{buffer.name}")
    bound.keep[buffer.name] = name


def _nbytes(data: Data) -> int:
    return len(data) if isinstance(data, bytes) else data.nbytes


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:20] + ["..."] * (len(shown) > 20)) or "none"
