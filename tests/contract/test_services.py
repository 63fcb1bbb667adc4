"""Services, whose functions are steps of a chain: on RabbitMQ and in memory alike."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq.broker import Message
from kaasq.errors import BadRequest, BrokerLost, BrokerRefused, Unroutable
from kaasq.ids import derived_id
from kaasq.topology import dead_events, work_queue
from kaasq_producers.events.service import Handler
from tests.support.events import Place, tell
from tests.support.graphs import saxpy
from tests.support.loops import play, until
from tests.support.messaging import Deliveries

N = 16
X = np.arange(N, dtype=np.float32)
TIMEOUT_S = 10.0
QUICK = kaasq.Retries(attempts=3, first_s=0.01)
GRAPH = saxpy(N)
HERE = "tests-contract-test_services"
"""The subscriptions' name where a service has none."""


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(request.getfixturevalue("rabbit_url") if request.param == "rabbitmq" else "", tmp_path)
    yield made
    made.close()


def requests_of(place: Place) -> Deliveries:
    return Deliveries(place.broker, work_queue("default"), settle=lambda one: one.ack(), prefetch=100)


def collected(place: Place, name: str) -> list[Message]:
    """What waits in a subscription, looked at once nobody listens to it."""
    found: list[Message] = []
    with place.client().events(name=name) as events:
        try:
            while True:
                found.append(Message(body=events.next(0.3).id.encode()))
        except TimeoutError:
            return found


def test_an_event_in_requests_out_with_ids_that_follow_from_it(place: Place) -> None:
    service = kaasq.Service("chain")

    @service.on("images.decode.completed")
    def resize(event: kaasq.Event, step: kaasq.Step) -> None:
        step.submit(GRAPH, x=X, y=X, a=2.0, out=kaasq.Keep("out/1"))
        step.submit(GRAPH, x=X, y=X, key="again", timeout=5)

    taken = requests_of(place)
    with place.client().serve(service):
        tell(place.broker, "r1", "images.decode")
        tell(place.broker, "r1", "images.resize")
        first, second = (each.message for each in taken.some(2))
        event_id = "r1.completed"
        assert first.message_id == derived_id(event_id, "chain-resize", "call", "0")
        assert second.message_id == derived_id(event_id, "chain-resize", "key", "again")
        assert (first.user_id, first.reply_to, first.persistent) == (place.broker.tenant, None, True)
        assert first.headers["traceparent"] == "00-r1-01"
        body = msgspec.msgpack.decode(first.body)
        assert isinstance(body["graph"], dict)  # whole: nobody would hear that a worker does not know it
        assert body["keep"] == {"out": "out/1"}
        assert (first.expiration_ms, second.expiration_ms) == (3_600_000, 5_000)
        assert taken.none(0.1)
    assert collected(place, "chain-resize") == []


def test_an_event_that_comes_again_publishes_the_same_requests(place: Place) -> None:
    @kaasq.on("saxpy.*")
    async def again(event: kaasq.Event, step: Any) -> None:
        step.submit(GRAPH, x=X, y=X, a=float(len(event.request_id)))

    taken = requests_of(place)
    sent: list[Message] = []
    for _ in range(3):
        with place.client().serve(again):
            tell(place.broker, "r1")
            sent.append(taken.one().message)
    assert {each.message_id for each in sent} == {derived_id("r1.completed", f"{HERE}-again", "call", "0")}
    assert len({each.body for each in sent}) == 1


def test_functions_of_one_name_in_two_modules_each_get_the_event(place: Place) -> None:
    seen = queue.Queue[str]()

    def made(module: str, pattern: str) -> Handler:
        def handle(event: kaasq.Event, step: kaasq.Step) -> None:
            seen.put(module)

        handle.__module__ = module
        return kaasq.on(pattern)(handle)

    with place.client().serve(made("sa", "saxpy.*")), place.client().serve(made("sb", "#.completed")):
        tell(place.broker, "r1")
        assert {seen.get(timeout=TIMEOUT_S) for _ in range(2)} == {"sa", "sb"}


def test_handlers_of_one_service_each_get_the_event(place: Place) -> None:
    service, seen = kaasq.Service("two"), queue.Queue[str]()

    @service.on("saxpy.*")
    def one(event: kaasq.Event, step: kaasq.Step) -> None:
        seen.put("one")

    @service.on("#", name="other")
    async def two(event: kaasq.Event, step: Any) -> None:
        seen.put("two")

    with place.client().serve(service):
        tell(place.broker, "r1")
        assert {seen.get(timeout=TIMEOUT_S) for _ in range(2)} == {"one", "two"}


def test_services_of_one_name_share_the_events(place: Place) -> None:
    both, gate = queue.Queue[str](), threading.Barrier(2)

    def made(name: str) -> kaasq.Service:
        service = kaasq.Service("shared", concurrency=1)

        @service.on("saxpy.*")
        def step(event: kaasq.Event, step: kaasq.Step) -> None:
            gate.wait(TIMEOUT_S)  # each has one event: a barrier of two passes only if both have
            both.put(f"{name} {event.request_id}")

        return service

    with place.client().serve(made("a")), place.client().serve(made("b")):
        for number in range(6):
            tell(place.broker, f"r{number}")
        done = [both.get(timeout=TIMEOUT_S) for _ in range(6)]
    assert {each.split()[1] for each in done} == {f"r{number}" for number in range(6)}
    assert {each.split()[0] for each in done} == {"a", "b"}


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_handler_that_fails_is_tried_again_and_publishes_the_same(place: Place, kind: str) -> None:
    attempts: list[int] = []
    service = kaasq.Service("flaky", retries=QUICK)

    def body(step: Any) -> None:
        attempts.append(1)
        step.submit(GRAPH, x=X, y=X)
        if len(attempts) < 3:
            raise ValueError("not yet")

    if kind == "thread":

        @service.on("saxpy.*")
        def flaky(event: kaasq.Event, step: kaasq.Step) -> None:
            body(step)
    else:

        @service.on("saxpy.*")
        async def flaky(event: kaasq.Event, step: Any) -> None:
            body(step)

    taken = requests_of(place)
    with place.client().serve(service):
        tell(place.broker, "r1")
        assert len({each.message.message_id for each in taken.some(3)}) == 1
    assert len(attempts) == 3
    assert collected(place, "flaky-flaky") == []


def test_a_function_s_own_retries_come_before_its_service_s(place: Place) -> None:
    service, seen = kaasq.Service("s", concurrency=1), queue.Queue[str]()

    @service.on("saxpy.*", retries=kaasq.Retries(attempts=1))
    def once(event: kaasq.Event, step: kaasq.Step) -> None:
        seen.put(event.request_id)
        raise ValueError("a bug")

    with place.client().serve(service):
        for each in ("r1", "r2"):
            tell(place.broker, each)
        assert [seen.get(timeout=TIMEOUT_S) for _ in range(2)] == ["r1", "r2"]  # r1 is done with


@pytest.mark.parametrize("how", [ValueError("a bug"), SystemExit(3), kaasq.StoreFull("full")], ids=repr)
def test_an_event_that_no_attempt_can_handle_is_dead_with_the_reason(place: Place, how: BaseException) -> None:
    service, handled = kaasq.Service("s", retries=QUICK, concurrency=1), queue.Queue[str]()

    @service.on("saxpy.*")
    def handle(event: kaasq.Event, step: kaasq.Step) -> None:
        if event.request_id == "poison":
            raise how
        handled.put(event.request_id)

    with place.client().serve(service):
        tell(place.broker, "poison")
        tell(place.broker, "r2")
        assert handled.get(timeout=TIMEOUT_S) == "r2"  # it holds up nobody for ever
        dead = Deliveries(place.broker, dead_events(place.broker.tenant)).one()
    headers = dead.message.headers
    assert dead.message.message_id == "poison.completed"
    assert headers["cloudEvents_id"] == "poison.completed"
    assert headers["kaasq-code"] == (how.code if isinstance(how, kaasq.KaasqError) else "handler_failed")
    assert headers["kaasq-reason"].startswith("handler 's-handle' failed 3 times, at last with ")
    assert headers["kaasq-tenant"] == place.broker.tenant
    assert collected(place, "s-handle") == []


def test_a_request_that_the_broker_does_not_take_is_a_failure_of_the_step(place: Place) -> None:
    client = place.client(pool="nobody")

    @kaasq.on("saxpy.*")
    def handle(event: kaasq.Event, step: kaasq.Step) -> None:
        step.submit(GRAPH, x=X, y=X)

    service = kaasq.Service("s", [handle], retries=kaasq.Retries(attempts=1))
    with client.serve(service):
        tell(place.broker, "r1")
        dead = Deliveries(place.broker, dead_events(place.broker.tenant)).one()
    assert dead.message.headers["kaasq-code"] == Unroutable.code
    assert "no worker ever served pool 'nobody'" in dead.message.headers["kaasq-reason"]


def test_what_is_wrong_with_a_request_is_raised_in_the_handler(place: Place) -> None:
    seen = queue.Queue[BaseException]()

    def body(step: Any) -> None:
        try:
            step.submit(GRAPH, x=X)
        except kaasq.KaasqError as error:
            seen.put(error)
        step.submit(GRAPH, x=X, y=X, key="k")
        try:
            step.submit(GRAPH, x=X, y=X, key="k")
        except kaasq.KaasqError as error:
            seen.put(error)

    @kaasq.on("saxpy.*")
    def on_thread(event: kaasq.Event, step: kaasq.Step) -> None:
        body(step)

    @kaasq.on("saxpy.*")
    async def on_loop(event: kaasq.Event, step: Any) -> None:
        body(step)

    with place.client().serve([on_thread, on_loop]):
        tell(place.broker, "r1")
        codes = sorted(seen.get(timeout=TIMEOUT_S).code for _ in range(4))  # type: ignore[attr-defined]
    assert codes == ["bad_request", "bad_request", "buffer_missing", "buffer_missing"]


def test_stopping_lets_handlers_end_and_gives_back_what_was_not_begun(place: Place) -> None:
    begun, go, ended = queue.Queue[str](), threading.Event(), queue.Queue[str]()
    service = kaasq.Service("slow", concurrency=1)

    @service.on("saxpy.*")
    def slow(event: kaasq.Event, step: kaasq.Step) -> None:
        begun.put(event.request_id)
        assert go.wait(TIMEOUT_S)
        ended.put(event.request_id)

    served = place.client().serve(service)
    for number in range(3):
        tell(place.broker, f"r{number}")
    assert begun.get(timeout=TIMEOUT_S) == "r0"
    threading.Timer(0.2, go.set).start()
    assert served.stop()
    assert served.stop()
    assert ended.get_nowait() == "r0"
    assert ended.empty()
    assert [each.body for each in collected(place, "slow-slow")] == [b"r1.completed", b"r2.completed"]


def test_a_handler_that_does_not_end_in_time_has_its_event_given_back(place: Place) -> None:
    begun, go = threading.Event(), threading.Event()

    @kaasq.on("saxpy.*")
    def stuck(event: kaasq.Event, step: kaasq.Step) -> None:
        begun.set()
        go.wait(TIMEOUT_S)

    served = place.client().serve(stuck)
    tell(place.broker, "r1")
    assert begun.wait(TIMEOUT_S)
    assert not served.stop(0.05)
    assert [each.body for each in collected(place, f"{HERE}-stuck")] == [b"r1.completed"]
    go.set()


def test_in_a_loop_of_ones_own(place: Place) -> None:
    taken = requests_of(place)

    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), list[str]()

        @kaasq.on("saxpy.*")
        async def handle(event: kaasq.Event, step: Any) -> None:
            assert asyncio.get_running_loop() is loop
            seen.append(event.request_id)
            step.submit(GRAPH, x=X, y=X)

        @kaasq.on("saxpy.*")
        def on_thread(event: kaasq.Event, step: kaasq.Step) -> None:
            assert threading.current_thread() is not threading.main_thread()
            seen.append("thread")

        async with place.async_client() as client:
            async with client.serve([handle, on_thread]) as served:
                tell(place.broker, "r1")
                await until(lambda: sorted(seen) == ["r1", "thread"])
                with pytest.raises(BadRequest):
                    await served.start()
            tell(place.broker, "r2")
        assert sorted(seen) == ["r1", "thread"]

    play(main)
    assert taken.one().message.message_id == derived_id("r1.completed", f"{HERE}-handle", "call", "0")


def test_a_client_that_is_closed_ends_its_service_with_the_reason(place: Place) -> None:
    @kaasq.on("saxpy.*")
    def handle(event: kaasq.Event, step: kaasq.Step) -> None:
        pass

    client = place.client()
    served = client.serve(handle)
    assert not served.wait(0)
    client.close()
    with pytest.raises(BrokerLost, match="closed"):
        served.wait(TIMEOUT_S)
    assert served.stop()


def test_a_service_that_cannot_subscribe_says_so_and_leaves_nothing_behind(place: Place) -> None:
    @kaasq.on("saxpy.*")
    def handle(event: kaasq.Event, step: kaasq.Step) -> None:
        pass

    place.client(event_limit=10).events("saxpy.*", name=f"{HERE}-handle").close()
    before = set(threading.enumerate())
    client = place.client(event_limit=20)
    with pytest.raises(BrokerRefused, match=f"kaasq events rm {HERE}-handle"):
        client.serve(handle)
    client.close()
    assert set(threading.enumerate()) <= before
