"""``kaasq doctor``: what it finds, and what it says to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from kaasq import codec
from kaasq.broker import Broker, Delivery, Inspected, wait_for
from kaasq.checks import GraphLimits
from kaasq.cli import main
from kaasq.errors import DeviceUnavailable, KaasqError
from kaasq.extras import install
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Cancel, Reply, Request
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings
from kaasq.topology import DEAD, control_queue, pool_topology, work_queue
from kaasq_storage import BufferStore, open_store
from kaasq_workers.doctor.broker import check_broker
from kaasq_workers.doctor.command import examine
from kaasq_workers.doctor.device import check_device
from kaasq_workers.doctor.finding import Finding
from tests.support.fake_worker import INFO, FakeWorker
from tests.support.waiting import until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store=str(tmp_path / "store"), store_capacity=1 << 26, cache_dir=str(tmp_path / "code"), pool="images"
    )


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> MemoryNode:
    """What doctor reaches instead of RabbitMQ."""
    made = MemoryNode()
    monkeypatch.setattr(
        "kaasq_workers.doctor.broker.RabbitBroker",
        lambda url, connection_name, impersonates: MemoryBroker(made, "guest", impersonates=impersonates),
    )
    return made


@pytest.fixture
def store(settings: Settings) -> Iterator[BufferStore]:
    with open_store(settings.store_path, capacity=settings.store_capacity) as opened:
        yield opened


def by_check(settings: Settings) -> dict[str, Finding]:
    return {each.check: each for each in examine(settings, "cpu")}


def of_the_broker(settings: Settings) -> dict[str, Finding]:
    return {each.check: each for each in check_broker(settings, None)}


def test_all_is_well(settings: Settings, node: MemoryNode) -> None:
    def answer(_: Request, message: object) -> Reply:
        return Reply(id="1", status="ok", worker=INFO)

    with FakeWorker(MemoryBroker(node, "worker"), answer, pool="images"):
        found = by_check(settings)
    # The fake worker has no store, so it cannot be the one that was checked.
    assert {name: each.state for name, each in found.items()} == {
        "store": "warning", "broker": "ok", "permissions": "ok", "worker": "ok", "continuations": "ok", "cpu": "ok",
    }  # fmt: skip
    assert "compiled and ran a kernel" in found["cpu"].found


def test_store_of_the_settings_and_another_one_of_the_workers_are_told_with_their_ids(
    settings: Settings, node: MemoryNode, store: BufferStore
) -> None:
    def answer(_: Request, message: object) -> Reply:
        return Reply(id="1", status="ok", worker=msgspec.structs.replace(INFO, store="theirs"))

    with FakeWorker(MemoryBroker(node, "worker"), answer, pool="images"):
        ours, theirs = (each.found for each in examine(settings, "cpu") if each.check == "store")
    assert ours.startswith(f"{settings.store_path} (id {store.id}): ")
    assert theirs.startswith("the worker uses another store (theirs) than the one named here")


def test_pool_that_nobody_serves_is_named_with_what_to_start(settings: Settings, node: MemoryNode) -> None:
    worker = by_check(settings)["worker"]
    assert worker.state == "warning"
    assert worker.mend == "Start one: kaasq worker --pool images"


def left_in(node: MemoryNode, queue: str) -> list[bytes]:
    """What lies in a queue, taken out of it."""
    broker = MemoryBroker(node, "operator")
    broker.open(5)
    try:
        seen: list[bytes] = []
        count = inspected(broker, queue).messages
        broker.consume(queue, lambda delivery: seen.append(delivery.message.body))
        until(lambda: len(seen) == count)
        return seen
    finally:
        broker.close()


def inspected(broker: Broker, queue: str) -> Inspected:
    said: Future[Inspected | KaasqError] = Future()
    broker.inspect(queue, said.set_result)
    found = said.result(10)
    assert isinstance(found, Inspected)
    return found


def test_pool_whose_workers_have_gone_is_left_without_a_request(settings: Settings, node: MemoryNode) -> None:
    with FakeWorker(MemoryBroker(node, "worker"), pool="images"):
        pass
    worker = of_the_broker(settings)["worker"]
    assert (worker.state, worker.found) == ("warning", "nobody takes requests of pool 'images' now")
    assert left_in(node, work_queue("images")) == []
    assert left_in(node, DEAD) == []


def test_on_rabbitmq_nothing_is_left_either(rabbit_url: str, settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, broker_url=rabbit_url)
    broker = RabbitBroker(rabbit_url)
    broker.open(10)
    try:
        wait_for(lambda done: broker.declare(pool_topology("images", "cpu"), done), 10)
        assert of_the_broker(settings)["worker"].found == "nobody takes requests of pool 'images' now"
        assert [inspected(broker, queue).messages for queue in (work_queue("images"), DEAD)] == [0, 0]
    finally:
        broker.close()


def test_request_that_no_worker_gets_to_is_withdrawn_and_becomes_no_dead_letter(
    settings: Settings, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaasq_workers.doctor.broker.ANSWER_TIMEOUT_S", 0.3)
    busy = MemoryBroker(node, "worker")
    busy.open(5)
    try:
        wait_for(lambda done: busy.declare(pool_topology("images", "cpu"), done), 5)
        taken: list[Delivery] = []
        busy.consume(work_queue("images"), taken.append)

        def consumed() -> bool:
            said: list[Inspected | KaasqError] = []
            busy.inspect(work_queue("images"), said.append)
            until(lambda: said)
            return isinstance(said[0], Inspected) and said[0].consumers == 1

        until(consumed)
        worker = of_the_broker(settings)["worker"]
        assert worker.state == "warning"
        assert "no worker answered within" in worker.found
        (delivery,) = taken
        assert delivery.message.expiration_ms is None
        assert codec.RequestDecoder(GraphLimits()).decode(delivery.message.body, codec.MSGPACK).timeout_ms == 300
        (told,) = left_in(node, control_queue("images", "cpu"))
        assert codec.decode(told, codec.MSGPACK, Cancel).cancel == delivery.message.message_id
        assert left_in(node, DEAD) == []
    finally:
        busy.close()


def test_broker_url_that_is_none_does_not_stop_the_other_checks(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAASQ_CACHE_DIR", settings.cache_dir or "")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json", "--broker", "http://x", "--store", str(tmp_path / "store"), "--device", "cpu"])
    out = capsys.readouterr().out
    assert stop.value.code == 1
    assert "the broker URL does not have the form" in out
    assert "compiled and ran a kernel" in out


def test_compiler_that_is_not_there(settings: Settings, store: BufferStore) -> None:
    missing = Settings(cache_dir=settings.cache_dir, compiler="/nowhere/g++")
    assert check_device(missing, store, "cpu").found == "compiler: there is no C++ compiler '/nowhere/g++'"


def test_missing_extra_is_to_be_installed_and_nothing_else(
    settings: Settings, store: BufferStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Settings) -> None:
        raise DeviceUnavailable(said)

    monkeypatch.setattr("kaasq_workers.doctor.device.open_device", refuse)
    said = f"cuda:0 needs CuPy and cuda-core: {install('cuda13')}"
    assert check_device(settings, store, "cuda:0") == Finding("cuda:0", "broken", said)
    said = "the driver is too old"
    assert "Compare the driver" in check_device(settings, store, "cuda:0").mend
