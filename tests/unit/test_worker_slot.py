"""Who may serve a slot: one worker, whether the other one shares its store or not; who is gone holds up nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kaasq.broker import Broker, Inspected, wait_for
from kaasq.errors import SlotTaken, StoreUnavailable
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq.topology import control_queue, pool_topology
from kaasq_storage.slots import lock_slot
from kaasq_workers import slot as slot_module
from kaasq_workers.slot import Slot
from tests.support.messaging import declare, inspect_until, publish

CONTROL = control_queue("p", "s")
HOLDER = """
import sys, time
from pathlib import Path
from kaasq_storage.slots import lock_slot
print(lock_slot(Path(sys.argv[1]), "s") is not None, flush=True)
time.sleep(60)
"""

Connect = Callable[[], Broker]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_module, "LOOK_S", 0.1)


@pytest.fixture
def connect() -> Iterator[Connect]:
    node, made = MemoryNode(), []

    def one() -> Broker:
        broker = MemoryBroker(node)
        broker.scope = "a broker"
        broker.open(5)
        made.append(broker)
        return broker

    yield one
    for each in made:
        each.close()


def slot(broker: Broker, store: Path) -> Slot:
    settings = Settings(store=str(store), pool="p", slot="s")
    return Slot(broker, settings, lambda operation: wait_for(operation, 5.0), 5.0)


def test_a_slot_that_nobody_serves_is_had_at_once_and_leaves_no_question_behind(connect, tmp_path):
    broker = connect()
    declare(broker, pool_topology("p", "s"))
    slot(broker, tmp_path).take()
    assert broker.node.messages(CONTROL) == []


def test_of_two_workers_with_one_store_the_first_has_it_until_it_lets_go(connect, tmp_path):
    first, second = slot(connect(), tmp_path), slot(connect(), tmp_path)
    first.take()
    with pytest.raises(SlotTaken, match=r"another worker already serves slot 's' of pool 'p'.*--slot") as caught:
        second.take()
    assert (caught.value.pool, caught.value.slot) == ("p", "s")
    first.release()
    first.release()
    second.take()


def test_one_store_may_have_a_slot_of_that_name_on_each_of_two_brokers(connect, tmp_path):
    other = connect()
    other.scope = "another broker"
    slot(connect(), tmp_path).take()
    slot(other, tmp_path).take()


def test_in_one_process_brokers_in_memory_may_share_a_store(connect, tmp_path):
    one, other = connect(), connect()
    one.scope = other.scope = ""
    slot(one, tmp_path).take()
    slot(other, tmp_path).take()
    assert not (tmp_path / "slots").exists()


def test_a_worker_with_another_store_is_found_by_what_it_takes_from_the_queue(connect, tmp_path):
    declare(other := connect(), pool_topology("p", "s"))
    other.consume(CONTROL, lambda delivery: delivery.ack())
    with pytest.raises(SlotTaken, match=r"a worker with another store already serves slot 's'.*--pool"):
        slot(connect(), tmp_path).take()


def test_who_takes_nothing_does_not_hold_the_slot(connect, tmp_path):
    declare(gone := connect(), pool_topology("p", "s"))
    gone.consume(CONTROL, lambda _: None, prefetch=1)
    publish(gone, b"never settled", CONTROL, exchange="")
    wanted = slot(connect(), tmp_path)
    wanted.take()
    wanted.check(connect().consume(CONTROL, lambda _: None))


def test_two_that_start_at_the_same_time_find_each_other(connect, tmp_path):
    brokers = [connect(), connect()]
    slots = [slot(each, tmp_path / str(number)) for number, each in enumerate(brokers)]
    for each in slots:
        each.take()
    declare(brokers[0], pool_topology("p", "s"))
    consumers = [each.consume(CONTROL, lambda delivery: delivery.ack()) for each in brokers]
    inspect_until(brokers[0], CONTROL, Inspected(messages=0, consumers=2))
    for each, consumer in zip(slots, consumers, strict=True):
        with pytest.raises(SlotTaken, match="another store"):
            each.check(consumer)
    consumers[1].cancel()
    slots[0].check(consumers[0])


def test_a_lock_ends_with_its_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert lock_slot(tmp_path, "s") is None
        holder.kill()
    assert lock_slot(tmp_path, "s") is not None


def test_a_store_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="no folder"):
        lock_slot(tmp_path / "file", "s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(StoreUnavailable, match="no kaasq store"):
        lock_slot(tmp_path / "other", "s")
