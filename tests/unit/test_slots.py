"""Slots and their memory: who gets which, what is zeroed for whom, and what is given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kaasq_workers.executor.layout import Extent, Layout
from kaasq_workers.executor.slots import ROUND_BYTES, Arena, Slots


class Memory:
    def __init__(self, nbytes: int, offset: int = 0) -> None:
        self.address, self.offset, self.nbytes, self.freed = 4096, offset, nbytes, False

    def part(self, offset: int, nbytes: int) -> Memory:
        return Memory(nbytes, self.offset + offset)

    def free(self) -> None:
        self.freed = True


class Stream:
    """Notes what is zeroed."""

    def __init__(self) -> None:
        self.zeroed: list[tuple[int, int]] = []

    def zero(self, memory: Any) -> None:
        self.zeroed.append((memory.offset, memory.nbytes))

    def taken(self) -> list[tuple[int, int]]:
        zeroed, self.zeroed = self.zeroed, []
        return zeroed


def slots(most: int = 4, kept: int = 1 << 30) -> Slots:
    device: Any = SimpleNamespace(stream=Stream)
    return Slots(device, most, kept)


def layout(nbytes: int, zeroed: tuple[int, int]) -> Layout:
    return Layout({}, nbytes, Extent(*zeroed))


def test_slots_are_made_as_they_are_needed_and_used_again():
    made = slots(2)
    first, second = made.take(()), made.take(())
    assert first is made.first
    assert second is not first
    with pytest.raises(RuntimeError, match="all 2 slots"):
        made.take(())
    made.give(first)
    assert made.take(()) is first


def test_a_slot_that_the_plan_knows_is_preferred_to_the_one_given_back_last():
    made = slots(3)
    taken = [made.take(()) for _ in range(3)]
    for each in taken:
        made.give(each)
    assert made.take({0}) is taken[0]
    assert made.take({0}) is taken[2]  # the one that it knows is not idle


def test_memory_is_zeroed_whole_for_another_tenant_and_as_far_as_needed_for_the_same():
    arena, stream = Arena(), Stream()
    arena.room(5000, Memory)
    arena.hand_over("a", layout(5000, (1024, 3000)), stream)
    assert stream.taken() == [(0, ROUND_BYTES)]  # whatever was in new memory
    arena.hand_over("a", layout(5000, (1024, 3000)), stream)
    assert stream.taken() == [(1024, 3000)]
    arena.hand_over("a", layout(2000, (0, 0)), stream)
    assert stream.taken() == []
    arena.hand_over("b", layout(100, (0, 100)), stream)
    assert stream.taken() == [(0, 5000)]  # as far as anything of a's reached
    arena.hand_over("a", layout(100, (0, 100)), stream)
    assert stream.taken() == [(0, 100)]


def test_memory_stays_where_it_is_until_more_is_needed():
    arena = Arena()
    first = arena.room(1000, Memory)
    assert arena.room(ROUND_BYTES, Memory) is first
    second = arena.room(ROUND_BYTES + 1, Memory)
    assert isinstance(first, Memory)
    assert first.freed
    assert (second.nbytes, arena.nbytes) == (2 * ROUND_BYTES, 2 * ROUND_BYTES)


def test_idle_slots_give_memory_back_when_asked_and_beyond_what_they_may_keep():
    made = slots(3, kept=2 * ROUND_BYTES)
    taken = [made.take(()) for _ in range(3)]
    for each in taken:
        each.arena.room(ROUND_BYTES, Memory)
        made.give(each)
    assert [each.arena.nbytes for each in taken] == [ROUND_BYTES, ROUND_BYTES, 0]
    busy = made.take({1})
    assert made.shed(10 * ROUND_BYTES) == ROUND_BYTES  # not what is in use
    assert busy.arena.nbytes == ROUND_BYTES


def test_two_slots_that_take_turns_keep_their_memory():
    made = slots(3, kept=ROUND_BYTES)
    first, second = made.take(()), made.take(())
    for each in (first, second):
        each.arena.room(ROUND_BYTES, Memory)
    for _ in range(3):
        made.give(first)
        assert first.arena.nbytes == ROUND_BYTES
        assert made.take(()) is first
        made.give(second)
        assert second.arena.nbytes == ROUND_BYTES
        assert made.take(()) is second
