"""A graph prepared for one device: its modules loaded, its launches checked and their arguments packed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from kaasq.builtins import resolve_call
from kaasq.dtypes import pack_number
from kaasq.errors import ModuleRejected, OutOfMemory
from kaasq.model import BUILTINS, Buffer, GraphSpec, Module, Number, Scalar
from kaasq_workers.devices.protocol import Device, LoadedModule, Memory, Stream
from kaasq_workers.executor.arguments import pack
from kaasq_workers.executor.launching import Check, Launches
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.steps import CallStep, KernelStep, Step, check_launch

PLANS = 256
LAUNCHES = 200_000  # in all plans together, recorded ones included: about 1 KiB each
MODULES = 256


class Place(NamedTuple):
    """Where a buffer or scalar goes: an argument of a step."""

    step: int
    position: int


class Plan:
    """A graph on a device. Raises ModuleRejected, BadArguments, BadRequest, OutOfMemory when built."""

    def __init__(
        self, tenant: str, graph: GraphSpec, device: Device, modules: ModuleCache, code: Mapping[str, Module]
    ) -> None:
        """``code``: the graph's modules, with what its libraries are now."""
        self.graph = graph
        self.needed = sum(each.nbytes for each in graph.buffers)
        if self.needed > device.limits.memory:
            raise OutOfMemory(
                f"the graph's buffers need {self.needed} bytes together, {device.name} has {device.limits.memory} "
                "to give; split the work or use a worker with more memory",
                needed=self.needed,
                capacity=device.limits.memory,
            )
        wanted: dict[str, list[str]] = {}
        for launch in graph.launches:
            if launch.module != BUILTINS:
                names = wanted.setdefault(launch.module, [])
                if launch.kernel not in names:
                    names.append(launch.kernel)
        loaded: dict[str, LoadedModule] = {}
        for key, names in sorted(wanted.items()):
            with _named(graph.modules[key]):
                loaded[key] = modules.load(tenant, code[key], tuple(sorted(names)))
        declared: dict[str, Buffer | Scalar] = {each.name: each for each in graph.buffers}
        declared.update((each.name, each) for each in graph.scalars)
        self.steps: list[Step] = []
        self._addresses: dict[str, list[Place]] = {}
        self._scalars: dict[str, list[Place]] = {}
        harmed: set[str] = set()
        for index, launch in enumerate(graph.launches):
            at = f"graph.launches[{index}]"
            step: Step
            if launch.module == BUILTINS:
                call = resolve_call(launch, at, declared)
                step = called = CallStep(device.prepare(call), launch)
                harmed |= called.written
            else:
                kernel = loaded[launch.module].kernel(launch.kernel)
                check_launch(launch, f"{at} ({launch.kernel})", kernel, device)
                step = KernelStep(kernel, launch, pack(launch, at, kernel, declared))
                harmed |= {each for each in launch.args if isinstance(each, str)}
            for position, arg in enumerate(launch.args):
                if isinstance(arg, str):
                    where = self._addresses if isinstance(declared[arg], Buffer) else self._scalars
                    where.setdefault(arg, []).append(Place(index, position))
            self.steps.append(step)
        self._launches = Launches(self.steps, graph.iterations)
        self._bound: dict[str, int] = {}  # addresses, as the steps have them
        self._numbers: dict[str, bytes] = {}
        self._changed: set[int] = set()  # steps whose arguments changed since they were queued last
        self.unharmed = frozenset(each.name for each in graph.buffers if each.const or each.name not in harmed)
        """Buffers that no launch writes to: they are const, or only built-ins take them, to read."""

    @property
    def weight(self) -> int:
        """What it costs to keep, in launches."""
        return self._launches.weight

    def bind(self, memory: Mapping[str, Memory], scalars: Mapping[str, Number]) -> None:
        """Write this request's addresses and scalars into the arguments."""
        for name, places in self._addresses.items():
            given = memory[name]
            moved = self._bound.get(name) != given.address
            self._bound[name] = given.address
            for index, position in places:
                self.steps[index].set_memory(position, given)
                if moved:
                    self._changed.add(index)
        for scalar in self.graph.scalars:
            number = scalars.get(scalar.name, scalar.default)
            if number is None or scalar.name not in self._scalars:
                continue
            value = pack_number(scalar.dtype, number, f"scalars.{scalar.name}")
            if self._numbers.get(scalar.name) == value:
                continue
            self._numbers[scalar.name] = value
            for index, position in self._scalars[scalar.name]:
                self.steps[index].set_number(position, value)
                self._changed.add(index)

    def launch(self, stream: Stream, after: Check | None = None, proceed: Check | None = None) -> None:
        """Queue every launch, as often as the graph says.

        ``after`` is called behind each; ``proceed`` now and then, and ends it by raising.
        """
        if after is not None:
            self._launches.queue_watched(stream, after, proceed)
            return
        self._launches.queue(stream, self._changed, proceed)
        self._changed.clear()


@contextmanager
def _named(module: Module) -> Iterator[None]:
    """Have an error say which library it is about: the request does not show what is in it."""
    try:
        yield
    except ModuleRejected as error:
        if module.kind != "library":
            raise
        detail = {**error.detail, "library": module.path}
        raise ModuleRejected(f"library {module.path!r}: {error.message}", **detail) from None


class ModuleCache:
    """Loaded modules, least recently used dropped first.

    Kept apart by tenant, since a module's ``__device__`` variables are memory too. What costs time, the compiled
    code, is shared: the device caches it on disk by hash.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._loaded: OrderedDict[tuple[str, str, tuple[str, ...]], LoadedModule] = OrderedDict()

    def load(self, tenant: str, module: Module, kernels: tuple[str, ...]) -> LoadedModule:
        """The module on the device. Raises ModuleRejected."""
        key = (tenant, module.hash, kernels)
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        loaded = self._device.load(module, kernels)
        self._loaded[key] = loaded
        if len(self._loaded) > MODULES:
            self._loaded.popitem(last=False)  # a plan that still uses it keeps it alive
        return loaded


class PlanCache:
    """Plans by tenant, graph and what its libraries hold, least recently used dropped first."""

    def __init__(self, device: Device, libraries: Libraries) -> None:
        self._device = device
        self._libraries = libraries
        self.modules = ModuleCache(device)
        self._launches = 0
        self._plans: OrderedDict[tuple[str, ...], Plan] = OrderedDict()

    def get(self, tenant: str, graph: GraphSpec) -> tuple[Plan, bool]:
        """The plan, and whether it was there already. Raises what building one does, and Forbidden."""
        code = graph.modules
        found = {name: self._libraries.resolve(tenant, each) for name, each in code.items() if each.kind == "library"}
        if found:
            code = {**code, **found}
        key = (tenant, graph.hash, *(each.hash for each in found.values()))
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan, True
        plan = Plan(tenant, graph, self._device, self.modules, code)
        self._plans[key] = plan
        self._launches += plan.weight
        while len(self._plans) > 1 and (len(self._plans) > PLANS or self._launches > LAUNCHES):
            _, dropped = self._plans.popitem(last=False)
            self._launches -= dropped.weight
        return plan, False
