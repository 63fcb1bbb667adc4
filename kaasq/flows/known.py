"""Names in a workflow that have to be those of something it has: what there is, for who mistook one. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from itertools import islice

from kaasq.errors import BadRequest
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, MapSpec
from kaasq.model import GraphSpec, Scalar

SHOWN = 12  # names in a message
COMPARED = 1000  # names at most, to find those nearest
LENGTH = 64  # characters of a name in a message


def the_input(spec: FlowSpec, name: str, at: str) -> FlowInput:
    """That input. Raises BadRequest."""
    found = spec.input(name)
    if found is None:
        raise unknown("input", name, [each.name for each in spec.inputs], at)
    return found


def the_scalar(spec: FlowSpec, name: str, at: str) -> Scalar:
    """That scalar. Raises BadRequest."""
    found = spec.scalar(name)
    if found is None:
        raise unknown("scalar", name, [each.name for each in spec.scalars], at)
    return found


def the_step(spec: FlowSpec, name: str, at: str) -> FlowStep:
    """That step. Raises BadRequest."""
    found = spec.step(name)
    if found is None:
        raise unknown("step", name, [each.name for each in spec.steps], at)
    return found


def the_map(spec: FlowSpec, name: str, at: str) -> MapSpec:
    """That map. Raises BadRequest."""
    if name not in spec.maps:
        raise unknown("map", name, spec.maps, at)
    return spec.maps[name]


def the_graph(spec: FlowSpec, name: str, at: str) -> GraphSpec:
    """That graph. Raises BadRequest."""
    if name not in spec.graphs:
        raise unknown("graph", name, spec.graphs, at)
    return spec.graphs[name]


def unknown(what: str, name: str, there: Collection[str], at: str) -> BadRequest:
    """The error for a name that nothing has, with those that there are, the nearest first."""
    some = list(islice(there, COMPARED))
    near = difflib.get_close_matches(name[:LENGTH], some, n=3)
    names = [*near, *(each for each in some if each not in near)]
    listed = ", ".join(repr(each[:LENGTH]) for each in names[:SHOWN]) + ", ..." * (len(there) > SHOWN)
    return BadRequest(f"the workflow has no {what} {name[:LENGTH]!r}; it has {listed or 'none'}", at=at)
