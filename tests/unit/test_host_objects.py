"""Objects kept open and pinned: bounded, never under somebody who reads, given back when idle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaasq.errors import NameNotFound
from kaasq_storage import BufferStore, open_store
from kaasq_workers.executor.host_objects import (
    COPIERS,
    COPY_S,
    PIECE_BYTES,
    PINNED_FROM_BYTES,
    PINNED_OBJECTS,
    HostObjects,
)

LARGE = PINNED_FROM_BYTES


class Pins:
    """A device that pins, or refuses to; ``took_s`` for each piece."""

    def __init__(self, *, able: bool = True, took_s: float = 1.0) -> None:
        self.able = able
        self.took_s = took_s
        self.now = 0.0
        self.asked = 0
        self.held = 0

    def pin(self, data: memoryview) -> Pins | None:
        self.asked += 1
        self.held += self.able
        self.now += self.took_s
        return self if self.able else None

    def release(self) -> None:
        self.held -= 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    with open_store(tmp_path / "store", sync=False, capacity=1 << 30) as opened:
        yield opened


def put(store: BufferStore, value: int, nbytes: int = LARGE) -> str:
    return store.put("t", np.full(nbytes, value, np.uint8).data)[0].ref


def read(objects: HostObjects, ref: str, times: int = 1) -> bytes:
    """Its first bytes, having read all of it that often."""
    first = b""
    for _ in range(times):
        opened = objects.open("t", ref)
        pieces = list(opened.pieces(0, opened.nbytes))
        first, nbytes = bytes(pieces[0][:9]), sum(each.nbytes for each in pieces)
        assert nbytes == opened.nbytes
        for each in pieces:
            each.release()
        objects.give_back(opened)
    return first


def test_a_large_object_is_pinned_when_it_is_read_again_and_once(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 4 * LARGE)
    ref = put(store, 7)
    read(objects, ref)
    assert (pins.asked, objects.nbytes) == (0, LARGE)
    assert set(read(objects, ref, 3)) == {7}
    one, other = objects.open("t", ref), objects.open("t", ref)
    assert one is other
    objects.give_back(one)
    objects.give_back(other)
    assert (pins.asked, pins.held, objects.nbytes) == (1, 1, LARGE)


def pieces(objects: HostObjects, ref: str, offset: int, nbytes: int) -> list[int]:
    """Their sizes, having read them."""
    opened = objects.open("t", ref)
    sizes = []
    for each in opened.pieces(offset, nbytes):
        with each:
            sizes.append(each.nbytes)
    objects.give_back(opened)
    return sizes


QUICK_S = COPY_S / COPIERS


def test_where_few_threads_copy_slower_pinning_is_quick_enough(store):
    pins = Pins(took_s=2 * QUICK_S)
    for copiers, found in ((COPIERS, [3 * PIECE_BYTES]), (COPIERS // 2, [PIECE_BYTES] * 3)):
        objects = HostObjects(store, pins.pin, 16 * PIECE_BYTES, timer=lambda: pins.now, copiers=copiers)
        pieces(objects, put(store, 1, 3 * PIECE_BYTES), 0, 3 * PIECE_BYTES)  # by which it learns
        assert pieces(objects, put(store, 2, 3 * PIECE_BYTES), 0, 3 * PIECE_BYTES) == found


def test_where_pinning_is_quick_an_object_is_pinned_as_it_is_read_first(store):
    pins = Pins(took_s=QUICK_S / 2)
    objects = HostObjects(store, pins.pin, 16 * PIECE_BYTES, timer=lambda: pins.now, copiers=COPIERS)
    refs = [put(store, value, 2 * PIECE_BYTES + 5) for value in range(4)]
    for count in (1, 2):
        assert pieces(objects, refs[count], 0, 2 * PIECE_BYTES + 5) == [PIECE_BYTES, PIECE_BYTES, 5]
        assert pins.held == 3 * count
    pins.took_s = 2 * QUICK_S  # no longer: it stops after two pieces, and others are not begun
    assert pieces(objects, refs[3], 0, 2 * PIECE_BYTES + 5) == [PIECE_BYTES, PIECE_BYTES, 5]
    assert pieces(objects, refs[0], 0, 2 * PIECE_BYTES + 5) == [2 * PIECE_BYTES + 5]
    pins.took_s = 0.0
    assert objects.pin_some()  # which finds that it is quick again
    assert pieces(objects, put(store, 9, PIECE_BYTES), 0, PIECE_BYTES) == [PIECE_BYTES]
    assert pins.held == 3 + 3 + 2 + 1 + 1


def test_what_is_read_first_is_pinned_no_further_than_it_is_read(store):
    pins = Pins(took_s=0.0)
    objects = HostObjects(store, pins.pin, 8 * PIECE_BYTES, timer=lambda: pins.now)
    nbytes = 3 * PIECE_BYTES
    little, later, most = (put(store, value, nbytes) for value in range(3))
    assert pieces(objects, little, 0, PIECE_BYTES - 1) == [PIECE_BYTES - 1]
    assert pieces(objects, later, PIECE_BYTES, PIECE_BYTES) == [PIECE_BYTES]
    assert pins.held == 0
    assert pieces(objects, most, 5, 2 * PIECE_BYTES) == [PIECE_BYTES - 5, PIECE_BYTES, 5]
    assert pins.held == 2


def test_what_was_read_is_pinned_piece_by_piece_while_nobody_wants_anything(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 8 * PIECE_BYTES, timer=lambda: pins.now)
    ref, other = put(store, 7, 2 * PIECE_BYTES + 5), put(store, 9)
    assert not objects.pin_some()
    for each in (ref, other):
        read(objects, each)
    asked = []
    while objects.pin_some():
        asked.append(pins.asked)
    assert asked == [3, 4]  # what was read last, first; two had been tried, to see whether it is quick
    assert objects.nbytes == 2 * PIECE_BYTES + 5 + LARGE
    read(objects, ref)
    assert pins.asked == 4


def test_a_part_is_read_in_pieces_that_are_pinned_each_as_a_whole(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 4 * PIECE_BYTES, timer=lambda: pins.now)
    ref = put(store, 3, 2 * PIECE_BYTES + 100)
    read(objects, ref)
    opened = objects.open("t", ref)
    sizes = []
    for piece in opened.pieces(PIECE_BYTES - 10, PIECE_BYTES + 30):
        sizes.append((piece.nbytes, pins.held))
        piece.release()
    assert sizes == [(10, 2), (PIECE_BYTES, 2), (20, 3)]
    objects.give_back(opened)


def test_small_objects_and_what_the_device_refuses_are_closed_at_once(store):
    for pins, nbytes in ((Pins(), LARGE - 1), (Pins(able=False), LARGE)):
        objects = HostObjects(store, pins.pin, 4 * LARGE)
        ref = put(store, 1, nbytes)
        for _ in range(3):
            read(objects, ref)
            opened = objects.open("t", ref)
            assert [each.nbytes for each in opened.pieces(0, nbytes)] == [nbytes]
            objects.give_back(opened)
            with pytest.raises(ValueError, match="released"):
                opened.data[0]
            assert not objects.pin_some()
        assert (pins.held, objects.nbytes) == (0, 0)


def test_what_was_read_longest_ago_makes_room_but_not_under_a_reader(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 2 * LARGE)
    a, b, c, d = (put(store, value) for value in range(4))
    read(objects, a)
    first = objects.open("t", a)
    read(objects, b, 2)
    read(objects, c, 2)  # in b's place: a is being read
    assert (pins.held, objects.nbytes) == (1, 2 * LARGE)
    second = objects.open("t", c)
    third = objects.open("t", d)  # nobody can go: read without being pinned
    assert [each.nbytes for each in third.pieces(0, LARGE)] == [LARGE]
    assert set(third.data[:9]) == {3}
    for each in (first, second, third):
        objects.give_back(each)
    assert objects.nbytes == 2 * LARGE
    while objects.pin_some():
        pass
    assert objects.nbytes == 2 * LARGE  # for d there is no room


def test_no_more_objects_than_a_system_maps_gladly(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 1 << 40)
    for value in range(PINNED_OBJECTS + 5):
        data = np.full(LARGE, value % 256, np.uint8)
        data[:4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)
        read(objects, store.put("t", data.data)[0].ref, 2)
    assert pins.held == PINNED_OBJECTS


def test_what_is_idle_is_given_back_and_what_is_read_is_not(store):
    now = 0.0
    pins = Pins()
    objects = HostObjects(store, pins.pin, 4 * LARGE, clock=lambda: now)
    idle, busy = put(store, 1), put(store, 2)
    read(objects, idle, 2)
    read(objects, busy, 2)
    reading = objects.open("t", busy)
    now = 61.0
    objects.tidy()
    assert (pins.held, objects.nbytes) == (1, LARGE)
    assert reading.data[0] == 2
    objects.give_back(reading)
    objects.tidy(0.0)
    assert (pins.held, objects.nbytes) == (0, 0)


def test_another_tenants_object_is_not_there(store):
    objects = HostObjects(store, Pins().pin, 4 * LARGE)
    ref = put(store, 1)
    read(objects, ref, 2)
    with pytest.raises(NameNotFound):
        objects.open("other", ref)
