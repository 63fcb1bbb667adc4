"""What a graph costs on top of its kernels: device time, executor time and whole requests beside the same by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from kaasq_bench import bars
from kaasq_bench.answers import check
from kaasq_bench.figures import Bar, Row, compare
from kaasq_bench.graphs import Program, chain_arrays, jacobi, product_chain, small_launches
from kaasq_bench.kaasq_side import KaasqProgram
from kaasq_bench.peers.products import Products
from kaasq_bench.peers.resident import Once, Resident, cpu_loop
from kaasq_bench.rounds import interleaved
from kaasq_bench.serving import Serving, served
from kaasq_bench.setting import Setting
from kaasq_bench.suite import Case

LOOP = "CuPy loop"
CAPTURED = "captured graph"
BARE_DEVICE = "bare device loop"
REPEATS = 5  # requests behind one figure of a round, which is that of the median one
COUNTS = (1, 10, 100, 1000)
BARRED_COUNT = 100
SWEEPS = 3000
TIMES = {"device": "device_us", "executor": "executor_us", "whole request": "whole_us"}


def launches_case(setting: Setting) -> Iterator[Row]:
    """More and more small launches in one graph."""
    with served(setting) as ours:
        for count in (BARRED_COUNT,) if setting.brief else COUNTS:
            given = _beside_residents(setting, ours, small_launches(count))
            what = f"{count} small launch{'es' * (count > 1)}"
            wanted = {CAPTURED: bars.LAUNCHES_BESIDE_CAPTURED, LOOP: bars.LAUNCHES_BESIDE_LOOP}
            for figure in TIMES:
                barred = count == BARRED_COUNT and figure == "device"
                yield from _rows(what, figure, given, wanted if barred else {})


def jacobi_case(setting: Setting) -> Iterator[Row]:
    """A solver of thousands of short launches."""
    n, sweeps = (512, SWEEPS) if setting.gpu else (256, setting.pick(300, SWEEPS))
    with served(setting) as ours:
        given = _beside_residents(setting, ours, jacobi(n, sweeps))
    what = f"Jacobi, {n} unknowns, {sweeps} iterations"
    yield from _rows(what, "device", given, {})
    yield from _rows(
        what, "whole request", given, {CAPTURED: bars.JACOBI_BESIDE_CAPTURED, LOOP: bars.JACOBI_BESIDE_LOOP}
    )


def products_case(setting: Setting) -> Iterator[Row]:
    """A chain of matrix products by the built-in, beside NumPy or CuPy with everything in place."""
    squares, n = (7, 4096) if setting.gpu else (4, setting.pick(256, 512))
    weights, x = chain_arrays(squares, n, 8, seed=1)
    with served(setting) as ours:
        stored = {f"w{i}": ours.put(each) for i, each in enumerate(weights)}
        kaasq = KaasqProgram(ours, product_chain(squares, n, 8), {**stored, "x": x})
        peer = "resident CuPy" if setting.gpu else "resident NumPy"
        given = _measure(setting, kaasq, {peer: Products(setting.device, weights, x)})
    wanted = {peer: bars.GEMM_CHAIN_BESIDE_RESIDENT} if setting.gpu else {}
    yield from _rows(f"{squares} products of {n} x {n}", "whole request", given, wanted)


def _beside_residents(setting: Setting, ours: Serving, program: Program) -> dict[str, list[Once]]:
    with ExitStack() as stack:
        peers: dict[str, Resident] = {}
        if setting.gpu:
            from kaasq_bench.peers.cupy_resident import CupyGraph, CupyLoop

            peers = {
                CAPTURED: CupyGraph(setting.gpu_index, program),
                LOOP: CupyLoop(setting.gpu_index, program),
            }
        else:
            peers = {BARE_DEVICE: stack.enter_context(cpu_loop(program, setting.disk / "cache" / "cpu"))}
        return _measure(setting, KaasqProgram.of(ours, program), peers)


def _measure(setting: Setting, kaasq: Resident, peers: Mapping[str, Resident]) -> dict[str, list[Once]]:
    """All sides in turn, once their answers agree."""
    answers = kaasq.run().outputs
    for name, peer in peers.items():
        check(name, peer.run().outputs, answers)
    return interleaved(setting.rounds, {name: _median_run(side) for name, side in {"kaasq": kaasq, **peers}.items()})


def _median_run(side: Resident) -> Callable[[], Once]:
    """A function that runs it several times and gives the middle one by whole time."""
    return lambda: sorted((side.run() for _ in range(REPEATS)), key=lambda each: each.whole_us)[REPEATS // 2]


def _rows(what: str, figure: str, given: Mapping[str, list[Once]], wanted: Mapping[str, Bar]) -> Iterator[Row]:
    times = {side: [max(1.0, getattr(each, TIMES[figure])) for each in runs] for side, runs in given.items()}
    for peer in given:
        if peer != "kaasq":  # a reply's times are whole microseconds, so that 0 means less than one
            yield compare(f"{what}: {figure}", "us", times["kaasq"], peer, times[peer], wanted.get(peer))


CASES = (
    Case("small launches", launches_case),
    Case("Jacobi", jacobi_case),
    Case("matrix products", products_case),
)
