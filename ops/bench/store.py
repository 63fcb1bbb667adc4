"""How fast the buffer store is, each figure beside the floor that the system under it sets.

    python ops/bench/store.py [--folder DIR] [--sizes 4K,1M,256M] [--json]

Floors: for commits the same bytes put into a bare LMDB environment, for large objects a plain file written (and
synced), for reading a memcpy. Times are medians in microseconds; run it on the disk that the store will use.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import lmdb
import msgspec
import numpy as np

from kaasq_storage import LmdbStore, Outcome, open_store
from kaasq_storage.environment import INLINE_BYTES

REPLY_BYTES = 600
BUDGET_S, ROUNDS = 2.0, 5  # per figure


class Figure(msgspec.Struct, frozen=True):
    """One line of the table. ``floor`` None: nothing sensible to compare with."""

    what: str
    us: float
    floor: str = ""
    floor_us: float | None = None
    nbytes: int = 0


def median_us(
    call: Callable[[int], object],
    *,
    first: int = 0,
    at_least: int = 3,
    at_most: int = 5000,
    undo: Callable[[int], object] | None = None,
    budget_s: float = BUDGET_S / 2,
) -> float:
    """Median time of call(i), i rising from ``first``; ``undo(i)`` runs after each, untimed."""
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < at_least or (len(times) < at_most and time.perf_counter() < end):
        i = first + len(times)
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
        if undo is not None:
            undo(i)
    return statistics.median(times) * 1e6


def against(
    call: Callable[[int], object], floor: Callable[[int], object], undo: Callable[[int], object] | None = None
) -> tuple[float, float]:
    """Medians of a call and of its floor, taken in turn: a shared disk's moods hit both."""
    ours, bare = [], []
    for i in range(ROUNDS):
        first = i * 10_000
        ours.append(median_us(call, first=first, at_most=300, undo=undo, budget_s=BUDGET_S / ROUNDS))
        bare.append(median_us(floor, first=first, at_most=300, budget_s=BUDGET_S / ROUNDS))
    return statistics.median(ours), statistics.median(bare)


def per_call_us(call: Callable[[], object], calls: int = 1000) -> float:
    """For calls shorter than the clock's own cost: median over rounds of many."""

    def several(_: int) -> None:
        for _ in range(calls):
            call()

    return median_us(several, at_most=20) / calls


def commits(store: LmdbStore, folder: Path, sync: bool) -> list[Figure]:
    """Outcomes, 1 and 64 to a transaction."""
    figures = []
    reply, serial = os.urandom(REPLY_BYTES), iter(range(10**9))
    with lmdb.open(str(folder / "bare"), map_size=1 << 33, sync=sync) as env:
        for count in (1, 64):

            def record(_: int, count: int = count) -> None:
                with store.transaction() as txn:
                    for _ in range(count):
                        txn.record("bench", f"{next(serial):032}", Outcome(body="b" * 64, reply=reply))

            def bare(_: int, count: int = count) -> None:
                with env.begin(write=True) as txn:
                    for _ in range(count):
                        txn.put(f"{next(serial):064}".encode(), reply)

            label = f"commit {count} outcome{'s' * (count > 1)}, {'synced' if sync else 'unsynced'}"
            ours, floor = against(record, bare)
            figures.append(Figure(label, ours, "bare LMDB", floor))
    return figures


def objects(store: LmdbStore, folder: Path, sync: bool, nbytes: int) -> list[Figure]:
    """Put, stage and publish, open; of one size."""
    data = bytearray(os.urandom(nbytes))
    source = np.frombuffer(data, np.uint8)
    target = np.empty_like(source)
    word = "synced" if sync else "unsynced"
    refs: list[str] = []

    def vary(i: int) -> None:
        data[:8] = i.to_bytes(8, "little")

    def put(i: int) -> None:
        vary(i)
        refs.append(store.put("bench", data)[0].ref)

    def stage(i: int) -> None:
        vary(i + 10**6)
        staged = store.stage("bench", nbytes)
        np.frombuffer(staged.data, np.uint8)[:] = source
        staged.seal()
        with store.transaction() as txn:
            refs.append(txn.publish(staged)[0].ref)

    def remove(_: int) -> None:
        store.delete("bench", ref=refs.pop())

    figures = []
    with _floor(folder, data, sync) as (floor_name, write):
        for what, call in (("put", put), ("stage and publish", stage)):
            ours, floor = against(call, write, remove)
            figures.append(Figure(f"{what}, {word}", ours, floor_name, floor, nbytes))
    if sync:
        return figures
    ref = store.put("bench", data)[0].ref
    again = median_us(lambda _: store.put("bench", data), at_most=100)
    figures.append(Figure("put what is there", again, "memcpy", median_us(lambda _: np.copyto(target, source)), nbytes))

    def look() -> None:
        with store.open("bench", ref):
            pass

    def copy(_: int) -> None:
        with store.open("bench", ref) as reading:
            target.data[:] = reading.data

    copying = median_us(copy, at_most=200)
    figures.append(Figure("open", per_call_us(look, 200), nbytes=nbytes))
    figures.append(
        Figure("open and copy", copying, "memcpy", median_us(lambda _: np.copyto(target, source), at_most=200), nbytes)
    )
    return figures


def lookups(store: LmdbStore) -> list[Figure]:
    """What every request asks."""
    ref = store.put("bench", b"data" * 100, name="name", dtype="float32", shape=(100,))[0].ref
    with store.transaction() as txn:
        txn.record("bench", "there", Outcome(body="b", reply=bytes(REPLY_BYTES)))
    with store._env.read() as bare:  # the floor is one get of the same environment
        floor = per_call_us(lambda: bare.get(b"o"))
    return [
        Figure("lookup by reference", per_call_us(lambda: store.lookup("bench", ref=ref)), "LMDB get", floor),
        Figure("lookup by name", per_call_us(lambda: store.lookup("bench", name="name")), "LMDB get", floor),
        Figure("outcome, none", per_call_us(lambda: store.outcome("bench", "nowhere")), "LMDB get", floor),
        Figure("outcome, there", per_call_us(lambda: store.outcome("bench", "there")), "LMDB get", floor),
    ]


def collections(store: LmdbStore, count: int = 50_000) -> list[Figure]:
    """A collection that finds nothing to do, in a store with many objects."""
    for start in range(0, count, 1000):
        with store.transaction() as txn:
            for i in range(start, start + 1000):
                staged = store.stage("many", 8)
                staged.data[:] = i.to_bytes(8, "little")
                txn.publish(staged)
    return [Figure(f"collection with {count} objects", median_us(lambda _: store.gc(), at_most=5))]


@contextmanager
def _floor(folder: Path, data: bytearray, sync: bool) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Writing the bytes with nothing around it: a value of a bare LMDB environment, or a file."""
    path = folder / "plain"
    env = lmdb.open(str(folder / "bare"), map_size=1 << 33, sync=sync, meminit=False)

    def write_value(i: int) -> None:
        with env.begin(write=True) as txn:
            txn.put(b"%064d" % (i % 100), data)

    def write_file(_: int) -> None:
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.posix_fallocate(fd, 0, len(data))
        os.write(fd, data)
        if sync:
            os.fsync(fd)
        os.close(fd)

    with env:
        yield ("file written", write_file) if len(data) > INLINE_BYTES else ("LMDB written", write_value)


def parse_size(text: str) -> int:
    """4K, 1M, 2G or plain bytes."""
    units = {"K": 10, "M": 20, "G": 30}
    return int(text[:-1]) << units[text[-1].upper()] if text[-1].upper() in units else int(text)


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.option("--folder", type=click.Path(path_type=Path), help="Where the temporary stores go. [the system's]")
@click.option("--sizes", default="4K,64K,1M,64M,256M", show_default=True, help="Object sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(folder: Path | None, sizes: str, as_json: bool) -> None:
    """Measure and print."""
    figures: list[Figure] = []
    for sync in (True, False):
        place = Path(tempfile.mkdtemp(prefix="kaasq-bench-", dir=folder))
        try:
            with open_store(place / "store", sync=sync) as store:
                figures += commits(store, place, sync)
                if not sync:
                    figures += lookups(store)
                for size in sizes.split(","):
                    figures += objects(store, place, sync, parse_size(size))
                if not sync:
                    figures += collections(store)
        finally:
            shutil.rmtree(place)
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(each) for each in figures], indent=1))
        return
    for each in figures:
        size = f"{each.nbytes >> 10} KiB" if each.nbytes else ""
        rate = f"{each.nbytes / each.us / 1e3:6.2f} GB/s" if each.nbytes else ""
        floor = f"{each.floor_us:12.1f} us  {each.us / each.floor_us:6.2f}x {each.floor}" if each.floor_us else ""
        click.echo(f"{each.what:<32}{size:>12}{each.us:>13.1f} us {rate:>12}{floor}")


if __name__ == "__main__":
    main()
