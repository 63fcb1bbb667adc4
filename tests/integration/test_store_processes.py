"""Several processes on one store: at once, killed at any moment, forked. This file is also what they run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kaasq import errors
from kaasq.model import content_hash
from kaasq_bench.children import tied
from kaasq_storage import BufferStore, Outcome, open_store
from kaasq_storage.reading import SNAPSHOT_S

PROCESSES, ROUNDS, KILLS = 5, 500, 30
CRASH_POINTS = ("before blobs", "before meta", "after meta")


def start(role: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tied(sys.executable, __file__, role, *map(str, args)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    with open_store(tmp_path / "store", sync=False) as opened:
        yield opened


def check(store: BufferStore, tenants: list[str]) -> None:
    """Nothing half there, and after a collection the totals are right and nothing is left over."""
    store.gc()
    nbytes = objects = names = 0
    for tenant in tenants:
        for each in store.objects(tenant):
            with store.open(tenant, each.ref) as reading:
                assert content_hash(bytes(reading.data)) == each.ref
            nbytes += each.nbytes
            objects += 1
        for named in store.names(tenant):
            assert store.lookup(tenant, ref=named.object.ref).expires is None
            names += 1
    usage = store.usage()
    replies = usage.used - nbytes
    assert (usage.objects, usage.names) == (objects, names)
    assert replies >= 0
    # Nothing is left over. A collection may leave to the next one what a killed process was holding just then.
    again = [store.gc() for _ in range(3)]
    assert all(each.objects == each.outcomes == 0 for each in again)
    assert (again[-1].orphans, again[-1].stale_readers) == (0, 0)
    assert list((store.path / "staging").iterdir()) == []


def test_processes_share_a_store(store: BufferStore) -> None:
    workers = [start("work", store.path, i) for i in range(PROCESSES)]
    for each in workers:
        output, _ = each.communicate(timeout=60)
        assert each.returncode == 0
        assert output.strip() == "done"
    assert store.usage().outcomes == PROCESSES * ROUNDS // 5
    # All counted the versions of one name together.
    assert [each.version for each in store.names("shared", "counter")] == [PROCESSES * ROUNDS // 10]
    check(store, ["shared", *(f"t{i}" for i in range(PROCESSES))])


def test_a_writer_killed_at_any_moment_leaves_a_consistent_store(store: BufferStore, tmp_path: Path) -> None:
    log = tmp_path / "acknowledged"
    log.touch()
    # One process that forks the victims before any of them opens the store: 30 interpreters would take long.
    nursery = start("nursery", store.path, log)
    assert nursery.stdin is not None
    acknowledged: list[str] = []
    for _ in range(KILLS):
        nursery.stdin.write("next\n")
        nursery.stdin.flush()
        assert said(nursery) == "killed"
        acknowledged = [json.loads(line) for line in log.read_text().splitlines()]
        for request_id in acknowledged[-20:]:
            found = store.outcome("a", request_id)
            assert found is not None
            for ref in json.loads(found.reply[:-9000]):
                with store.open("a", ref) as reading:
                    assert content_hash(bytes(reading.data)) == ref
        check(store, ["a"])
    nursery.communicate(timeout=20)
    assert nursery.returncode == 0
    assert len(acknowledged) > KILLS
    assert store.usage().outcomes >= len(acknowledged)


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_crash_between_the_steps_of_a_commit_loses_and_leaks_nothing(store: BufferStore, point: str) -> None:
    old = [store.put("a", bytes([7]) * nbytes, name=f"old{nbytes}")[0].ref for nbytes in (100, 100_000)]
    victim = start("crash", store.path, point)
    victim.wait(20)
    assert victim.returncode == 9
    committed = point == "after meta"
    assert (store.outcome("a", "id") is not None) == committed
    assert {each.name for each in store.names("a")} == (
        {"new100", "new100000"} if committed else {"old100", "old100000"}
    )
    for ref in old:
        if committed:
            with pytest.raises(errors.NameNotFound):
                store.open("a", ref)
        else:
            with store.open("a", ref) as reading:
                assert content_hash(bytes(reading.data)) == ref
    collected = store.gc()
    # Small value, file and long reply: brought without a record, or without a record any more. The file that was
    # staged when the process died is left over as well.
    assert collected.orphans == {"before blobs": 1, "before meta": 3, "after meta": 2}[point]
    check(store, ["a"])


def test_a_killed_reader_is_cleaned_up(store: BufferStore) -> None:
    ref = store.put("a", b"data" * 1000)[0].ref
    reader = start("hold", store.path, ref)
    assert said(reader) == "holding"
    assert store.gc().stale_readers == 0
    reader.kill()
    reader.wait(10)
    assert store.gc().stale_readers >= 1
    assert store.gc().stale_readers == 0


def test_what_a_killed_process_was_staging_gives_its_room_back(store: BufferStore) -> None:
    stager = start("stage", store.path, 1_000_000)
    assert said(stager) == "staged"
    assert store.gc().orphans == 0
    assert store.usage().used == 1_000_000
    stager.kill()
    stager.wait(10)
    assert store.usage().used == 1_000_000
    with open_store(store.path, sync=False, capacity=1_500_000) as full:
        full.put("a", bytes(1_000_000))  # finds the dead one's reservation by itself
    assert store.usage().used == 1_000_000
    check(store, ["a"])


def test_a_forked_child_is_told_to_open_stores_after_forking(tmp_path: Path) -> None:
    forker = start("fork", tmp_path / "store")
    output, _ = forker.communicate(timeout=20)
    assert forker.returncode == 0
    assert output.splitlines() == ["told", "told", "intact"]


def test_a_store_with_all_reader_slots_taken_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with open_store(path, max_readers=3, sync=False) as store:
        ref = store.put("a", b"data")[0].ref
        holders = [start("hold", path, ref) for _ in range(2)]
        assert [said(each) for each in holders] == ["holding"] * 2
        late = start("hold", path, ref)
        assert "reader slot" in said(late)
        held = store.open("a", ref)
        time.sleep(2 * SNAPSHOT_S)  # from here on another reading takes another slot
        store.put("a", b"more", name="n")
        with pytest.raises(errors.StoreUnavailable, match="reader slot"):
            store.open("a", store.lookup("a", name="n").ref)
        for each in holders:
            each.kill()
            each.wait(10)
        # The dead ones' slots are found without a collection.
        with store.open("a", store.lookup("a", name="n").ref) as reading, held:
            assert (bytes(reading.data), bytes(held.data)) == (b"more", b"data")
        late.wait(10)


# ------------------------------------------------------------------------------------------------- in other processes


def work(path: str, number: str) -> None:
    me, rng = f"t{number}", random.Random(number)
    live: dict[str, bytes] = {}
    with open_store(path, sync=False, inline_bytes=2000) as store:
        for i in range(ROUNDS):
            data = rng.randbytes(rng.choice([10, 500, 3000, 20_000]))
            name = f"n{rng.randrange(20)}"
            if i % 3 == 0 and name in live:
                store.delete(me, name=name)
                del live[name]
            store.put(me, data, name=name)
            live[name] = data
            name = rng.choice(list(live))
            with store.open(me, store.lookup(me, name=name).ref) as reading:
                assert reading.data == live[name]
            shared = str(i % 50).encode() * 1000
            with store.open("shared", store.put("shared", shared)[0].ref) as reading:
                assert reading.data == shared
            if i % 5 == 0:
                with store.transaction() as txn:
                    assert txn.record(me, str(i), Outcome(body="b", reply=data))
                found = store.outcome(me, str(i))
                assert found is not None
                assert found.reply == data
            if i % 10 == 0:
                store.put("shared", data, name="counter")
            if i % 100 == 99:
                collected = store.gc()
                assert collected.orphans == 0, collected  # nothing of what the others are doing is taken for a leftover
    print("done")


def write_until_killed(path: str, log: str) -> None:
    rng = random.Random(os.getpid())
    acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND)
    with open_store(path, sync=False) as store:
        while True:
            request_id = f"{os.getpid()}-{rng.getrandbits(64):x}"
            staged = []
            for nbytes in (100, 20_000, 150_000):
                staged.append(store.stage("a", nbytes))
                staged[-1].data[:] = rng.randbytes(nbytes)
                staged[-1].seal()
            with store.transaction() as txn:
                txn.publish(staged[0], name=f"n{rng.randrange(3)}")
                txn.publish(staged[1])
                txn.publish(staged[2], name=f"f{rng.randrange(3)}")
                reply = json.dumps([each.seal() for each in staged]).encode() + bytes(9000)
                txn.record("a", request_id, Outcome(body="b", reply=reply))
            os.write(acknowledged, json.dumps(request_id).encode() + b"\n")
            extra, _ = store.put("a", rng.randbytes(rng.choice([50, 80_000])))
            store.delete("a", ref=extra.ref)


def nursery(path: str, log: str) -> None:
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            write_until_killed(path, log)
        time.sleep(random.uniform(0.02, 0.12))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print("killed", flush=True)


def crash(path: str, point: str) -> None:
    from kaasq_storage.environment import Environment
    from kaasq_storage.transaction import LmdbTransaction

    store = open_store(path, sync=False)
    staged = []
    for nbytes in (100, 100_000):
        staged.append(store.stage("a", nbytes))
        staged[-1].data[:] = bytes([9]) * nbytes
        staged[-1].seal()
    begin, entered = Environment.begin_blobs, [0]

    def begin_blobs(env: Environment) -> object:
        entered[0] += 1
        if (entered[0], point) in {(1, "before blobs"), (2, "before meta")}:
            os._exit(9)
        return begin(env)

    def remove(*args: object) -> None:
        os._exit(9)

    Environment.begin_blobs = begin_blobs  # type: ignore[method-assign,assignment]
    if point == "after meta":
        LmdbTransaction._remove = remove  # type: ignore[method-assign,assignment]
    with store.transaction() as txn:
        for each in staged:
            txn.publish(each, name=f"new{each.nbytes}")
            txn.delete("a", name=f"old{each.nbytes}")
        txn.record("a", "id", Outcome(body="b", reply=bytes(9000)))


def hold(path: str, ref: str) -> None:
    try:
        store = open_store(path, sync=False, max_readers=3)
    except errors.StoreUnavailable as error:
        print(error.message)
        return
    with store.open("a", ref) as reading:
        print("holding", flush=True)
        sys.stdin.read()
        del reading


def stage(path: str, nbytes: str) -> None:
    staged = open_store(path, sync=False).stage("a", int(nbytes))
    print("staged", flush=True)
    sys.stdin.read()
    staged.discard()


def fork(path: str) -> None:
    store = open_store(path, sync=False)
    refs = [store.put("a", bytes([1]) * nbytes)[0].ref for nbytes in (100, 100_000)]
    readings = [store.open("a", ref) for ref in refs]
    staged = store.stage("a", 100_000)
    pid = os.fork()
    if not pid:
        calls: list[Callable[[], object]] = [lambda: store.lookup("a", ref=refs[0]), lambda: open_store(path)]
        for call in calls:
            try:
                call()
            except errors.StoreUnavailable as error:
                print("told" if "spawn" in error.message else error)
        readings.clear()  # must not free the parent's reader slot, nor remove its staged file
        del staged
        store.close()
        sys.exit()
    os.waitpid(pid, 0)
    for ref in refs:
        store.delete("a", ref=ref)
    for i in range(50):
        store.put("a", np.random.default_rng(i).bytes(100))
    assert all(set(each.data) == {1} for each in readings)
    staged.data[:] = bytes(100_000)
    with store.transaction() as txn:
        txn.publish(staged)
    print("intact")


ROLES: dict[str, Callable[..., None]] = {
    "work": work,
    "nursery": nursery,
    "crash": crash,
    "hold": hold,
    "stage": stage,
    "fork": fork,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
