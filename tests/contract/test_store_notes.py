"""What every BufferStore does with notes: small records beside a request that lives for many transactions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaasq.errors import BadRequest
from kaasq_storage import BufferStore, open_store
from kaasq_storage.protocol import Labelled, Noted


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[BufferStore]:
    with open_store(tmp_path / "store", sync=False, clock=clock) as store:
        yield store


def test_notes_are_read_as_they_were_written_last(store: BufferStore) -> None:
    with store.transaction() as transaction:
        notes = transaction.notes("ada", "r")
        assert notes.get(b"a") is None
        notes.put(b"a", b"1")
        notes.put(b"a", b"22")
        notes.put(b"b", b"3")
        assert notes.get(b"a") == b"22"
    assert store.notes("ada", "r") == {b"a": b"22", b"b": b"3"}
    assert store.note("ada", "r", b"a") == b"22"
    assert store.note("ada", "r", b"c") is store.note("ada", "s", b"a") is None


@pytest.mark.parametrize(("one", "other"), [("r", "r2"), ("r", "r\0"), ("r", "ra")])
def test_a_requests_notes_are_its_own(store: BufferStore, one: str, other: str) -> None:
    with store.transaction() as transaction:
        transaction.notes("ada", one).put(b"a", b"1")
        transaction.notes("ada", other).put(b"a", b"2")
        transaction.notes("bob", one).put(b"a", b"3")
    assert store.notes("ada", one) == {b"a": b"1"}
    assert store.notes("ada", other) == {b"a": b"2"}
    assert store.notes("bob", one) == {b"a": b"3"}
    assert store.notes("bob", other) == {}


def test_notes_of_a_transaction_that_fails_were_never_written(store: BufferStore) -> None:
    def fail() -> None:
        with store.transaction() as transaction:
            transaction.notes("ada", "r").put(b"a", b"1")
            transaction.notes("ada", "r").remind(1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.notes("ada", "r") == {}
    assert store.reminders(10) == []
    assert store.usage_of("ada").used == 0


def test_notes_expire_together_and_give_their_bytes_back(store: BufferStore, clock: Clock) -> None:
    with store.transaction() as transaction:
        notes = transaction.notes("ada", "r")
        for number in range(500):
            notes.put(b"%d" % number, b"x" * 100)
        notes.keep(clock.now + 50)
        notes.keep(clock.now + 100)
        notes.remind(clock.now + 10)
    used = store.usage_of("ada").used
    assert used > 50_000
    assert store.usage().used == used
    clock.now += 60
    store.gc()
    assert len(store.notes("ada", "r")) == 500
    clock.now += 60
    store.gc()
    assert store.notes("ada", "r") == {}
    assert store.reminders(10) == []
    assert store.usage_of("ada").used == store.usage().used == 0


def test_reminders_come_when_they_are_due_the_earliest_first(store: BufferStore, clock: Clock) -> None:
    with store.transaction() as transaction:
        transaction.notes("ada", "late").remind(clock.now + 20)
        transaction.notes("bob", "early").remind(clock.now + 10)
        transaction.notes("bob", "never").remind(None)
    assert store.reminders(10) == []
    clock.now += 20
    assert store.reminders(10) == [Noted("bob", "early"), Noted("ada", "late")]
    assert store.reminders(1) == [Noted("bob", "early")]
    assert store.reminders(1, {"ada"}) == [Noted("ada", "late")], "others' do not keep it from being seen"
    with store.transaction() as transaction:
        transaction.notes("bob", "early").remind(clock.now + 5)
        transaction.notes("ada", "late").remind(None)
    assert store.reminders(10) == []
    clock.now += 5
    assert store.reminders(10) == [Noted("bob", "early")]


def test_requests_are_found_by_their_label_the_latest_first_and_in_parts(store: BufferStore, clock: Clock) -> None:
    began = clock.now
    with store.transaction() as transaction:
        for number, name in enumerate(("a", "b", "c", "b2")):
            transaction.notes("ada", name).label("going", began + min(number, 2))
        transaction.notes("ada", "unlabelled").put(b"k", b"1")
        transaction.notes("bob", "d").label("going", began)
    found, total = store.labelled("ada", 2)
    assert (found, total) == ([Labelled("c", "going", began + 2), Labelled("b2", "going", began + 2)], 4)
    rest, total = store.labelled("ada", 9, before=(found[-1].since, found[-1].id))
    assert ([each.id for each in rest], total) == (["b", "a"], 4)
    with store.transaction() as transaction:
        notes = transaction.notes("ada", "b")
        notes.label("over", began + 1)
        notes.keep(began + 10)
    assert store.labelled("ada", 9, label="over") == ([Labelled("b", "over", began + 1)], 1)
    assert [each.id for each in store.labelled("ada", 9, label="going")[0]] == ["c", "b2", "a"]
    clock.now += 11  # nobody has collected it yet
    assert store.labelled("ada", 9, label="over") == ([], 0)
    assert store.labelled("nobody", 9) == ([], 0)


def test_notes_that_are_asked_for_twice_in_a_transaction_are_the_same(store: BufferStore, clock: Clock) -> None:
    for at in (10, 20, 30):
        with store.transaction() as transaction:
            first = transaction.notes("ada", "r")
            first.put(b"a", b"%d" % at)
            second = transaction.notes("ada", "r")
            second.remind(clock.now + at)
            second.keep(clock.now + 100)
            first.put(b"b", b"%d" % at)
    clock.now += 40
    assert store.reminders(10) == [Noted("ada", "r")]
    with store.transaction() as transaction:
        transaction.notes("ada", "r").remind(None)
    assert store.reminders(10) == []
    clock.now += 100
    store.gc()
    assert store.notes("ada", "r") == {}
    assert store.usage().used == 0


def test_notes_without_an_end_stay(store: BufferStore, clock: Clock) -> None:
    with store.transaction() as transaction:
        transaction.notes("ada", "r").put(b"a", b"1")
    clock.now += 1e9
    store.gc()
    assert store.notes("ada", "r") == {b"a": b"1"}


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_an_id_that_no_request_can_have_has_no_notes(store: BufferStore, request_id: str) -> None:
    with pytest.raises(BadRequest):
        store.notes("ada", request_id)
    with pytest.raises(BadRequest), store.transaction() as transaction:
        transaction.notes("ada", request_id)


def test_the_longest_keys_fit(store: BufferStore, clock: Clock) -> None:
    tenant, request_id, key = "t" * 64, "x" * 128, b"k" * 100
    with store.transaction() as transaction:
        notes = transaction.notes(tenant, request_id)
        notes.put(key, b"1")
        notes.keep(clock.now)
        notes.remind(clock.now)
    assert store.notes(tenant, request_id) == {key: b"1"}
    assert store.reminders(1) == [Noted(tenant, request_id)]
