"""The buffer store in this process: each figure beside the floor that the system under it sets."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from kaasq.units import size as in_words
from kaasq_bench.figures import Row, alone, compare
from kaasq_bench.peers.bare_lmdb import environment
from kaasq_bench.rounds import interleaved, us_per_call
from kaasq_bench.setting import Setting
from kaasq_bench.suite import Case
from kaasq_storage import LmdbStore, Outcome, open_store
from kaasq_storage.environment import INLINE_BYTES

REPLY_BYTES = 600
TENANT = "bench"
MEMCPY = "memcpy"
Call = Callable[[], object]


def commits_case(sync: bool, setting: Setting) -> Iterator[Row]:
    """Outcomes, one and 64 in a transaction, beside the same bytes put into a bare LMDB environment."""
    reply, serial = os.urandom(REPLY_BYTES), iter(range(10**9))
    with _store(setting, sync) as (store, place), environment(place / "bare", sync=sync) as env:
        for count in (1, 64):

            def record(count: int = count) -> None:
                with store.transaction() as transaction:
                    for _ in range(count):
                        transaction.record(TENANT, f"{next(serial):032}", Outcome(body="b" * 64, reply=reply))

            def bare(count: int = count) -> None:
                with env.begin(write=True) as transaction:
                    for _ in range(count):
                        transaction.put(f"{next(serial):064}".encode(), reply)

            what = f"commit {count} outcome{'s' * (count > 1)}, {_word(sync)}"
            yield from _beside(setting, what, record, "bare LMDB", bare)


def objects_case(sync: bool, setting: Setting) -> Iterator[Row]:
    """Objects put by a client and written by a worker, beside the same bytes written plainly; then read."""
    for nbytes in setting.pick((4 << 10, 1 << 20), (4 << 10, 64 << 10, 1 << 20, 64 << 20)):
        with _store(setting, sync) as (store, place):
            yield from _writing(setting, store, place, nbytes, sync=sync)
            if not sync:
                yield from _reading(setting, store, nbytes)


def lookups_case(setting: Setting) -> Iterator[Row]:
    """What every request asks, beside one get of the same environment."""
    with _store(setting, sync=False) as (store, place), environment(place / "bare", sync=True) as env:
        ref = store.put(TENANT, b"data" * 100, name="name", dtype="float32", shape=(100,))[0].ref
        with store.transaction() as transaction:
            transaction.record(TENANT, "there", Outcome(body="b", reply=bytes(REPLY_BYTES)))
        with env.begin(write=True) as writing:
            writing.put(b"key", bytes(100))
        with env.begin() as bare:
            asked = {
                "lookup by reference": lambda: store.lookup(TENANT, ref=ref),
                "lookup by name": lambda: store.lookup(TENANT, name="name"),
                "outcome, none": lambda: store.outcome(TENANT, "nowhere"),
                "outcome, there": lambda: store.outcome(TENANT, "there"),
            }
            for what, call in asked.items():
                yield from _beside(setting, what, call, "LMDB get", lambda: bare.get(b"key"), batch=100)


def collection_case(setting: Setting) -> Iterator[Row]:
    """A collection that finds nothing to do, in a store with many objects."""
    count = setting.pick(5_000, 50_000)
    with _store(setting, sync=False) as (store, _):
        for start in range(0, count, 1000):
            with store.transaction() as transaction:
                for i in range(start, start + 1000):
                    staged = store.stage(TENANT, 8)
                    staged.data[:] = i.to_bytes(8, "little")
                    transaction.publish(staged)
        times = [us_per_call(store.gc, 0, at_least=1) for _ in range(setting.rounds)]
    yield alone(f"collection with {count} objects", "us", times)


def _writing(setting: Setting, store: LmdbStore, place: Path, nbytes: int, *, sync: bool) -> Iterator[Row]:
    data = bytearray(os.urandom(nbytes))
    source = np.frombuffer(data, np.uint8)
    serial = iter(range(10**9))

    def vary() -> None:
        source[:4] = np.frombuffer(next(serial).to_bytes(4, "little"), np.uint8)

    def put() -> None:
        vary()
        store.delete(TENANT, ref=store.put(TENANT, data)[0].ref)

    def stage() -> None:
        vary()
        staged = store.stage(TENANT, nbytes)
        np.frombuffer(staged.data, np.uint8)[:] = source
        staged.seal()
        with store.transaction() as transaction:
            ref = transaction.publish(staged)[0].ref
        store.delete(TENANT, ref=ref)

    with _plain(place, data, sync=sync) as (floor, write):
        for what, call in (("put and delete", put), ("stage, publish and delete", stage)):
            yield from _beside(setting, f"{what} {in_words(nbytes)}, {_word(sync)}", call, floor, write)


def _reading(setting: Setting, store: LmdbStore, nbytes: int) -> Iterator[Row]:
    data = os.urandom(nbytes)
    source, target = np.frombuffer(data, np.uint8), np.empty(nbytes, np.uint8)
    ref = store.put(TENANT, data)[0].ref
    copy = partial(np.copyto, target, source)

    def read() -> None:
        with store.open(TENANT, ref) as reading:
            target.data[:] = reading.data

    yield from _beside(setting, f"put {in_words(nbytes)} that is there", lambda: store.put(TENANT, data), MEMCPY, copy)
    yield from _beside(setting, f"open and copy {in_words(nbytes)}", read, MEMCPY, copy)


def _beside(setting: Setting, what: str, call: Call, floor: str, bare: Call, *, batch: int = 1) -> Iterator[Row]:
    budget = setting.seconds / 5

    def timed(each: Call) -> Callable[[], float]:
        return lambda: us_per_call(each, budget, batch=batch)

    given = interleaved(setting.rounds, {"kaasq": timed(call), floor: timed(bare)}, warm_up=False)
    yield compare(what, "us", given["kaasq"], floor, given[floor])


@contextmanager
def _store(setting: Setting, sync: bool) -> Iterator[tuple[LmdbStore, Path]]:
    place = Path(tempfile.mkdtemp(prefix="store-", dir=setting.disk))
    try:
        with open_store(place / "store", sync=sync) as store:
            yield store, place
    finally:
        shutil.rmtree(place)


@contextmanager
def _plain(folder: Path, data: bytearray, *, sync: bool) -> Iterator[tuple[str, Call]]:
    """Writing the bytes and removing them with nothing around it: a value of a bare LMDB environment, or a file."""
    path = folder / "plain"

    def write_file() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.posix_fallocate(fd, 0, len(data))
        os.write(fd, data)
        if sync:
            os.fsync(fd)
        os.close(fd)
        path.unlink()

    with environment(folder / "bare", sync=sync, zero_new_pages=False) as env:

        def write_value() -> None:
            with env.begin(write=True) as transaction:
                transaction.put(b"key", data)
            with env.begin(write=True) as transaction:
                transaction.delete(b"key")

        yield ("file", write_file) if len(data) > INLINE_BYTES else ("bare LMDB", write_value)


def _word(sync: bool) -> str:
    return "synced" if sync else "unsynced"


CASES = (
    Case("commits, synced", partial(commits_case, True)),
    Case("commits, unsynced", partial(commits_case, False)),
    Case("objects, synced", partial(objects_case, True)),
    Case("objects, unsynced", partial(objects_case, False)),
    Case("lookups", lookups_case),
    Case("collection", collection_case),
)
