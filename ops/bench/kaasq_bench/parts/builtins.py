"""What the built-ins of the cuda device reach beside PyTorch (where it is installed) and CuPy.

Times are the GPU's, from events around many calls, each on the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kaasq_bench.figures import Row, alone, compare
from kaasq_bench.rounds import interleaved
from kaasq_bench.setting import Setting
from kaasq_bench.suite import Case

if TYPE_CHECKING:
    from kaasq_bench.peers.array_calls import Calls, Subject

MI = 1 << 20
DEVICE_BYTES = 1 << 30  # for kaasq; what is measured lies in CuPy's arrays
QUICK_PRODUCTS, FULL_PRODUCTS = (1024, 4096), (256, 512, 1024, 2048, 4096, 8192)
QUICK_BYTES, FULL_BYTES = (256 * MI,), (MI, 16 * MI, 256 * MI)  # of one operand


def products_case(setting: Setting) -> Iterator[Row]:
    """Square products of three types."""
    with _calls(setting) as calls:
        from kaasq_bench.peers.array_subjects import product

        for dtype in ("float16", "float32", "float64"):
            for n in setting.pick(QUICK_PRODUCTS, FULL_PRODUCTS):
                yield from _rates(setting, calls, product(calls, dtype, n), 1e12, "TFLOP/s")


def bandwidth_case(setting: Setting) -> Iterator[Row]:
    """What the device's memory bounds."""
    with _calls(setting) as calls:
        from kaasq_bench.peers.array_subjects import moving

        for dtype in ("float16", "float32"):
            for nbytes in setting.pick(QUICK_BYTES, FULL_BYTES):
                for subject in moving(calls, dtype, nbytes):
                    yield from _rates(setting, calls, subject, 1e9, "GB/s")


def convolutions_case(setting: Setting) -> Iterator[Row]:
    """Layers of a ResNet-50, and a depthwise one."""
    with _calls(setting) as calls:
        from kaasq_bench.peers.array_subjects import LAYERS, convolution

        for layer in LAYERS:
            for dtype in ("float16", "float32"):
                yield from _rates(setting, calls, convolution(calls, dtype, layer), 1e12, "TFLOP/s")


def host_case(setting: Setting) -> Iterator[Row]:
    """What the host does for each call."""
    with _calls(setting) as calls:
        from kaasq_bench.peers.array_subjects import small

        for subject in small(calls):
            sides = {name: partial(calls.host_us, work) for name, work in _works(subject).items()}
            yield from _rows(f"host time of a call: {subject.name}", "us", interleaved(setting.rounds, sides))


def _rates(setting: Setting, calls: Calls, subject: Subject, scale: float, unit: str) -> Iterator[Row]:
    sides = {name: _rate(subject.amount / scale, calls.seconds(work)) for name, work in _works(subject).items()}
    yield from _rows(subject.name, unit, interleaved(setting.rounds, sides, warm_up=False))


def _works(subject: Subject) -> dict[str, Callable[[], object]]:
    return {"kaasq": subject.ours, **subject.peers}


def _rate(amount: float, seconds: Callable[[], float]) -> Callable[[], float]:
    return lambda: amount / seconds()


def _rows(what: str, unit: str, given: dict[str, list[float]]) -> Iterator[Row]:
    ours = given.pop("kaasq")
    if not given:
        yield alone(what, unit, ours)
    for peer, theirs in given.items():
        yield compare(what, unit, ours, peer, theirs)


@contextmanager
def _calls(setting: Setting) -> Iterator[Calls]:
    """Raises NotHere where the device is no GPU."""
    index = setting.gpu_index
    import cupy

    from kaasq_bench.peers.array_calls import Calls
    from kaasq_workers.devices.cuda import CudaDevice

    device = CudaDevice(index, memory_limit=DEVICE_BYTES, cache_dir=setting.disk / "cache" / "cuda")
    try:
        yield Calls(device)
    finally:
        device.close()
        cupy.get_default_memory_pool().free_all_blocks()


CASES = (
    Case("matrix products", products_case),
    Case("bandwidth", bandwidth_case),
    Case("convolutions", convolutions_case),
    Case("host time", host_case),
)
