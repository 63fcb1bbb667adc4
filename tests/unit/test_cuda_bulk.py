"""Large copies through pinned slots and threads, with a GPU that does its work as late as it may."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kaasq_workers.devices.cuda.bulk import SLOTS_EACH, BulkCopies
from tests.unit.test_cuda_staging import LazyGpu

SLOT_BYTES = 512
THREADS = 4
SLOTS = THREADS * SLOTS_EACH
STREAM = 7
SIZES = [1, SLOT_BYTES - 1, SLOT_BYTES, SLOT_BYTES + 1, 5 * SLOT_BYTES, SLOTS * SLOT_BYTES, 40 * SLOT_BYTES + 3]


class SharedGpu(LazyGpu):
    """One that several threads give work to."""

    def __init__(self) -> None:
        super().__init__(np.zeros(64 * SLOT_BYTES, np.uint8))
        self.lock = threading.RLock()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        with self.lock:
            super().copy(target, source, nbytes)

    def run_to(self, point: int) -> None:
        with self.lock:
            super().run_to(point)


class Event:
    """An event in a stream that is run only when somebody waits."""

    def __init__(self, gpu: SharedGpu) -> None:
        self.gpu, self.point = gpu, 0

    def record(self, stream: int) -> None:
        assert stream == STREAM
        self.point = self.gpu.queued

    def synchronize(self) -> None:
        self.gpu.run_to(self.point)


class Rig:
    """``threads`` beside the caller, which has pieces left to take if there are none."""

    def __init__(self, threads: int) -> None:
        self.gpu = SharedGpu()
        self.pinned = np.zeros(SLOTS * SLOT_BYTES, np.uint8)
        self.threads = ThreadPoolExecutor(threads)
        events = [Event(self.gpu) for _ in range(SLOTS)]
        address = self.pinned.ctypes.data
        self.copies = BulkCopies(address, SLOT_BYTES, events, self.threads, least_bytes=SLOT_BYTES // 2)

    def copy_in(self, data: np.ndarray) -> None:
        to = self.gpu.address
        self.copies.copy_in(data.ctypes.data, data.nbytes, STREAM, lambda at, slot, n: self.gpu.copy(to + at, slot, n))

    def copy_out(self, data: np.ndarray) -> None:
        of = self.gpu.address
        self.copies.copy_out(data.ctypes.data, data.nbytes, STREAM, lambda at, slot, n: self.gpu.copy(slot, of + at, n))


@pytest.fixture(params=[1, 4])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.threads.shutdown()


@pytest.mark.parametrize("nbytes", SIZES)
def test_bytes_arrive_in_both_directions_and_the_source_may_change_at_once(rig, nbytes):
    random = np.random.default_rng(nbytes)
    for _ in range(3):  # slots are used again while the last pieces are still on their way
        data = random.integers(0, 256, nbytes, np.uint8)
        given = data.copy()
        rig.copy_in(given)
        given[:] = 0
        back = np.zeros(nbytes + 2, np.uint8)
        rig.copy_out(back[1:-1])
        np.testing.assert_array_equal(back[1:-1], data)
        assert (back[0], back[-1]) == (0, 0)


def test_bytes_beside_the_destination_stay_as_they_are_in_a_files_mapping(rig, tmp_path):
    nbytes = 30 * SLOT_BYTES
    path = tmp_path / "file"
    path.write_bytes(b"\x07" * (2 * nbytes))
    data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
    rig.copy_in(data)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        rig.copy_out(view[100 : 100 + nbytes])
        del view
    written = np.frombuffer(path.read_bytes(), np.uint8)
    np.testing.assert_array_equal(written[100 : 100 + nbytes], data)
    assert set(written[:100]) == set(written[100 + nbytes :]) == {7}


@pytest.mark.parametrize("at", [0, 5, 30])
def test_after_a_failure_nothing_moves_any_more_and_copies_work_again(rig, at):
    data = np.arange(40 * SLOT_BYTES, dtype=np.uint8)
    count = 0

    def fail(offset: int, slot: int, nbytes: int) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise OSError("lost")
        rig.gpu.copy(slot, rig.gpu.address + offset, nbytes)

    target = np.zeros(data.nbytes, np.uint8)
    with pytest.raises(OSError, match="lost"):
        rig.copies.copy_out(target.ctypes.data, target.nbytes, STREAM, fail)
    moved = target.copy()
    ctypes.memset(rig.pinned.ctypes.data, 1, rig.pinned.nbytes)
    rig.gpu.synchronize()
    np.testing.assert_array_equal(target, moved)
    rig.copy_in(data)
    back = np.zeros_like(data)
    rig.copy_out(back)
    np.testing.assert_array_equal(back, data)
