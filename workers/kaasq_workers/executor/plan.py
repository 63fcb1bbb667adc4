"""A graph prepared for one device: its modules loaded, its launches checked and their arguments packed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kaasq.builtins import resolve_call
from kaasq.errors import ModuleRejected, OutOfMemory
from kaasq.model import BUILTINS, Buffer, GraphSpec, Module, Scalar
from kaasq_workers.devices.protocol import Device, LoadedModule
from kaasq_workers.executor.arguments import pack
from kaasq_workers.executor.bound import BoundPlan, Place
from kaasq_workers.executor.layout import Layout, lay_out
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.module_policy import ModulePolicy
from kaasq_workers.executor.steps import CallStep, KernelStep, Step, check_launch

PLANS = 256
LAUNCHES = 200_000  # in all plans together, on all slots and recorded ones included: about 1 KiB each
MODULES = 256
LAYOUTS = 16  # of one plan: by which of its inputs are shared


class Plan:
    """A graph on a device, to be bound to slots.

    Raises ModuleRejected, BadArguments, BadRequest, OutOfMemory when built.
    """

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
        self.addresses: dict[str, list[Place]] = {}
        self.scalars: dict[str, list[Place]] = {}
        harmed: set[str] = set()
        touched: set[str] = set()
        overwritten: set[str] = set()
        for index, launch in enumerate(graph.launches):
            at = f"graph.launches[{index}]"
            step: Step
            if launch.module == BUILTINS:
                call = resolve_call(launch, at, declared)
                step = called = CallStep(device.prepare(call), launch)
                harmed |= called.written
                overwritten |= called.overwritten - touched
            else:
                kernel = loaded[launch.module].kernel(launch.kernel)
                check_launch(launch, f"{at} ({launch.kernel})", kernel, device)
                step = KernelStep(kernel, launch, pack(launch, at, kernel, declared))
                harmed |= {each for each in launch.args if isinstance(each, str)}
            for position, arg in enumerate(launch.args):
                if isinstance(arg, str):
                    where = self.addresses if isinstance(declared[arg], Buffer) else self.scalars
                    where.setdefault(arg, []).append(Place(index, position))
                    touched.add(arg)
            self.steps.append(step)
        self.stateful = frozenset(each for each in loaded.values() if each.stateful)
        """Modules whose variables make requests that use them run one after the other."""
        self.returned = tuple(each for each in graph.buffers if each.returned)
        self.smallest_first = tuple(sorted(self.returned, key=lambda each: each.nbytes))
        self.bound: dict[int, BoundPlan] = {}
        self._layouts: dict[frozenset[str], Layout] = {}
        self.unharmed = frozenset(each.name for each in graph.buffers if each.const or each.name not in harmed)
        """Buffers that no launch writes to: they are const, or only built-ins take them, to read."""
        self._overwritten = frozenset(overwritten)

    @property
    def weight(self) -> int:
        """What it costs to keep, in launches."""
        return len(self.steps) + sum(each.weight for each in self.bound.values())

    def layout(self, elsewhere: frozenset[str]) -> Layout:
        """Where its buffers lie, but for those ``elsewhere``. As a rule the same object each time."""
        layout = self._layouts.get(elsewhere)
        if layout is None:
            while len(self._layouts) >= LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            layout = self._layouts[elsewhere] = lay_out(self.graph.buffers, elsewhere, self._overwritten)
        return layout


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

    def __init__(self, device: Device, libraries: Libraries, policy: ModulePolicy | None = None) -> None:
        """``policy`` None: any module may run."""
        self._policy = policy
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
        if self._policy is not None:
            for name, each in code.items():
                self._policy.check(each, graph.modules[name])
        plan = Plan(tenant, graph, self._device, self.modules, code)
        self._plans[key] = plan
        self._added(plan.weight)
        return plan, False

    def bound(self, plan: Plan, slot: int) -> BoundPlan:
        """The plan, the one got last, with arguments and a recording of the slot's own."""
        bound = plan.bound.get(slot)
        if bound is None:
            bound = plan.bound[slot] = BoundPlan(plan.graph, plan.steps, plan.addresses, plan.scalars)
            self._added(bound.weight)
        return bound

    def _added(self, weight: int) -> None:
        """Make room, if need be, for what came in. What still runs is kept by who runs it."""
        self._launches += weight
        while len(self._plans) > 1 and (len(self._plans) > PLANS or self._launches > LAUNCHES):
            _, dropped = self._plans.popitem(last=False)
            self._launches -= dropped.weight
