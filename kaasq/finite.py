"""What MessagePack can say of a graph and JSON cannot: numbers that are infinite or none. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kaasq.errors import BadRequest
from kaasq.model import Constant, GraphSpec


def check_finite(spec: GraphSpec) -> None:
    """Raises BadRequest for the first number that JSON would make null, which means something else."""
    for at, number in _numbers(spec):
        check_number(number, at)


def check_number(number: object, at: str) -> None:
    """Raises BadRequest if it is one that JSON does not have."""
    if isinstance(number, float) and not math.isfinite(number):
        raise BadRequest(f"JSON has no {number}; a client in Python sends MessagePack, which has", at=at)


def _numbers(spec: GraphSpec) -> Iterator[tuple[str, object]]:
    for i, scalar in enumerate(spec.scalars):
        yield f"graph.scalars[{i}].default", scalar.default
    for i, launch in enumerate(spec.launches):
        at = f"graph.launches[{i}]"
        for j, arg in enumerate(launch.args):
            if isinstance(arg, Constant):
                yield f"{at}.args[{j}]", arg.value
        for name, value in launch.attrs.items():
            for each in value if isinstance(value, tuple) else (value,):
                yield f"{at}.attrs.{name}", each
