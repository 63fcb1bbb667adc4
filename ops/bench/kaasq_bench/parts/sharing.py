"""Many tenants on one device: their throughput together, beside processes of their own; small kernels in flight."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from threading import Lock
from typing import Any, NamedTuple

from kaasq import BufferRef, Client, Graph
from kaasq.ids import new_id
from kaasq_bench import bars
from kaasq_bench.figures import Row, compare
from kaasq_bench.graphs import Floats, chain_arrays, product_chain, spinning
from kaasq_bench.loads import KaasqLoad, Window
from kaasq_bench.parts.pressure import pressure_case
from kaasq_bench.peers.tenants import SideBySide, restarted_s, save
from kaasq_bench.rabbitmq.api import ManagementError
from kaasq_bench.rounds import interleaved
from kaasq_bench.serving import START_TIMEOUT_S, ChildFailed, Serving, served, serving
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case
from kaasq_workers.devices.gpus import count_gpus

PASSWORD = "bench"
OUTSTANDING = 32  # of all tenants together: only how many share the device changes
STEADY = 4  # windows in one for tenants beside one tenant: their ratio is near one, and 32 requests begin and end each
TENANT_BYTES = 1 << 30  # of all their weights together
PROCESSES = (2, 8, 32)  # with a tenant each, side by side
IN_FLIGHT = (1, 2, 4, 8)
SPIN_US = 1000
CALIBRATION = 20_000  # rounds of the spinning kernel
CPU_BLOCKS = 1


class Work(NamedTuple):
    """What every tenant has: a chain of products of its own weights."""

    squares: int
    n: int
    columns: int

    def graph(self) -> Graph:
        return product_chain(self.squares, self.n, self.columns)

    def arrays(self, tenant: int) -> tuple[list[Floats], Floats]:
        return chain_arrays(self.squares, self.n, self.columns, seed=tenant)


class Tenant(NamedTuple):
    """A user of the broker with its weights in the store."""

    name: str
    client: Client
    bound: dict[str, BufferRef | Floats]


def tenants_case(setting: Setting) -> Iterator[Row]:
    """The throughput of one tenant, and of more and more with the same load altogether.

    Each has a client. So the most are also beside as many clients of one tenant: that tells what it costs to share the
    device from what it costs this process to have so many clients.
    """
    counts = setting.pick((1, 4, 32), (1, 2, 4, 8, 16, 32))
    most, work = max(counts), _work(setting)
    with ExitStack() as stack:
        ours = stack.enter_context(serving(setting))
        tenants = stack.enter_context(_tenants(setting, ours, work, most))
        graph = work.graph()
        for tenant in tenants:
            tenant.client.run(graph, bind=tenant.bound)
        one = tenants[0]
        others = [stack.enter_context(ours.client_of(one.name, PASSWORD)) for _ in range(most - 1)]
        sides = {str(count): tenants[:count] for count in counts}
        sides["clients"] = [one, *(one._replace(client=each) for each in others)]

        def throughput(side: Sequence[Tenant]) -> Callable[[], float]:
            return lambda: _throughput(side, graph, STEADY * setting.seconds)

        given = interleaved(setting.rounds, {name: throughput(side) for name, side in sides.items()})
    for count in counts[1:]:
        bar = bars.TENANTS_THROUGHPUT if count == 32 else None
        yield compare(f"{count} tenants", "/s", given[str(count)], "kaasq, 1 tenant", given["1"], bar)
    yield compare(f"{most} tenants", "/s", given[str(most)], f"kaasq, 1 tenant, {most} clients", given["clients"])


def processes_case(setting: Setting) -> Iterator[Row]:
    """More and more tenants beside a process for each: taking turns with the device, or all on it at once."""
    work, counts = _work(setting), setting.pick((4,), PROCESSES)
    most = counts[-1]
    with ExitStack() as stack:
        ours = stack.enter_context(serving(setting))
        tenants = stack.enter_context(_tenants(setting, ours, work, most))
        graph = work.graph()
        for tenant in tenants:
            tenant.client.run(graph, bind=tenant.bound)
        places = [save(setting.place_for(TENANT_BYTES), setting.device, *work.arrays(tenant)) for tenant in range(most)]
        for place in places:
            stack.callback(shutil.rmtree, place.folder, ignore_errors=True)
        turns = cycle(places)
        side_by_side = SideBySide(setting, places, stack)
        sides: dict[str, Callable[[], float]] = {"turns": lambda: 1 / restarted_s(setting, next(turns))}
        for count in counts:
            sides[f"kaasq, {count}"] = partial(_throughput, tenants[:count], graph, setting.seconds)
            sides[f"at once, {count}"] = partial(side_by_side.per_s, setting.seconds, count)
        given = interleaved(min(3, setting.rounds), sides)
    for count in counts:
        what, per_s = f"{count} tenants, one device", given[f"kaasq, {count}"]
        yield compare(what, "/s", per_s, "a process each, in turns", given["turns"], bars.BESIDE_RESTARTED)
        yield compare(what, "/s", per_s, "a process each, at once, without messages", given[f"at once, {count}"])


def small_grids_case(setting: Setting) -> Iterator[Row]:
    """Kernels that fill a tenth of the device, more and more of them in flight."""
    blocks = _tenth(setting)
    with served(setting, storing=False) as ours:
        rounds = CALIBRATION
        calibrated = ours.client.run(spinning(blocks, rounds))  # compiles
        calibrated = ours.client.run(spinning(blocks, rounds))
        rounds = max(1, round(rounds * SPIN_US / max(1, calibrated.timings.kernel)))
        load = KaasqLoad(ours.client, spinning(blocks, rounds))

        def per_s(in_flight: int) -> Callable[[], float]:
            return lambda: load.load(in_flight, setting.seconds).per_s

        given = interleaved(setting.rounds, {str(n): per_s(n) for n in IN_FLIGHT})
    for n in IN_FLIGHT[1:]:
        bar = bars.SMALL_GRIDS_TOGETHER if n == IN_FLIGHT[-1] and setting.gpu else None
        what = f"kernels of {blocks} block{'s' * (blocks > 1)} and 1 ms, {n} in flight"
        yield compare(what, "/s", given[str(n)], "kaasq, 1 in flight", given["1"], bar)


def devices_case(setting: Setting) -> Iterator[Row]:
    """One tenant's products on all GPUs of this host, by a pool with a worker for each, beside one GPU's worker."""
    count = count_gpus() if setting.gpu else 0
    if count < 2 or setting.embedded:
        raise NotHere(f"needs several GPUs: {count} here")
    work, under_way = Work(7, 4096, 8), IN_FLIGHT[-1]
    with ExitStack() as stack:
        sides: dict[str, Callable[[], float]] = {}
        for name, device in (("one", setting.device), ("all", "all")):
            ours = stack.enter_context(serving(setting, device=device))
            weights, x = work.arrays(0)
            bound = {f"w{i}": ours.put(each) for i, each in enumerate(weights)}
            _await_devices(ours.client, work.graph(), {**bound, "x": x}, count if device == "all" else 1)
            load = KaasqLoad(ours.client, work.graph(), **bound, x=x)
            sides[name] = partial(_per_s, load, under_way * count, setting.seconds)
        given = interleaved(setting.rounds, sides)
    what = f"{count} GPUs, products of {work.n} x {work.n}"
    yield compare(what, "/s", given["all"], "kaasq, 1 GPU", given["one"])


def _await_devices(client: Client, graph: Graph, bound: dict[str, BufferRef | Floats], count: int) -> None:
    """Until so many have answered, and so have loaded what is bound."""
    found: set[str] = set()
    deadline = time.monotonic() + START_TIMEOUT_S
    while len(found) < count:
        asked = [client.submit(graph, bind=bound) for _ in range(4 * count)]
        found |= {each.result().worker.device for each in asked}
        if time.monotonic() > deadline:
            raise ChildFailed(f"only {', '.join(sorted(found))} served within {START_TIMEOUT_S:.0f} s")


def _per_s(load: KaasqLoad, outstanding: int, seconds: float) -> float:
    return load.load(outstanding, seconds).per_s


def _work(setting: Setting) -> Work:
    return Work(3, 2048, 16) if setting.gpu else Work(2, 128, 16)


def _tenth(setting: Setting) -> int:
    """Blocks that fill a tenth of the device."""
    if not setting.gpu:
        return CPU_BLOCKS
    import cupy

    count: int = cupy.cuda.Device(setting.gpu_index).attributes["MultiProcessorCount"]
    return max(1, count // 10)


def _throughput(tenants: Sequence[Tenant], graph: Graph, seconds: float) -> float:
    """Requests per second of all tenants together, each in turn."""
    turns, lock = cycle(tenants), Lock()

    def submit() -> Future[Any]:
        with lock:
            tenant = next(turns)
        return tenant.client.submit(graph, bind=tenant.bound)

    return Window(submit, OUTSTANDING, seconds).run().per_s


@contextmanager
def _tenants(setting: Setting, ours: Serving, work: Work, count: int) -> Iterator[list[Tenant]]:
    """Users made for this, with their clients; removed at the end. Raises NotHere where none can be made."""
    management = setting.broker().management
    if management is None:
        raise NotHere("needs users of its own, and the given broker's management API does not answer")
    names = [f"bench-{new_id()[-12:]}" for _ in range(count)]
    with ExitStack() as stack:
        tenants = []
        for i, name in enumerate(names):
            try:
                management.add_user(name, PASSWORD)
                stack.callback(management.delete_user, name)
                management.set_permissions(name)
            except ManagementError as error:
                raise NotHere(f"needs users of its own: {error}") from error
            client = stack.enter_context(ours.client_of(name, PASSWORD))
            weights, x = work.arrays(i)
            bound: dict[str, BufferRef | Floats] = {f"w{j}": client.put(each) for j, each in enumerate(weights)}
            tenants.append(Tenant(name, client, {**bound, "x": x}))
        yield tenants


CASES = (
    Case("tenants", tenants_case),
    Case("a process for each tenant", processes_case),
    Case("small kernels in flight", small_grids_case),
    Case("several GPUs", devices_case),
    Case("more data than the device holds", pressure_case),
)
