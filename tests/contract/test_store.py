"""What every BufferStore does, whatever lies under it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq import errors
from kaasq.model import content_hash
from kaasq_storage import BufferStore, Outcome, Wanted, open_store

SMALL, MEDIUM, LARGE = 100, 100_000, 33 << 20  # in LMDB; a file written from memory; a file mapped for writing
SIZES = pytest.mark.parametrize("nbytes", [1, SMALL, 64 << 10, (64 << 10) + 1, MEDIUM, LARGE])
GRACE_S = 600

Open = Callable[..., BufferStore]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["lmdb"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the store of this test, as often as it likes."""
    stores: list[BufferStore] = []

    def make(**options: Any) -> BufferStore:
        store = open_store(tmp_path / request.param, **{"sync": False, "clock": clock} | options)
        stores.append(store)
        return store

    yield make
    for each in stores:
        each.close()


@pytest.fixture
def store(opened: Open) -> BufferStore:
    return opened()


def some(nbytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng([seed, nbytes]).bytes(nbytes)


def read(store: BufferStore, tenant: str, ref: str) -> bytes:
    with store.open(tenant, ref) as reading:
        return bytes(reading.data)


def missing(store: BufferStore, tenant: str, ref: str) -> bool:
    """Whether neither lookup nor open finds it."""
    with pytest.raises(errors.NameNotFound):
        store.open(tenant, ref)
    with pytest.raises(errors.NameNotFound):
        store.lookup(tenant, ref=ref)
    return True


def outcome(reply: bytes = b"reply", body: str = "body", expires: float = 2e9) -> Outcome:
    return Outcome(body=body, reply=reply, created=1.0, expires=expires)


# ------------------------------------------------------------------------------------------------------------ objects


@SIZES
def test_what_is_put_is_read_back_and_addressed_by_its_content_hash(store: BufferStore, nbytes: int) -> None:
    data = some(nbytes)
    entry, version = store.put("a", data, dtype="uint8", shape=(nbytes,))
    assert (entry.ref, entry.nbytes, version) == (content_hash(data), nbytes, None)
    assert store.lookup("a", ref=entry.ref) == entry
    assert read(store, "a", entry.ref) == data


@SIZES
def test_what_is_staged_is_read_back_once_published(store: BufferStore, nbytes: int) -> None:
    data = some(nbytes)
    staged = store.stage("a", nbytes)
    staged.data[:] = data
    ref = staged.seal()
    assert ref == content_hash(data) == staged.seal()
    assert staged.data.readonly
    assert bytes(staged.data) == data
    assert missing(store, "a", ref)
    with store.transaction() as txn:
        entry, _ = txn.publish(staged)
    assert entry.ref == ref
    staged.discard()
    assert read(store, "a", ref) == data


def test_a_synced_store_does_the_same(opened: Open) -> None:
    store = opened(sync=True)
    for nbytes in (SMALL, MEDIUM, LARGE):
        ref = store.put("a", some(nbytes), name="n")[0].ref
        assert read(store, "a", ref) == some(nbytes)
    with store.transaction() as txn:
        assert txn.record("a", "id", outcome())
    store.delete("a", name="n")
    assert store.gc().orphans == 0


def test_any_contiguous_buffer_can_be_put(store: BufferStore) -> None:
    array = np.arange(24, dtype="complex64").reshape(2, 3, 4)
    for given in (array.data, bytearray(array.tobytes()), memoryview(array.tobytes()), array.T.data):
        entry, _ = store.put("a", given)
        assert entry.nbytes == array.nbytes
    assert read(store, "a", content_hash(array.tobytes())) == array.tobytes()
    assert read(store, "a", content_hash(array.T.tobytes())) == array.T.tobytes()


def test_an_empty_object_is_refused(store: BufferStore) -> None:
    with pytest.raises(errors.BadRequest):
        store.put("a", b"")
    with pytest.raises(errors.BadRequest):
        store.stage("a", 0)
    with pytest.raises(errors.BadRequest):
        store.put("a", b"x", ttl_s=0)


@SIZES
def test_equal_contents_are_stored_once_per_tenant(store: BufferStore, nbytes: int) -> None:
    data = some(nbytes)
    for _ in range(3):
        store.put("a", data)
        store.put("a", data, name="n")
    assert (store.usage().objects, store.usage().used) == (1, nbytes)
    store.put("b", data)
    assert (store.usage().objects, store.usage().used) == (2, 2 * nbytes)


def test_another_tenants_object_is_not_found(store: BufferStore) -> None:
    for nbytes in (SMALL, MEDIUM):
        ref = store.put("a", some(nbytes), name="n")[0].ref
        assert missing(store, "b", ref)
        with pytest.raises(errors.NameNotFound):
            store.delete("b", ref=ref)
    with pytest.raises(errors.NameNotFound):
        store.lookup("b", name="n")
    assert list(store.names("b")) == [] == list(store.objects("b"))


@pytest.mark.parametrize(
    "ref", ["", "x" * 64, "0" * 63, "0" * 65, "../" * 21 + "0", "A" * 64, "0" * 64, " " + "0" * 63]
)
def test_a_reference_that_is_none_is_not_found(store: BufferStore, ref: str) -> None:
    assert missing(store, "a", ref)


@pytest.mark.parametrize("tenant", ["", ".", "..", "../b", "a/b", "/etc", "A", "a b", "a\0b", "ä", "a" * 65, "a\n"])
def test_a_tenant_that_could_mean_something_else_is_refused(store: BufferStore, tenant: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(tenant, b"x"),
        lambda: store.put(tenant, some(MEDIUM)),
        lambda: store.stage(tenant, 1),
        lambda: store.lookup(tenant, name="n"),
        lambda: store.open(tenant, "0" * 64),
        lambda: store.outcome(tenant, "id"),
        lambda: list(store.names(tenant)),
        lambda: list(store.objects(tenant)),
        lambda: store.delete(tenant, name="n"),
    ]
    for call in calls:
        with pytest.raises(errors.Forbidden):
            call()


def test_objects_lists_each_once(store: BufferStore) -> None:
    refs = {store.put("a", some(10 + i))[0].ref for i in range(700)}
    store.put("ab", b"other")
    assert {each.ref for each in store.objects("a")} == refs
    assert len(list(store.objects("a"))) == 700


# ------------------------------------------------------------------------------------------------------------- names


def test_a_name_points_to_its_newest_object_and_counts_versions(store: BufferStore) -> None:
    assert store.put("a", b"one", name="n")[1] == 1
    assert store.put("a", b"two", name="n")[1] == 2
    assert store.put("a", b"two", name="n")[1] == 3
    assert store.lookup("a", name="n").ref == content_hash(b"two")
    assert store.lookup("a", name="n").expires is None
    assert [(each.name, each.version) for each in store.names("a")] == [("n", 3)]


def test_no_version_of_a_name_ever_means_two_things(store: BufferStore) -> None:
    store.put("a", b"one", name="n")
    store.put("a", b"two", name="n")
    store.delete("a", name="n")
    assert store.put("a", b"three", name="n")[1] == 3


def test_dtype_and_shape_belong_to_the_name(store: BufferStore) -> None:
    store.put("a", bytes(16), name="f", dtype="float32", shape=(2, 2))
    store.put("a", bytes(16), name="i", dtype="int64", shape=(2,))
    store.put("a", bytes(16), name="plain")
    assert (store.lookup("a", name="f").dtype, store.lookup("a", name="f").shape) == ("float32", (2, 2))
    assert (store.lookup("a", name="i").dtype, store.lookup("a", name="i").shape) == ("int64", (2,))
    assert store.lookup("a", name="plain").dtype is None
    assert store.lookup("a", ref=content_hash(bytes(16))).dtype == "int64"


def test_names_come_in_order_and_by_prefix(store: BufferStore) -> None:
    names = ["a", "a/1", "a/10", "a/2", "b", "é", "数" * 100, "x" * 200, "\U0001f600"]
    for each in reversed(names):
        store.put("t", each.encode(), name=each)
    store.put("t2", b"x", name="a/3")
    assert [each.name for each in store.names("t")] == sorted(names)
    assert [each.name for each in store.names("t", "a/")] == ["a/1", "a/10", "a/2"]
    assert [each.name for each in store.names("t", "a/1")] == ["a/1", "a/10"]
    assert list(store.names("t", "zz" * 300)) == []


def test_many_names_come_in_order_while_they_change(store: BufferStore) -> None:
    with store.transaction() as txn:
        for i in range(1000):
            staged = store.stage("t", 1)
            staged.data[0] = i % 256
            txn.publish(staged, name=f"{i:04}")
    seen = []
    for i, each in enumerate(store.names("t")):
        seen.append(each.name)
        if i % 100 == 0:
            store.delete("t", name=each.name)
    assert seen == [f"{i:04}" for i in range(1000)]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "a\nb", "\ud800", "数" * 134])
def test_what_is_no_name_is_refused(store: BufferStore, name: str) -> None:
    with pytest.raises(errors.BadRequest):
        store.put("a", b"x", name=name)
    with pytest.raises(errors.BadRequest):
        store.lookup("a", name=name)
    assert store.usage().objects == 0


def test_several_are_looked_up_at_once_and_what_is_not_there_is_none(store: BufferStore, clock: Clock) -> None:
    first, _ = store.put("a", b"first", dtype="uint8")
    second, _ = store.put("a", b"second", name="n", dtype="uint8")
    other, _ = store.put("b", b"other")
    brief, _ = store.put("a", b"brief", ttl_s=10)
    wanted = [Wanted(name="n"), Wanted(first.ref), Wanted(other.ref), Wanted("no ref"), Wanted(name="m")]
    assert store.lookup_all("a", [*wanted, Wanted(brief.ref)]) == [second, first, None, None, None, brief]
    clock.now += 11
    store.put("a", b"third", name="n")
    found = store.lookup_all("a", [Wanted(name="n"), Wanted(brief.ref)])
    assert found == [store.lookup("a", name="n"), None]
    assert store.lookup_all("a", []) == []
    with pytest.raises(errors.BadRequest):
        store.lookup_all("a", [Wanted()])


def test_lookup_and_delete_want_either_ref_or_name(store: BufferStore) -> None:
    for call in (store.lookup, store.delete):
        with pytest.raises(errors.BadRequest):
            call("a")
        with pytest.raises(errors.BadRequest):
            call("a", ref="0" * 64, name="n")


# ---------------------------------------------------------------------------------------------------- life and death


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
def test_an_unnamed_object_lives_until_it_expires(store: BufferStore, clock: Clock, nbytes: int) -> None:
    entry, _ = store.put("a", some(nbytes), ttl_s=60)
    assert entry.expires == clock.now + 60
    clock.now += 59
    assert store.lookup("a", ref=entry.ref).ref == entry.ref
    clock.now += 2
    assert missing(store, "a", entry.ref)
    assert list(store.objects("a")) == []
    collected = store.gc()
    assert (collected.objects, collected.nbytes, collected.orphans) == (1, nbytes, 0)
    assert (store.usage().objects, store.usage().used) == (0, 0)


def test_the_later_expiry_counts(store: BufferStore, clock: Clock) -> None:
    ref = store.put("a", b"data", ttl_s=100)[0].ref
    assert store.put("a", b"data", ttl_s=10)[0].expires == clock.now + 100
    clock.now += 50
    assert store.put("a", b"data", ttl_s=100)[0].expires == clock.now + 100
    clock.now += 99
    store.gc()
    assert read(store, "a", ref) == b"data"


def test_an_object_lives_at_least_as_long_as_asked(store: BufferStore, clock: Clock) -> None:
    first = store.put("a", b"data", ttl_s=86_400)[0]
    assert first.expires is not None
    assert clock.now + 86_400 <= first.expires <= clock.now + 86_400 + 900
    clock.now += 10 * 86_400
    again = store.put("a", b"data", ttl_s=86_400)[0]
    assert again.expires is not None
    assert again.expires >= clock.now + 86_400
    assert read(store, "a", first.ref) == b"data"


def test_what_has_expired_can_be_stored_again_before_it_is_collected(store: BufferStore, clock: Clock) -> None:
    for nbytes in (SMALL, MEDIUM):
        ref = store.put("a", some(nbytes), ttl_s=1)[0].ref
        clock.now += 2
        store.put("a", some(nbytes), ttl_s=10)
        store.gc()
        assert read(store, "a", ref) == some(nbytes)


def test_a_named_object_does_not_expire(store: BufferStore, clock: Clock) -> None:
    store.put("a", b"data", name="n", ttl_s=1)
    clock.now += 1e8
    store.gc()
    assert store.lookup("a", name="n").nbytes == 4


def test_when_a_name_moves_on_the_object_stays_for_a_grace(store: BufferStore, clock: Clock) -> None:
    old = store.put("a", b"old", name="n")[0].ref
    store.put("a", b"new", name="n")
    clock.now += GRACE_S - 1
    store.gc()
    assert read(store, "a", old) == b"old"
    assert store.lookup("a", ref=old).expires is not None
    clock.now += 2
    assert missing(store, "a", old)
    assert store.gc().objects == 1


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
def test_deleting_the_last_name_removes_the_object_at_once(store: BufferStore, nbytes: int) -> None:
    ref = store.put("a", some(nbytes), name="n")[0].ref
    store.put("a", some(nbytes), name="m")
    store.delete("a", name="n")
    assert read(store, "a", ref) == some(nbytes)
    store.delete("a", name="m")
    assert missing(store, "a", ref)
    assert (store.usage().objects, store.usage().names, store.usage().used) == (0, 0, 0)
    with pytest.raises(errors.NameNotFound):
        store.delete("a", name="m")


def test_deleting_a_name_leaves_an_object_that_was_also_put_without_one(store: BufferStore, clock: Clock) -> None:
    ref = store.put("a", b"data", ttl_s=60)[0].ref
    store.put("a", b"data", name="n")
    store.delete("a", name="n")
    assert store.lookup("a", ref=ref).expires == clock.now + 60
    clock.now += 61
    assert store.gc().objects == 1


def test_deleting_by_reference_is_for_unnamed_objects(store: BufferStore) -> None:
    ref = store.put("a", b"data", name="n")[0].ref
    with pytest.raises(errors.BadRequest, match="'n'"):
        store.delete("a", ref=ref)
    free = store.put("a", b"free")[0].ref
    store.delete("a", ref=free)
    assert missing(store, "a", free)
    with pytest.raises(errors.NameNotFound):
        store.delete("a", ref=free)


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
def test_a_view_is_read_only_and_ends_with_its_block(store: BufferStore, nbytes: int) -> None:
    ref = store.put("a", some(nbytes))[0].ref
    with store.open("a", ref) as reading:
        view = reading.data
        assert view.readonly
        assert view.nbytes == reading.object.nbytes == nbytes
    with pytest.raises(ValueError, match="released"):
        view[0]


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
@pytest.mark.parametrize("part", [slice(None), slice(3, 9)])
def test_an_array_that_outlives_the_block_is_reported_and_stays_valid(
    store: BufferStore, nbytes: int, part: slice
) -> None:
    data = some(nbytes)
    ref = store.put("a", data)[0].ref
    with pytest.raises(BufferError, match="copy"), store.open("a", ref) as reading:
        array = np.frombuffer(reading.data if part == slice(None) else reading.data[part], np.uint8)
    del reading
    store.delete("a", ref=ref)
    for i in range(50):  # what could overwrite the freed pages
        store.put("a", some(nbytes, seed=i + 1))
    assert bytes(array) == data[part]
    del array
    store.gc()


def test_an_error_inside_the_block_is_not_hidden_by_the_guard(store: BufferStore) -> None:
    ref = store.put("a", b"data")[0].ref
    arrays = []

    def fail() -> None:
        with store.open("a", ref) as reading:
            arrays.append(np.frombuffer(reading.data, np.uint8))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert bytes(arrays[0]) == b"data"


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
def test_a_read_in_progress_survives_deletion(store: BufferStore, nbytes: int) -> None:
    data = some(nbytes)
    ref = store.put("a", data, name="n")[0].ref
    with store.open("a", ref) as reading:
        store.delete("a", name="n")
        store.gc()
        for i in range(50):
            store.put("a", some(nbytes, seed=i + 1))
        assert bytes(reading.data) == data
    assert missing(store, "a", ref)


def test_many_readings_at_once(store: BufferStore) -> None:
    refs = [store.put("a", some(50 + i))[0].ref for i in range(1000)]
    readings = [store.open("a", each) for each in refs]
    assert [each.data.nbytes for each in readings] == list(range(50, 1050))
    for each in readings:
        with each:
            pass


def test_closing_the_store_leaves_readings_valid(opened: Open) -> None:
    store = opened()
    refs = [store.put("a", some(nbytes))[0].ref for nbytes in (SMALL, MEDIUM)]
    readings = [store.open("a", each) for each in refs]
    store.close()
    assert [bytes(each.data) for each in readings] == [some(SMALL), some(MEDIUM)]
    for each in readings:
        with each:
            pass
    with pytest.raises(errors.StoreUnavailable, match="closed"):
        store.lookup("a", ref=refs[0])
    store.close()
    assert read(opened(), "a", refs[0]) == some(SMALL)


# ----------------------------------------------------------------------------------------------------------- staging


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM, LARGE])
def test_staged_data_cannot_be_sealed_while_an_array_could_change_it(store: BufferStore, nbytes: int) -> None:
    staged = store.stage("a", nbytes)
    array = np.frombuffer(staged.data[2:50], np.uint8)
    with pytest.raises(BufferError):
        staged.seal()
    del array
    assert staged.seal()
    staged.discard()


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM, LARGE])
def test_what_is_staged_and_not_published_leaves_nothing(store: BufferStore, nbytes: int) -> None:
    staged = store.stage("a", nbytes)
    staged.data[:] = bytes(nbytes)
    ref = staged.seal()
    staged.discard()
    staged.discard()
    again = store.stage("a", nbytes)
    del again  # forgotten rather than discarded
    assert store.usage().used == 0
    assert missing(store, "a", ref)


def test_discarding_after_publishing_does_nothing(store: BufferStore) -> None:
    for nbytes in (SMALL, MEDIUM):
        staged = store.stage("a", nbytes)
        staged.data[:] = some(nbytes)
        with store.transaction() as txn:
            ref = txn.publish(staged)[0].ref
        staged.discard()
        assert read(store, "a", ref) == some(nbytes)


# ------------------------------------------------------------------------------------------------------ transactions


def test_a_transaction_happens_whole_or_not_at_all(store: BufferStore) -> None:
    staged = []
    for nbytes in (SMALL, MEDIUM):
        staged.append(store.stage("a", nbytes))
        staged[-1].data[:] = some(nbytes)
        staged[-1].seal()

    def fail() -> None:
        with store.transaction() as txn:
            for each in staged:
                txn.publish(each, name=f"n{each.nbytes}")
            txn.record("a", "id", outcome())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.outcome("a", "id") is None
    assert list(store.names("a")) == [] == list(store.objects("a"))
    assert all(missing(store, "a", each.seal()) for each in staged)

    with store.transaction() as txn:  # what was staged can be tried again
        for each in staged:
            txn.publish(each, name=f"n{each.nbytes}")
        assert txn.record("a", "id", outcome())
    assert [each.object.nbytes for each in store.names("a")] == [SMALL, MEDIUM]
    assert [read(store, "a", each.seal()) for each in staged] == [some(SMALL), some(MEDIUM)]
    assert store.gc().orphans == 0


def test_a_refused_publish_leaves_the_rest_of_the_transaction_alone(store: BufferStore, clock: Clock) -> None:
    staged = store.stage("a", 4)
    staged.data[:] = b"data"
    with store.transaction() as txn:
        with pytest.raises(errors.BadRequest):
            txn.publish(staged, name="\n")
        with pytest.raises(errors.BadRequest):
            txn.publish(staged, ttl_s=-1)
        txn.record("a", "id", outcome())
    assert store.usage().objects == 0
    assert store.outcome("a", "id") == outcome()


def test_equal_contents_published_twice_in_one_transaction_are_one_object(store: BufferStore) -> None:
    for nbytes in (SMALL, MEDIUM):
        both = [store.stage("a", nbytes), store.stage("a", nbytes)]
        with store.transaction() as txn:
            for i, each in enumerate(both):
                each.data[:] = some(nbytes)
                txn.publish(each, name=str(i))
        assert read(store, "a", both[0].seal()) == some(nbytes)
    assert (store.usage().objects, store.usage().used) == (2, SMALL + MEDIUM)


def test_a_second_transaction_in_the_same_thread_is_an_error_and_no_deadlock(store: BufferStore) -> None:
    with store.transaction(), pytest.raises(RuntimeError, match="already"):
        store.put("a", b"data")


def test_threads_take_turns(store: BufferStore) -> None:
    failures: list[BaseException] = []

    def work(tenant: str) -> None:
        try:
            for i in range(60):
                data = some(20 + i * 50)
                ref = store.put(tenant, data, name=f"{i % 7}")[0].ref
                assert read(store, tenant, ref) == data
                with store.transaction() as txn:
                    assert txn.record(tenant, str(i), outcome(data))
                assert store.outcome(tenant, str(i)) == outcome(data)
        except BaseException as error:  # noqa: BLE001  # carried to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{i % 3}-{i}",)) for i in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert store.usage().names == 6 * 7
    assert store.usage().outcomes == 6 * 60


# ---------------------------------------------------------------------------------------------------------- outcomes


@pytest.mark.parametrize("nbytes", [0, 10, 8 << 10, (8 << 10) + 1, 100_000])
def test_an_outcome_is_recorded_once(store: BufferStore, nbytes: int) -> None:
    first, second = outcome(some(nbytes)), outcome(b"second")
    with store.transaction() as txn:
        assert txn.outcome("a", "id") is None
        assert txn.record("a", "id", first)
        assert txn.outcome("a", "id") == first
        assert not txn.record("a", "id", second)
    with store.transaction() as txn:
        assert not txn.record("a", "id", second)
        assert txn.outcome("a", "id") == first
    assert store.outcome("a", "id") == first
    assert store.outcome("b", "id") is None
    assert store.outcome("a", "id2") is None
    assert (store.usage().outcomes, store.usage().used) == (1, nbytes)
    assert store.gc().orphans == 0


@pytest.mark.parametrize("nbytes", [10, 100_000])
def test_an_outcome_expires(store: BufferStore, clock: Clock, nbytes: int) -> None:
    with store.transaction() as txn:
        txn.record("a", "id", outcome(some(nbytes), expires=clock.now + 10))
        txn.record("a", "gone", outcome(some(nbytes), expires=clock.now + 10))
    clock.now += 11
    assert store.outcome("a", "id") is None
    with store.transaction() as txn:
        assert txn.outcome("a", "id") is None
        assert txn.record("a", "id", outcome(some(nbytes + 1), expires=clock.now + 10))
    assert store.gc().outcomes == 1
    found = store.outcome("a", "id")
    assert found is not None
    assert found.reply == some(nbytes + 1)
    assert (store.usage().outcomes, store.usage().used) == (1, nbytes + 1)
    assert store.gc().orphans == 0


@pytest.mark.parametrize("nbytes", [3, 100_000])
def test_an_outcome_is_kept_for_longer(store: BufferStore, clock: Clock, nbytes: int) -> None:
    outcome = Outcome(body="b", reply=bytes(nbytes), created=clock.now, expires=clock.now + 10)
    with store.transaction() as transaction:
        transaction.record("ada", "r", outcome)
        assert transaction.prolong_outcome("ada", "r", 30)
        assert transaction.prolong_outcome("ada", "r", 20)  # which is no longer
        assert not transaction.prolong_outcome("ada", "other", 30)
    clock.now += 20
    store.gc()
    found = store.outcome("ada", "r")
    assert found is not None
    assert (found.reply, found.expires) == (outcome.reply, clock.now + 10)
    clock.now += 11
    with store.transaction() as transaction:
        assert not transaction.prolong_outcome("ada", "r", 30)
    assert store.gc().outcomes == 1
    assert store.usage().used == 0


def test_an_outcome_without_times_gets_them(store: BufferStore, clock: Clock) -> None:
    with store.transaction() as txn:
        txn.record("a", "id", Outcome(body="b", reply=b"r"))
    found = store.outcome("a", "id")
    assert found == Outcome(body="b", reply=b"r", created=clock.now, expires=clock.now + 86_400)


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_a_request_id_that_no_message_can_have_is_refused(store: BufferStore, request_id: str) -> None:
    with pytest.raises(errors.BadRequest), store.transaction() as txn:
        txn.record("a", request_id, outcome())


def test_the_longest_keys_fit(store: BufferStore) -> None:
    tenant = "t" * 64
    with store.transaction() as txn:
        assert txn.record(tenant, "i" * 128, outcome(expires=2e9))
    assert store.put(tenant, b"x", name="é" * 200)[1] == 1
    assert [each.name for each in store.names(tenant)] == ["é" * 200]


# ---------------------------------------------------------------------------------------------------------- capacity


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
def test_a_full_store_refuses_and_says_what_to_do(opened: Open, nbytes: int) -> None:
    store = opened(capacity=3 * nbytes)
    for i in range(3):
        store.put("a", some(nbytes, seed=i), name=str(i))
    with pytest.raises(errors.StoreFull, match="kaasq rm") as caught:
        store.put("a", some(nbytes, seed=4))
    assert caught.value.detail | {"path": ""} == {
        "needed": nbytes,
        "used": 3 * nbytes,
        "capacity": 3 * nbytes,
        "path": "",
    }
    with pytest.raises(errors.StoreFull):
        store.stage("a", nbytes)
    store.put("a", some(nbytes, seed=1), name="again")  # needs no room
    store.delete("a", name="0")
    store.put("a", some(nbytes, seed=4))
    assert store.usage().used == 3 * nbytes


@pytest.mark.parametrize("nbytes", [SMALL, MEDIUM])
def test_a_full_store_collects_what_has_expired_before_it_refuses(opened: Open, clock: Clock, nbytes: int) -> None:
    store = opened(capacity=3 * nbytes)
    for i in range(3):
        store.put("a", some(nbytes, seed=i), ttl_s=5 if i else 1000)
    clock.now += 10
    store.put("a", some(nbytes, seed=4))
    assert store.usage().objects == 2


def test_room_is_checked_again_when_publishing(opened: Open) -> None:
    store = opened(capacity=250)
    both = [store.stage("a", 100), store.stage("a", 100)]
    store.put("b", bytes(100))
    with store.transaction() as txn:
        both[0].data[:] = bytes(range(100))
        both[1].data[:] = bytes(range(1, 101))
        txn.publish(both[0])
        with pytest.raises(errors.StoreFull):
            txn.publish(both[1])
    assert store.usage().used == 200


def test_what_is_being_staged_counts(opened: Open) -> None:
    store = opened(capacity=2 * MEDIUM + 50)
    staged = store.stage("a", MEDIUM)
    assert store.usage().used == MEDIUM
    store.put("a", some(MEDIUM))
    with pytest.raises(errors.StoreFull):
        store.stage("a", MEDIUM)
    with pytest.raises(errors.StoreFull):
        store.put("a", some(51))
    staged.data[:] = some(MEDIUM, seed=1)
    small = store.stage("a", 50)
    with store.transaction() as txn:
        txn.publish(staged)
        txn.publish(small)
    assert store.usage().used == 2 * MEDIUM + 50


def test_a_full_store_still_records_outcomes(opened: Open) -> None:
    store = opened(capacity=100)
    store.put("a", bytes(100), name="n")
    with store.transaction() as txn:
        assert txn.record("a", "id", outcome(bytes(4096)))
        with pytest.raises(errors.StoreFull):
            txn.record("a", "id2", outcome(bytes(4097)))
    assert store.outcome("a", "id") is not None


def test_capacity_is_remembered_and_can_be_raised(opened: Open) -> None:
    opened(capacity=100).close()
    store = opened()
    assert store.usage().capacity == 100
    with pytest.raises(errors.StoreFull, match="capacity"):
        store.put("a", bytes(101))
    opened(capacity=101)
    store.put("a", bytes(101))
    with pytest.raises(errors.BadRequest):
        opened(capacity=0)


def test_a_new_store_takes_half_of_the_free_disk(opened: Open) -> None:
    store = opened()
    assert store.usage().capacity == pytest.approx(shutil.disk_usage(store.path).free // 2, rel=0.2)


def test_instances_of_one_process_share_the_store(opened: Open) -> None:
    one, two = opened(), opened()
    assert one.id == two.id
    ref = one.put("a", b"data")[0].ref
    one.close()
    assert read(two, "a", ref) == b"data"


# --------------------------------------------------------------------------------------------------------- quotas


def record(store: BufferStore, tenant: str, key: str, nbytes: int) -> None:
    with store.transaction() as txn:
        assert txn.record(tenant, key, Outcome(body="b", reply=bytes(nbytes)))


@SIZES
def test_a_tenants_bytes_are_counted_exactly(store, clock, nbytes):
    data = some(nbytes)
    store.put("ann", data, name="a")
    assert store.usage_of("ann").used == nbytes
    store.put("ann", data, name="b")  # the same contents
    assert store.usage_of("ann").used == nbytes
    store.put("bob", data)
    record(store, "ann", "id", 9000)
    assert (store.usage_of("ann").used, store.usage_of("bob").used) == (nbytes + 9000, nbytes)
    store.delete("ann", name="a")
    store.delete("ann", name="b")
    assert store.usage_of("ann").used == 9000
    clock.now += 2 * 24 * 3600
    store.gc()
    assert store.usage_of("ann").used == store.usage_of("bob").used == store.usage().used == 0


@SIZES
def test_what_exceeds_a_tenants_quota_is_refused_with_all_that_is_to_be_known(store, nbytes):
    store.set_quotas(nbytes, {"bob": 2 * nbytes})
    store.put("ann", some(nbytes), name="kept")
    with pytest.raises(errors.QuotaExceeded) as caught:
        store.put("ann", some(nbytes, seed=1 + (nbytes == 1)))
    error = caught.value
    assert (error.which, error.limit, error.used, error.needed) == ("stored_bytes", nbytes, nbytes, nbytes)
    store.put("ann", some(nbytes), name="again")  # it has those bytes already
    store.put("bob", some(nbytes))
    assert store.usage_of("ann").quota == nbytes
    assert store.usage_of("bob").quota == 2 * nbytes
    assert store.usage().objects == 2


def test_what_has_expired_makes_way_before_a_quota_refuses(store, clock):
    store.set_quotas(1000, {})
    store.put("ann", some(900), ttl_s=10)
    clock.now += 11
    store.put("ann", some(950, seed=1))
    assert store.usage_of("ann").used == 950


def test_a_refused_output_takes_the_whole_transaction_back_and_its_count(store):
    store.set_quotas(1000, {})

    def publish_two() -> None:
        with store.transaction() as txn:
            for seed in range(2):
                staged = store.stage("ann", 600)
                np.frombuffer(staged.data, np.uint8)[:] = seed
                txn.publish(staged)

    with pytest.raises(errors.QuotaExceeded):
        publish_two()
    assert store.usage_of("ann").used == store.usage().objects == 0


def test_quotas_hold_for_everybody_who_uses_the_store_and_can_be_lifted(opened):
    one, other = opened(), opened()
    one.set_quotas(100, {"bob": 0})
    with pytest.raises(errors.QuotaExceeded):
        other.put("ann", some(101))
    other.put("bob", some(101))
    one.set_quotas(None, {"ann": 200})  # everybody's stays, bob's is everybody's again
    other.put("ann", some(101))
    assert (other.usage_of("bob").quota, other.usage_of("eve").quota) == (100, 100)
    one.set_quotas(0, {})
    assert other.usage_of("ann").quota is None


def test_small_replies_are_recorded_even_beyond_a_quota(store):
    store.set_quotas(10, {})
    record(store, "ann", "small", 1000)
    assert store.usage_of("ann").used == 1000
    with pytest.raises(errors.QuotaExceeded):
        record(store, "ann", "large", 9000)


def test_an_object_is_kept_for_longer_once_it_is_prolonged_named_or_not(store, clock):
    plain, _ = store.put("ann", some(SMALL), ttl_s=10)
    store.put("ann", some(SMALL, seed=1), name="n")
    with store.transaction() as txn:
        assert txn.prolong("ann", Wanted(ref=plain.ref), 100)
        assert txn.prolong("ann", Wanted(name="n"), 100)
        for missing in (Wanted(ref="ab" * 32), Wanted(name="gone"), Wanted(ref="no ref"), Wanted(name="\0"), Wanted()):
            assert not txn.prolong("ann", missing, 100)
        assert not txn.prolong("bob", Wanted(ref=plain.ref), 100)
    store.put("ann", some(SMALL, seed=2), name="n")  # the name moves on
    clock.now += 50
    store.gc()
    assert len(list(store.objects("ann"))) == 3
    clock.now += 60 + GRACE_S
    store.gc()
    assert [each.expires for each in store.objects("ann")] == [None]


def test_prolonging_never_shortens(store, clock):
    made, _ = store.put("ann", some(SMALL), ttl_s=1000)
    with store.transaction() as txn:
        assert txn.prolong("ann", Wanted(ref=made.ref), 10)
    clock.now += 500
    assert store.lookup("ann", ref=made.ref).ref == made.ref
