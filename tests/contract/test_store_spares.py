"""Files used again in a store in shared memory: never under a reader, never another tenant's, never beyond bounds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq.errors import NameNotFound, StoreFull
from kaasq.model import content_hash
from kaasq_storage import BufferStore, open_store
from kaasq_storage.spares import FROM_BYTES

LARGE = 33 << 20  # mapped for writing
MEDIUM = FROM_BYTES + 100_000  # written from memory

Open = Callable[..., BufferStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    stores: list[BufferStore] = []

    def make(**options: Any) -> BufferStore:
        store = open_store(tmp_path / "store", **{"sync": False, "spare_bytes": 1 << 30} | options)
        stores.append(store)
        return store

    yield make
    for each in stores:
        each.close()


@pytest.fixture
def store(opened: Open) -> BufferStore:
    return opened()


def spares(store: BufferStore) -> dict[int, int]:
    """Inodes and sizes."""
    return {each.stat().st_ino: each.stat().st_size for each in (store.path / "spare").iterdir()}


def files(store: BufferStore) -> set[int]:
    """Inodes of the objects' files."""
    return {each.stat().st_ino for each in (store.path / "objects").rglob("*") if each.is_file()}


def put(store: BufferStore, value: int, nbytes: int = LARGE, tenant: str = "a") -> str:
    staged = store.stage(tenant, nbytes)
    staged.data[:] = bytes([value]) * nbytes
    staged.seal()
    with store.transaction() as transaction:
        entry, _ = transaction.publish(staged)
    return entry.ref


def read(store: BufferStore, ref: str, tenant: str = "a") -> bytes:
    with store.open(tenant, ref) as reading:
        return bytes(reading.data)


@pytest.mark.parametrize("nbytes", [MEDIUM, LARGE])
def test_a_deleted_objects_file_holds_the_next_one_of_about_its_size(store: BufferStore, nbytes: int) -> None:
    store.delete("a", ref=put(store, 1, nbytes))
    for value, size in ((2, nbytes), (3, nbytes - 70_000), (4, nbytes + 70_000)):
        gc.collect()
        (spare,) = spares(store)
        ref = put(store, value, size)
        assert files(store) == {spare}
        assert not spares(store)
        assert read(store, ref) == bytes([value]) * size
        assert store.usage().used == size
        store.delete("a", ref=ref)


def test_what_was_staged_and_given_up_is_used_again_too(store: BufferStore) -> None:
    staged = store.stage("a", LARGE)
    staged.data[:] = b"x" * LARGE
    staged.discard()
    del staged
    (spare,) = spares(store)
    ref = put(store, 2)
    assert files(store) == {spare}
    assert read(store, ref) == b"\2" * LARGE


def test_it_goes_to_no_other_tenant(store: BufferStore) -> None:
    store.delete("a", ref=put(store, 1))
    (spare,) = spares(store)
    staged = store.stage("b", LARGE)
    assert not np.frombuffer(staged.data, np.uint8).any()
    staged.discard()
    put(store, 1, tenant="b")
    assert spare in spares(store)


@pytest.mark.parametrize("nbytes", [MEDIUM, LARGE])
def test_who_still_reads_it_reads_what_it_was(store: BufferStore, opened: Open, nbytes: int) -> None:
    ref = put(store, 1, nbytes)
    with opened().open("a", ref) as reading:
        store.delete("a", ref=ref)
        again = put(store, 2, nbytes)
        assert bytes(reading.data) == b"\1" * nbytes
        store.delete("a", ref=again)
    array = np.frombuffer(store.open("a", put(store, 3, nbytes)).data, np.uint8)
    store.delete("a", ref=content_hash(array.data))
    for value in (4, 5):
        put(store, value, nbytes)
    assert (array == 3).all()


def test_readers_beside_a_writer_that_uses_files_again_never_see_another_objects_bytes(store: BufferStore) -> None:
    rounds, failed = 60, []
    current: list[str] = []
    done = threading.Event()

    def check() -> None:
        while not done.is_set():
            for ref in current[-2:]:
                try:
                    with store.open("a", ref) as reading:
                        if content_hash(bytes(reading.data)) != ref:
                            failed.append(ref)
                except NameNotFound:
                    pass

    readers = [threading.Thread(target=check) for _ in range(2)]
    for each in readers:
        each.start()
    try:
        for value in range(rounds):
            current.append(put(store, value, MEDIUM))
            if value > 1:
                store.delete("a", ref=current[value - 1])
    finally:
        done.set()
        for each in readers:
            each.join()
    assert not failed


def test_they_are_bounded_and_go_when_room_is_needed_or_nobody_wants_them(opened: Open) -> None:
    store = opened(spare_bytes=3 * MEDIUM)
    refs = [put(store, value, MEDIUM) for value in range(5)]
    for ref in refs:
        store.delete("a", ref=ref)
    assert sum(spares(store).values()) == 3 * MEDIUM
    store.gc()
    assert sum(spares(store).values()) == 3 * MEDIUM  # some are kept for a while
    opened(spare_bytes=3 * MEDIUM, capacity=1 << 20)
    with pytest.raises(StoreFull):
        put(store, 9, 2 * MEDIUM + 1)
    assert not spares(store)


def test_what_is_read_still_and_what_is_oldest_makes_room_for_what_comes(opened: Open) -> None:
    store = opened(spare_bytes=2 * MEDIUM)
    oldest, read_still, newest = (put(store, value, MEDIUM) for value in range(3))
    inodes = {path.name: path.stat().st_ino for path in (store.path / "objects").rglob("*") if path.is_file()}
    with store.open("a", read_still) as reading:
        store.delete("a", ref=oldest)
        store.delete("a", ref=read_still)
        store.delete("a", ref=newest)
        assert set(spares(store)) == {inodes[oldest], inodes[newest]}
        assert bytes(reading.data) == b"\1" * MEDIUM
    last = put(store, 4, 2 * MEDIUM)  # in the file of one of them
    other = put(store, 5, MEDIUM)
    for ref in (last, other):
        store.delete("a", ref=ref)
    assert sum(spares(store).values()) == MEDIUM


def test_there_are_none_where_none_are_wanted(opened: Open) -> None:
    store = opened(spare_bytes=0)
    store.delete("a", ref=put(store, 1))
    assert not spares(store)
    assert not files(store)
