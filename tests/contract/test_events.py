"""Subscriptions to events, on RabbitMQ and in memory alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import codec
from kaasq.broker import Inspected
from kaasq.errors import BadRequest, BrokerLost, BrokerRefused, BufferMissing
from kaasq.messages import Output
from kaasq.topology import dead_events, event_queue
from kaasq_storage import open_store
from kaasq_storage.protocol import Outcome
from tests.support.events import Place, event, reply, tell
from tests.support.loops import play
from tests.support.messaging import Deliveries, inspect_until

TIMEOUT_S = 10.0


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(request.getfixturevalue("rabbit_url") if request.param == "rabbitmq" else "", tmp_path)
    yield made
    made.close()


def ids(events: Any, count: int) -> list[str]:
    return [events.next(TIMEOUT_S).request_id for _ in range(count)]


def nothing_comes(events: Any, for_s: float = 0.2) -> bool:
    try:
        events.next(for_s)
    except TimeoutError:
        return True
    return False


def test_events_that_match_come_as_they_are_told(place: Place) -> None:
    with place.client().events("saxpy.*", "#.failed") as events:
        for graph, word in (("saxpy", "completed"), ("other", "completed"), ("a.b", "failed"), ("saxpy", "expired")):
            assert tell(place.broker, f"{graph}-{word}", graph, word) is None
        first, second, third = (events.next(TIMEOUT_S) for _ in range(3))
        assert [each.request_id for each in (first, second, third)] == [
            "saxpy-completed",
            "a.b-failed",
            "saxpy-expired",
        ]
        assert (first.tenant, first.graph, first.word) == (place.broker.tenant, "saxpy", "completed")
        assert (first.id, first.type) == ("saxpy-completed.completed", "kaasq.request.completed")
        assert (first.error, second.graph) == (None, "a.b")
        assert isinstance(second.error, kaasq.KernelFailed)
        with pytest.raises(kaasq.KernelFailed):
            second.result()
        assert nothing_comes(events)


def test_without_a_name_it_hears_only_what_is_told_from_now_on(place: Place) -> None:
    client = place.client()
    client.events().close()
    tell(place.broker, "before")
    with client.events() as events:
        tell(place.broker, "r1")
        assert ids(events, 1) == ["r1"]


def test_a_named_subscription_collects_while_nobody_listens(place: Place) -> None:
    with place.client() as client:
        client.events("saxpy.*", name="billing").close()
    for number in range(5):
        assert tell(place.broker, f"r{number}") is None
    with place.client().events("saxpy.*", name="billing") as events:
        assert ids(events, 5) == [f"r{number}" for number in range(5)]


def test_an_event_is_acked_when_the_next_is_asked_for(place: Place) -> None:
    client = place.client()
    with client.events(name="billing") as events:
        for number in range(3):
            tell(place.broker, f"r{number}")
        assert ids(events, 2) == ["r0", "r1"]  # r1 is not handled yet
    with client.events(name="billing") as events:
        assert ids(events, 2) == ["r1", "r2"]
    with client.events(name="billing") as events:
        last = events.next(TIMEOUT_S)
        assert last.request_id == "r2"
        last.ack()
        last.ack()
    with client.events(name="billing") as events:
        assert nothing_comes(events)


def test_what_was_read_ahead_goes_to_the_next_listener(place: Place) -> None:
    first, second = (place.client().events(name="shared", prefetch=8) for _ in range(2))
    for number in range(20):
        tell(place.broker, f"r{number:02}")
    heard = ids(first, 1)
    first.close()  # with what it was read ahead, and the one that it had not acked
    assert set(ids(second, 20)) == {f"r{number:02}" for number in range(20)}
    assert heard[0] in {f"r{number:02}" for number in range(20)}


def test_listeners_of_one_name_share_what_comes(place: Place) -> None:
    first, second = (place.client().events(name="shared", prefetch=1) for _ in range(2))
    for number in range(4):
        tell(place.broker, f"r{number}")
    assert sorted(ids(first, 2) + ids(second, 2)) == ["r0", "r1", "r2", "r3"]
    assert nothing_comes(first)


def test_other_patterns_replace_those_that_a_name_had(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with place.client() as client:
        client.events("saxpy.*", "gemm.*", name="billing").close()
        client.events("gemm.*", "saxpy.*", name="billing").close()
        assert "subscription.replaced" not in capsys.readouterr().err
    with place.client() as client:
        events = client.events("saxpy.completed", "gemm.*", name="billing")
        assert "subscription.replaced" in capsys.readouterr().err
        tell(place.broker, "1", "saxpy", "failed")
        tell(place.broker, "2", "saxpy", "completed")
        tell(place.broker, "3", "gemm", "failed")
        assert ids(events, 2) == ["2", "3"]
        assert nothing_comes(events)
        (noted,) = client.subscriptions()
        tenant = place.broker.tenant
        assert (noted.name, noted.keys) == ("billing", (f"{tenant}.saxpy.completed", f"{tenant}.gemm.*"))


def test_subscriptions_are_listed_and_removed_with_what_they_hold(place: Place) -> None:
    client = place.client()
    assert client.subscriptions() == []
    for name in ("billing", "audit", "billing"):
        client.events("saxpy.*", name=name).close()
    assert [each.name for each in client.subscriptions()] == ["audit", "billing"]
    tell(place.broker, "r1")
    assert client.unsubscribe("billing")
    assert not client.unsubscribe("billing")
    assert [each.name for each in client.subscriptions()] == ["audit"]
    with client.events("saxpy.*", name="billing") as events:
        assert nothing_comes(events)
    with client.events("saxpy.*", name="audit") as events:
        assert ids(events, 1) == ["r1"]


def test_many_may_subscribe_at_once(place: Place) -> None:
    clients = [place.client() for _ in range(6)]
    failures: list[BaseException] = []

    def subscribe(number: int) -> None:
        try:
            clients[number].events("saxpy.*", f"g{number % 2}.*", name=f"n{number % 3}").close()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=subscribe, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert not failures
    assert [each.name for each in clients[0].subscriptions()] == ["n0", "n1", "n2"]


def test_what_is_no_event_is_passed_over_and_kept_among_the_dead(place: Place) -> None:
    with place.client().events("saxpy.*", name="billing") as events:
        bad = msgspec.structs.replace(event("r1"), body=b"{", message_id="bad")
        tell(place.broker, "r1", message=bad)
        tell(place.broker, "r2", message=msgspec.structs.replace(event("r2"), headers={}))
        tell(place.broker, "r3")
        assert ids(events, 1) == ["r3"]
    dead = Deliveries(place.broker, dead_events(place.broker.tenant)).some(2)
    assert {each.message.headers["x-first-death-queue"] for each in dead} == {
        f"kaasq.events.{place.broker.tenant}.billing"
    }


def test_a_full_subscription_costs_nobody_else(place: Place) -> None:
    client = place.client(event_limit=1)
    client.events("saxpy.*", name="full").close()
    with place.client().events("saxpy.*", name="other") as events:
        said = [tell(place.broker, f"r{number}") for number in range(8)]
        assert isinstance(said[-1], BrokerRefused)
        assert ids(events, 8) == [f"r{number}" for number in range(8)]


def test_a_subscription_with_other_limits_is_refused_and_says_how_to_mend_it(place: Place) -> None:
    place.client(event_limit=10).events(name="billing").close()
    with pytest.raises(BrokerRefused, match="kaasq events rm billing"):
        place.client(event_limit=20).events(name="billing")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "No Words"}, "subscription"),
        ({"name": ""}, "subscription"),
        ({"prefetch": 0}, "prefetch"),
        ({"prefetch": 100_000}, "prefetch"),
    ],
)
def test_bad_names_and_prefetches_are_refused(place: Place, arguments: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        place.client().events(**arguments)


def test_closing_the_client_ends_who_listens(place: Place) -> None:
    client = place.client()
    events = client.events(name="billing")
    closing = threading.Timer(0.2, client.close)
    closing.start()
    with pytest.raises(BrokerLost, match="closed"):
        events.next(TIMEOUT_S)
    events.close()
    closing.join()


@pytest.mark.parametrize("first", ["events", "client", "named"])
def test_a_queue_without_a_name_is_gone_when_its_client_is(
    place: Place, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaasq_producers.events.subscription.new_id", lambda: "mine")
    client = place.client()
    events = client.events("#", name="mine" if first == "named" else None)
    with events:
        tell(place.broker, "r1")
        assert ids(events, 1) == ["r1"]
        if first == "client":
            client.close()
    client.close()
    tell(place.broker, "later")
    waiting = 2 if first == "named" else 0  # the first one was not acked
    inspect_until(place.broker, event_queue(place.broker.tenant, "mine"), Inspected(waiting, 0))


def test_closing_the_iterator_in_another_thread_ends_the_loop(place: Place) -> None:
    events = place.client().events()
    closing = threading.Timer(0.2, events.close)
    closing.start()
    assert list(events) == []
    closing.join()
    events.close()


def test_small_outputs_are_read_from_the_outcome_and_large_ones_are_refs(place: Place, tmp_path: Path) -> None:
    tenant = place.broker.tenant
    small = np.arange(4, dtype=np.float32)
    with open_store(tmp_path / "store", capacity=1 << 30, sync=False) as store:
        large, _ = store.put(tenant, b"\x01" * 4096, dtype="uint8", shape=(4096,))
        outputs = {
            "small": Output(nbytes=16, dtype="float32", shape=(4,), inline=small.tobytes()),
            "large": Output(nbytes=4096, dtype="uint8", shape=(4096,), ref=large.ref),
        }
        outcome = Outcome(
            body="d", reply=codec.encode(reply("r1", outputs)), created=time.time(), expires=time.time() + 60
        )
        with store.transaction() as transaction:
            transaction.record(tenant, "r1", outcome)
    with place.client().events() as events:
        tell(place.broker, "r1", message=event("r1", **outputs))
        tell(place.broker, "r2", message=event("r2", **outputs))
        heard = events.next(TIMEOUT_S)
        assert heard.outputs.keys() == {"large"}
        assert heard.outputs["large"].ref == large.ref
        result = heard.result()
        np.testing.assert_array_equal(result["small"], small)
        assert result["large"].sum() == 4096
        with pytest.raises(BufferMissing, match="'small' of request r2 was small"):
            events.next(TIMEOUT_S).result()

    async def main() -> None:
        async with place.async_client() as client, client.events() as stream:
            tell(place.broker, "r1", message=event("r1", **outputs))
            heard = await stream.next()
            with pytest.raises(BadRequest, match=r"await client.fetch\(event\)"):
                heard.result()
            fetched = await client.fetch(heard)
            np.testing.assert_array_equal(fetched["small"], small)
            assert fetched["large"].sum() == 4096

    play(main)


def test_in_an_event_loop(place: Place) -> None:
    async def main() -> None:
        async with place.async_client() as client:
            async with client.events("saxpy.*", name="billing") as events:
                for number in range(3):
                    tell(place.broker, f"r{number}")
                heard = [(await events.next()).request_id for _ in range(2)]
                assert heard == ["r0", "r1"]
            seen: list[str] = []
            async with client.events("saxpy.*", name="billing") as events:
                async for each in events:
                    seen.append(each.request_id)
                    if len(seen) == 2:
                        each.ack()
                        break
            assert seen == ["r1", "r2"]
            async with client.events("saxpy.*", name="billing") as events:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await events.next()
                tell(place.broker, "r3")
                assert (await events.next()).request_id == "r3"
            assert [each.name for each in await client.subscriptions()] == ["billing"]
            assert await client.unsubscribe("billing")

    play(main)


def test_in_an_event_loop_refusals_are_told_where_it_begins(place: Place) -> None:
    async def main() -> None:
        async with place.async_client() as client:
            with pytest.raises(BadRequest):
                client.events("saxpy")
            place.client(event_limit=10).events(name="billing").close()
            with pytest.raises(BrokerRefused, match="kaasq events rm billing"):
                async for _ in client.events(name="billing"):
                    pass

    play(main)
