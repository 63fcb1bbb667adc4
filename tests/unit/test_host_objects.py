"""Objects kept open and pinned: bounded, never under somebody who reads, given back when idle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaasq.errors import NameNotFound
from kaasq_storage import BufferStore, open_store
from kaasq_workers.executor.host_objects import PINNED_FROM_BYTES, PINNED_OBJECTS, HostObjects

LARGE = PINNED_FROM_BYTES


class Pins:
    """A device that pins, or refuses to."""

    def __init__(self, *, able: bool = True) -> None:
        self.able = able
        self.asked = 0
        self.held = 0

    def pin(self, data: memoryview) -> Pins | None:
        self.asked += 1
        self.held += self.able
        return self if self.able else None

    def release(self) -> None:
        self.held -= 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    with open_store(tmp_path / "store", sync=False, capacity=1 << 30) as opened:
        yield opened


def put(store: BufferStore, value: int, nbytes: int = LARGE) -> str:
    return store.put("t", np.full(nbytes, value, np.uint8).data)[0].ref


def test_a_large_object_is_pinned_once_however_often_it_is_read(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 4 * LARGE)
    ref = put(store, 7)
    for _ in range(3):
        one, other = objects.open("t", ref), objects.open("t", ref)
        assert one is other
        assert set(one.data[:100]) == {7}
        objects.give_back(one)
        objects.give_back(other)
    assert (pins.asked, pins.held, objects.nbytes) == (1, 1, LARGE)


def test_small_objects_and_what_the_device_refuses_are_closed_at_once(store):
    for pins, nbytes in ((Pins(), LARGE - 1), (Pins(able=False), LARGE)):
        objects = HostObjects(store, pins.pin, 4 * LARGE)
        opened = objects.open("t", put(store, 1, nbytes))
        assert opened.data[0] == 1
        objects.give_back(opened)
        with pytest.raises(ValueError, match="released"):
            opened.data[0]
        assert (pins.held, objects.nbytes) == (0, 0)


def test_what_was_read_longest_ago_makes_room_but_not_under_a_reader(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 2 * LARGE)
    a, b, c, d = (put(store, value) for value in range(4))
    first = objects.open("t", a)
    objects.give_back(objects.open("t", b))
    objects.give_back(objects.open("t", c))  # in b's place: a is being read
    assert (pins.asked, pins.held, objects.nbytes) == (3, 2, 2 * LARGE)
    second = objects.open("t", c)
    third = objects.open("t", d)  # nobody can go: read without being pinned
    assert (pins.asked, set(third.data[:9])) == (3, {3})
    for each in (first, second, third):
        objects.give_back(each)
    assert (pins.held, objects.nbytes) == (2, 2 * LARGE)


def test_no_more_objects_than_a_system_maps_gladly(store):
    pins = Pins()
    objects = HostObjects(store, pins.pin, 1 << 40)
    for value in range(PINNED_OBJECTS + 5):
        data = np.full(LARGE, value % 256, np.uint8)
        data[:4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)
        ref = store.put("t", data.data)[0].ref
        objects.give_back(objects.open("t", ref))
    assert pins.held == PINNED_OBJECTS


def test_what_is_idle_is_given_back_and_what_is_read_is_not(store):
    now = 0.0
    pins = Pins()
    objects = HostObjects(store, pins.pin, 4 * LARGE, clock=lambda: now)
    idle, busy = put(store, 1), put(store, 2)
    objects.give_back(objects.open("t", idle))
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
    objects.give_back(objects.open("t", ref))
    with pytest.raises(NameNotFound):
        objects.open("other", ref)
