"""Staging between pageable host memory and a GPU that does its work as late as it may."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kaasq_workers.devices.cuda.staging import Staging

SLOT_BYTES = 1024
SLOTS = 3
DEVICE_BYTES = 4096


@dataclass
class LazyGpu:
    """Runs nothing until somebody waits, so that whoever re-uses a slot too early finds its bytes gone."""

    memory: np.ndarray = field(default_factory=lambda: np.zeros(DEVICE_BYTES, np.uint8))
    queue: deque[Callable[[], object]] = field(default_factory=deque)
    passed: int = 0
    queued: int = 0

    def enqueue(self, work: Callable[[], object]) -> None:
        self.queue.append(work)
        self.queued += 1

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.enqueue(lambda: ctypes.memmove(target, source, nbytes))

    def run_to(self, point: int) -> None:
        while self.passed < point:
            self.queue.popleft()()
            self.passed += 1

    def synchronize(self) -> None:
        self.run_to(self.queued)

    @property
    def address(self) -> int:
        return self.memory.ctypes.data


@dataclass
class LazyEvent:
    gpu: LazyGpu
    point: int = 0

    def record(self) -> None:
        self.point = self.gpu.queued

    def synchronize(self) -> None:
        self.gpu.run_to(self.point)


def staging(gpu: LazyGpu) -> tuple[Staging, np.ndarray]:
    pinned = np.zeros(SLOT_BYTES * SLOTS, np.uint8)
    return Staging(pinned.ctypes.data, SLOT_BYTES, [LazyEvent(gpu) for _ in range(SLOTS)]), pinned


def copy_in(stage: Staging, gpu: LazyGpu, data: np.ndarray, offset: int) -> None:
    stage.copy_in(data.ctypes.data, data.nbytes, lambda at, slot, size: gpu.copy(gpu.address + offset + at, slot, size))


def copy_out(stage: Staging, gpu: LazyGpu, data: np.ndarray, offset: int) -> None:
    stage.copy_out(
        data.ctypes.data, data.nbytes, data, lambda at, slot, size: gpu.copy(slot, gpu.address + offset + at, size)
    )


pieces = st.tuples(st.integers(0, DEVICE_BYTES - 1), st.integers(1, DEVICE_BYTES)).map(
    lambda piece: (piece[0], min(piece[1], DEVICE_BYTES - piece[0]))
)
steps = st.lists(st.tuples(st.sampled_from(["in", "out", "add", "drain"]), pieces), max_size=40)


@given(steps, st.integers(0, 2**32 - 1))
def test_copies_in_any_order_give_what_they_would_at_once(script: list, seed: int) -> None:
    random = np.random.default_rng(seed)
    gpu = LazyGpu()
    stage, _pinned = staging(gpu)
    model = np.zeros(DEVICE_BYTES, np.uint8)
    outputs: list[tuple[np.ndarray, np.ndarray]] = []
    for step, (offset, size) in script:
        match step:
            case "in":
                data = random.integers(0, 256, size, np.uint8)
                model[offset : offset + size] = data
                copy_in(stage, gpu, data, offset)
                data[:] = 0  # the caller may re-use pageable memory at once
            case "out":
                target = np.zeros(size, np.uint8)
                outputs.append((target, model[offset : offset + size].copy()))
                copy_out(stage, gpu, target, offset)
            case "add":
                model += 1

                def kernel() -> None:
                    gpu.memory += np.uint8(1)

                gpu.enqueue(kernel)
            case "drain":
                stage.drain(gpu.synchronize)
                for target, expected in outputs:
                    np.testing.assert_array_equal(target, expected)
    stage.drain(gpu.synchronize)
    np.testing.assert_array_equal(gpu.memory, model)
    for target, expected in outputs:
        np.testing.assert_array_equal(target, expected)


def test_small_copies_share_a_slot_and_wait_for_nothing() -> None:
    gpu = LazyGpu()
    stage, _pinned = staging(gpu)
    for index in range(SLOTS * SLOT_BYTES // 256):
        copy_in(stage, gpu, np.full(16, index, np.uint8), index * 16)
    assert gpu.passed == 0


def test_a_copy_out_is_there_only_after_draining() -> None:
    gpu = LazyGpu()
    gpu.memory[:] = 7
    stage, _pinned = staging(gpu)
    target = np.zeros(100, np.uint8)
    copy_out(stage, gpu, target, 0)
    assert not target.any()
    stage.drain(gpu.synchronize)
    assert (target == 7).all()


def test_what_was_forgotten_never_arrives() -> None:
    gpu = LazyGpu()
    gpu.memory[:] = 7
    stage, _pinned = staging(gpu)
    target = np.zeros(100, np.uint8)
    copy_out(stage, gpu, target, 0)
    stage.forget()
    stage.drain(gpu.synchronize)
    assert not target.any()
