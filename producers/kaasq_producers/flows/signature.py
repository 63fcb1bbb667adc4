"""What a workflow takes, in the form of a graph: so that binding to either is the same. Pure."""

from __future__ import annotations

from kaasq.flows.model import FlowInput, FlowSpec
from kaasq.model import Buffer, GraphSpec


def signature(spec: FlowSpec) -> GraphSpec:
    """A graph with the workflow's inputs, but for lists, its outputs (whatever their sizes), and its scalars."""
    single = [buffer_of(each) for each in spec.inputs if not each.many]
    outputs = [Buffer(name=name, role="output") for name in spec.outputs]
    return GraphSpec(name=spec.name, buffers=(*single, *outputs), scalars=spec.scalars)


def buffer_of(given: FlowInput, name: str | None = None) -> Buffer:
    """An input as a buffer, with its size filled in; of a list, one item, under that name."""
    declared = Buffer(name=name or given.name, role="input", nbytes=given.nbytes, dtype=given.dtype, shape=given.shape)
    return Buffer(name=declared.name, role="input", nbytes=declared.size, dtype=given.dtype, shape=given.shape)
