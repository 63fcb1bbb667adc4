"""What MessagePack can say of a workflow and JSON cannot: numbers that are infinite or none. Pure."""

from __future__ import annotations

from kaasq.finite import check_finite, check_number
from kaasq.flows.edges import place
from kaasq.flows.model import FlowSpec
from kaasq.then_checks import within


def check_finite_flow(spec: FlowSpec) -> None:
    """Raises BadRequest for the first number that JSON would make null, which means something else."""
    for key, graph in spec.graphs.items():
        with within(f"workflow.graphs.{key}"):
            check_finite(graph)
    for i, scalar in enumerate(spec.scalars):
        check_number(scalar.default, f"workflow.scalars[{i}].default")
    for number, step in enumerate(spec.steps):
        at = place(spec, number)
        for name, given in step.scalars.items():
            check_number(given, f"{at}.scalars.{name}")
        if step.condition is not None:
            check_number(step.condition.value, f"{at}.if.value")
        if step.repeat is not None:
            check_number(step.repeat.until.value, f"{at}.repeat.until.value")
