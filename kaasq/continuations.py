"""Continuations, which a request says are to be published when it has completed: their numbers and places. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from kaasq.messages import Condition, Continuation
from kaasq.model import GraphSpec, Number

_COMPARE: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Numbered(NamedTuple):
    """A continuation with its number in its request, and where it stands."""

    number: int
    at: str
    continuation: Continuation


def numbered(then: tuple[Continuation, ...], at: str = "then", after: int = 0) -> Iterator[Numbered]:
    """The continuations of one request, without those nested in them.

    They are numbered from 1 in the order in which they stand in the message, nested ones right after what they follow.
    """
    number = after + 1
    for index, each in enumerate(then):
        yield Numbered(number, f"{at}[{index}]", each)
        if index + 1 < len(then):  # a chain of many is gone through once, not once for each
            number += 1 + count(each.then)


def every(then: tuple[Continuation, ...]) -> Iterator[Numbered]:
    """All of them in the order of their numbers, nested ones too."""
    number = 0
    todo = [(f"then[{index}]", each) for index, each in reversed(list(enumerate(then)))]
    while todo:
        at, each = todo.pop()
        number += 1
        yield Numbered(number, at, each)
        todo += [(f"{at}.then[{index}]", inner) for index, inner in reversed(list(enumerate(each.then)))]


def count(then: tuple[Continuation, ...]) -> int:
    """How many there are, nested ones included."""
    found, todo = 0, [then]
    while todo:
        level = todo.pop()
        found += len(level)
        todo += [each.then for each in level if each.then]
    return found


def by_hash(then: tuple[Continuation, ...]) -> tuple[Continuation, ...]:
    """The same with the graphs' hashes in place of the graphs."""
    return tuple(
        msgspec.structs.replace(
            each, graph=each.graph.hash if isinstance(each.graph, GraphSpec) else each.graph, then=by_hash(each.then)
        )
        for each in then
    )


def holds(condition: Condition, number: Number) -> bool:
    """Whether the condition holds for that number of the output."""
    return compare(condition.op, number, condition.value)


def compare(op: str, number: Number, value: Number) -> bool:
    """Whether a number compares so with a value."""
    return _COMPARE[op](number, value)
