"""What holds of every graph that the checks accept: one normal form, one hash, whatever way it was written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.checks import GraphLimits, check_graph
from kaasq.errors import BadRequest
from kaasq.model import GraphSpec
from tests.support import strategies

LIMITS = GraphLimits()


@given(strategies.graphs())
def test_the_normal_form_is_its_own_normal_form(graph):
    normal = check_graph(graph, LIMITS)
    assert check_graph(normal, LIMITS) == normal
    assert check_graph(normal, LIMITS).hash == normal.hash


@given(st.data())
def test_spellings_of_one_graph_have_one_normal_form_and_one_hash(data):
    graph = data.draw(strategies.graphs())
    other = data.draw(strategies.respelled(graph))
    assert check_graph(other, LIMITS) == check_graph(graph, LIMITS)
    assert check_graph(other, LIMITS).hash == check_graph(graph, LIMITS).hash


CHANGES: dict[str, Any] = {
    "name": lambda graph: {"name": graph.name + "x"},
    "iterations": lambda graph: {"iterations": graph.iterations % LIMITS.iterations + 1},
    "launches": lambda graph: {"launches": (*graph.launches, graph.launches[0])},
    "module": lambda graph: {"modules": {label: _other(module) for label, module in graph.modules.items()}},
    "buffer": lambda graph: {"buffers": (*map(_renamed_role, graph.buffers[:1]), *graph.buffers[1:])},
}


def _other(module: Any) -> Any:
    field = {"source": "source", "library": "path"}.get(module.kind, "code")
    value = getattr(module, field)
    return msgspec.structs.replace(module, **{field: value + value[:1] * 2})


def _renamed_role(buffer: Any) -> Any:
    return msgspec.structs.replace(buffer, role="inout" if buffer.role == "temp" else "temp", const=False)


@given(strategies.graphs(), st.sampled_from(sorted(CHANGES)))
def test_another_meaning_has_another_hash(graph, change):
    normal = check_graph(graph, LIMITS)
    changed = check_graph(msgspec.structs.replace(graph, **CHANGES[change](graph)), LIMITS)
    untouched = (change == "module" and not normal.modules) or (change == "buffer" and not graph.buffers)
    assert (changed.hash == normal.hash) is untouched


@given(strategies.graphs(), st.data())
def test_names_that_clash_are_refused_at_the_second(graph, data):
    called = [each.name for each in (*graph.buffers, *graph.scalars)]
    twice = data.draw(st.sampled_from(called))
    clashing = data.draw(strategies.scalars(twice))
    with pytest.raises(BadRequest) as caught:
        check_graph(msgspec.structs.replace(graph, scalars=(*graph.scalars, clashing)), LIMITS)
    assert caught.value.at == f"graph.scalars[{len(graph.scalars)}].name"


huge = st.sampled_from([1, -1]).flatmap(
    lambda sign: st.sampled_from([63, 64, 80, 20_000]).map(lambda bits: sign << bits)
)


@given(strategies.graphs(), st.data())
def test_numbers_of_any_size_are_refused_or_have_a_hash(graph, data):
    """Python's integers have no bound; what is hashed and sent has."""

    def grown(part: Any, field: str) -> Any:
        return msgspec.structs.replace(part, **{field: data.draw(huge)})

    changes: dict[str, Any] = {"iterations": data.draw(huge)}
    match data.draw(st.sampled_from(["graph", "buffer", "shape", "scalar", "launch", "grid"])):
        case "buffer":
            changes = {"buffers": tuple(grown(each, "nbytes") for each in graph.buffers)}
        case "shape":
            shape = (data.draw(huge), 1)
            changes = {"buffers": tuple(msgspec.structs.replace(each, shape=shape) for each in graph.buffers)}
        case "scalar":
            changes = {"scalars": tuple(grown(each, "default") for each in graph.scalars)}
        case "launch":
            changes = {"launches": tuple(grown(each, "shared_bytes") for each in graph.launches)}
        case "grid":
            changes = {"launches": tuple(grown(each, "block") for each in graph.launches)}
    try:
        normal = check_graph(msgspec.structs.replace(graph, **changes), LIMITS)
    except BadRequest:
        return
    assert len(normal.hash) == 64


@given(strategies.graphs())
def test_a_checked_graph_survives_both_encodings(graph):
    normal = check_graph(graph, LIMITS)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(normal), type=GraphSpec) == normal
