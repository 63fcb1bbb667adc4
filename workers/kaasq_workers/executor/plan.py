"""A graph prepared for one device: its modules loaded, its launches checked and their arguments packed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from kaasq.dtypes import pack_number
from kaasq.errors import BadRequest, OutOfMemory
from kaasq.model import Buffer, Dim3, GraphSpec, Launch, Module, Number, Scalar, dim3
from kaasq_workers.devices.protocol import Device, LoadedKernel, LoadedModule, Memory, Stream
from kaasq_workers.executor.arguments import PackedArguments, pack, pointer

PLANS = 256
LAUNCHES = 200_000  # in all plans together: about 1 KiB each
MODULES = 256


class Step:
    """One launch, ready but for this request's addresses and scalars."""

    def __init__(self, kernel: LoadedKernel, launch: Launch, arguments: PackedArguments) -> None:
        self.kernel = kernel
        self.grid: Dim3 = dim3(launch.grid)
        self.block: Dim3 = dim3(launch.block)
        self.shared_bytes = launch.shared_bytes
        self.arguments = arguments


class Plan:
    """A graph on a device. Raises ModuleRejected, BadArguments, BadRequest, OutOfMemory when built."""

    def __init__(self, tenant: str, graph: GraphSpec, device: Device, modules: ModuleCache) -> None:
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
            names = wanted.setdefault(launch.module, [])
            if launch.kernel not in names:
                names.append(launch.kernel)
        loaded = {
            key: modules.load(tenant, graph.modules[key], tuple(sorted(names))) for key, names in sorted(wanted.items())
        }
        self.steps: list[Step] = []
        self._addresses: dict[str, list[tuple[PackedArguments, int]]] = {}
        self._scalars: dict[str, list[tuple[PackedArguments, int]]] = {}
        buffers = {each.name for each in graph.buffers}
        declared: dict[str, Buffer | Scalar] = {each.name: each for each in graph.buffers}
        declared.update((each.name, each) for each in graph.scalars)
        for index, launch in enumerate(graph.launches):
            at = f"graph.launches[{index}]"
            kernel = loaded[launch.module].kernel(launch.kernel)
            _check_limits(launch, f"{at} ({launch.kernel})", kernel, device)
            arguments = pack(launch, at, kernel, declared)
            for position, arg in enumerate(launch.args):
                if isinstance(arg, str):
                    where = self._addresses if arg in buffers else self._scalars
                    where.setdefault(arg, []).append((arguments, position))
            self.steps.append(Step(kernel, launch, arguments))

    def bind(self, memory: Mapping[str, Memory], scalars: Mapping[str, Number]) -> None:
        """Write this request's addresses and scalars into the arguments."""
        for name, places in self._addresses.items():
            value = pointer(memory[name].address)
            for arguments, position in places:
                arguments.set(position, value)
        for scalar in self.graph.scalars:
            number = scalars.get(scalar.name, scalar.default)
            if number is None or scalar.name not in self._scalars:
                continue
            value = pack_number(scalar.dtype, number, f"scalars.{scalar.name}")
            for arguments, position in self._scalars[scalar.name]:
                arguments.set(position, value)

    def launch(self, stream: Stream) -> None:
        """Queue every launch, as often as the graph says."""
        for _ in range(self.graph.iterations):
            for step in self.steps:
                stream.launch(step.kernel, step.grid, step.block, step.arguments, step.shared_bytes)


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
    """Plans by tenant and graph hash, least recently used dropped first."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.modules = ModuleCache(device)
        self._launches = 0
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()

    def get(self, tenant: str, graph: GraphSpec) -> tuple[Plan, bool]:
        """The plan, and whether it was there already."""
        key = (tenant, graph.hash)
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan, True
        plan = Plan(tenant, graph, self._device, self.modules)
        self._plans[key] = plan
        self._launches += len(plan.steps)
        while len(self._plans) > 1 and (len(self._plans) > PLANS or self._launches > LAUNCHES):
            _, dropped = self._plans.popitem(last=False)
            self._launches -= len(dropped.steps)
        return plan, False


def _check_limits(launch: Launch, place: str, kernel: LoadedKernel, device: Device) -> None:
    limits = device.limits
    for what, given, bounds in (("grid", launch.grid, limits.grid), ("block", launch.block, limits.block)):
        for axis, size, bound in zip("xyz", dim3(given), bounds, strict=True):
            if size > bound:
                raise BadRequest(f"{what}.{axis} is {size}; {device.name} takes at most {bound}", at=place)
    x, y, z = dim3(launch.block)
    most = min(limits.threads_per_block, kernel.threads_per_block)
    if x * y * z > most:
        raise BadRequest(
            f"a block of {x * y * z} threads; {kernel.name!r} takes at most {most} on {device.name}", at=place
        )
    shared = launch.shared_bytes + kernel.static_shared_bytes
    if shared > limits.shared_per_block:
        raise BadRequest(
            f"{shared} bytes of shared memory ({kernel.static_shared_bytes} of them static); "
            f"{device.name} has {limits.shared_per_block} a block",
            at=place,
        )
