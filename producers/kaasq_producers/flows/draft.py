"""A workflow under construction, as data by name. Pure."""

from __future__ import annotations

from typing import Self

import msgspec

from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From, MapSpec, Value
from kaasq.model import GraphSpec, Scalar


class Draft:
    """What has been declared so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: dict[str, FlowInput] = {}
        self.scalars: dict[str, Scalar] = {}
        self.graphs: dict[str, GraphSpec] = {}
        self.maps: dict[str, MapSpec] = {}
        self.steps: dict[str, FlowStep] = {}
        self.outputs: dict[str, From] = {}

    @classmethod
    def of(cls, spec: FlowSpec) -> Self:
        """A checked workflow, to be built on."""
        draft = cls(spec.name)
        draft.inputs = {each.name: each for each in spec.inputs}
        draft.scalars = {each.name: each for each in spec.scalars}
        draft.graphs = dict(spec.graphs)
        draft.maps = dict(spec.maps)
        draft.steps = {each.name: each for each in spec.steps}
        draft.outputs = dict(spec.outputs)
        return draft

    def spec(self) -> FlowSpec:
        """The workflow as it is, unchecked."""
        return FlowSpec(
            name=self.name,
            inputs=tuple(self.inputs.values()),
            scalars=tuple(self.scalars.values()),
            graphs=self.graphs.copy(),
            maps=self.maps.copy(),
            steps=tuple(self.steps.values()),
            outputs=self.outputs.copy(),
        )

    def copy(self) -> Draft:
        """Another one with the same in it."""
        draft = Draft(self.name)
        for part in ("inputs", "scalars", "graphs", "maps", "steps", "outputs"):
            setattr(draft, part, getattr(self, part).copy())
        return draft

    def graph_key(self, graph: GraphSpec) -> str:
        """Under which key the workflow has the graph: its name, unless another one is called so."""
        key = graph.name
        if self.graphs.setdefault(key, graph).hash != graph.hash:
            key = f"{graph.name}#{graph.hash[:12]}"
            self.graphs.setdefault(key, graph)
        return key

    def is_list(self, name: str | None) -> bool:
        """Whether an input is a list."""
        return name is not None and name in self.inputs and self.inputs[name].many

    def map_of(self, step: str | None) -> str | None:
        """The map that a step is in."""
        return None if step is None or step not in self.steps else self.steps[step].map

    def over_list(self, name: str, most: int | None = None) -> str:
        """The map over a list input, which is made if there is none."""
        for key, each in self.maps.items():
            if each.input == name:
                return key
        return self.new_map(name, MapSpec(input=name, most=most))

    def new_map(self, name: str, made: MapSpec) -> str:
        """Add a map, under that name or one like it."""
        key, number = name, 2
        while key in self.maps:
            key, number = f"{name}-{number}", number + 1
        self.maps[key] = made
        return key

    def complete(self) -> FlowSpec:
        """The workflow, unchecked. Without any outputs declared, those of its steps that nothing takes."""
        return self.spec() if self.outputs else msgspec.structs.replace(self.spec(), outputs=self._untaken())

    def _untaken(self) -> dict[str, From]:
        # A condition looks at an output, and a step that mends uses one: it is no less a result for that.
        takers = [step for step in self.steps.values() if step.on == "completed"]
        sources = [each for step in takers for each in (*step.bind.values(), *step.scalars.values())]
        taken = {(each.step, each.output) for each in sources if isinstance(each, (From, Value))}
        return {
            f"{step.name}.{buffer.name}": From(step=step.name, output=buffer.name)
            for step in self.steps.values()
            if step.on != "failed"  # who declares no outputs wants what is there when all went well
            for buffer in self.graphs[step.graph].buffers
            if buffer.returned and (step.name, buffer.name) not in taken
        }
