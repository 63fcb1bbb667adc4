"""``kaasq events dead`` on a real RabbitMQ: what a subscription gave up is seen, told it again, or dropped."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kaasq
from kaasq.broker import Message
from kaasq.cli import main
from kaasq.rabbit import RabbitBroker
from kaasq.rabbit.dead import DeadQueue, of_events
from kaasq.settings import Settings
from kaasq.topology import pool_topology
from tests.support.events import tell
from tests.support.messaging import TIMEOUT_S, declare

Run = Callable[..., tuple[int, str, str]]
ONCE = kaasq.Retries(attempts=1)


class Place:
    """A vhost, the worker's side of its events, and a client."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.worker = RabbitBroker(url)
        self.worker.open(TIMEOUT_S)
        assert declare(self.worker, pool_topology("default", "s1")) is None
        self.client = kaasq.Client(url, settings=settings)
        self.handled = queue.Queue[str]()
        self.broken = True

    def service(self) -> kaasq.Service:
        service = kaasq.Service("billing", retries=ONCE, concurrency=1)

        @service.on("saxpy.*")
        def charge(event: kaasq.Event, step: kaasq.Step) -> None:
            self.handled.put(step.request_id())
            if self.broken:
                raise ValueError("no such account")

        return service

    def give_up(self, *ids: str) -> list[str]:
        """Events at which the handler fails; the ids of the requests that it would have published."""
        with self.client.serve(self.service()):
            for each in ids:
                assert tell(self.worker, each) is None
            derived = [self.handled.get(timeout=TIMEOUT_S) for _ in ids]
            self.wait_for(len(ids))
        return derived

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.ids()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ids(self) -> list[str]:
        with DeadQueue(self.url, of_events(self.worker.tenant), timeout_s=TIMEOUT_S) as letters:
            return [each.message.message_id or "" for each in letters.letters()]

    def close(self) -> None:
        self.client.close()
        self.worker.close()


@pytest.fixture
def place(rabbit_url: str, tmp_path: Path) -> Iterator[Place]:
    made = Place(rabbit_url, Settings(store=str(tmp_path / "store"), store_capacity=1 << 26, store_sync=False))
    yield made
    made.close()


@pytest.fixture
def dead(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``kaasq events dead ...``: exit code, standard output, standard error."""
    monkeypatch.setenv("KAASQ_BROKER_URL", place.url)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        capsys.readouterr()  # what handlers logged meanwhile
        try:
            main(["events", "dead", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_what_a_handler_gave_up_is_listed_shown_and_exported(place: Place, dead: Run, tmp_path: Path) -> None:
    place.give_up("request-1", "request-2")
    code, out, err = dead("list")
    assert (code, err) == (0, "")
    assert [line.split()[:4] for line in out.splitlines()[1:-1]] == [
        [f"request-{number}.completed", "billing-charge", "guest.saxpy.completed", "handler_failed"]
        for number in (1, 2)
    ]
    assert "2 of 2 dead letters: 2 handler_failed" in out
    assert "0 of 2 dead letters" in dead("list", "--name", "other")[1]
    assert "0 of 2 dead letters" in dead("list", "--older-than", "1h")[1]
    listed = json.loads(dead("list", "--json")[1])
    assert [(each["id"], each["by"]) for each in listed["events"]] == [
        ("request-1.completed", "handler"),
        ("request-2.completed", "handler"),
    ]
    code, out, err = dead("show", "request-2")
    assert (code, err) == (0, "")
    assert "event request-2.completed of subscription 'billing-charge', tenant guest" in out
    assert "handler_failed: handler 'billing-charge' failed 1 times, at last with ValueError: no such account" in out
    assert "request request-2 of graph 'saxpy': completed" in out
    shown = json.loads(dead("show", "request-2", "--json")[1])
    assert shown["data"]["id"] == "request-2"
    file = tmp_path / "event.json"
    assert dead("export", "request-2", str(file))[1].endswith(
        "event request-2.completed of subscription 'billing-charge'\n"
    )
    assert json.loads(file.read_text()) == shown
    assert "cannot write it: No such file" in dead("export", "request-2", str(tmp_path / "nowhere" / "event.json"))[2]
    assert place.ids() == ["request-1.completed", "request-2.completed"]


def test_a_replayed_event_comes_to_its_subscription_alone_with_the_same_ids(place: Place, dead: Run) -> None:
    with place.client.events("saxpy.*", name="other") as other, place.client.events("saxpy.*") as passing:
        first, second = place.give_up("request-1", "request-2")
        for each in (other, passing):
            assert [each.next(TIMEOUT_S).request_id for _ in range(2)] == ["request-1", "request-2"]
        place.broken = False
        with place.client.serve(place.service()):
            assert dead("replay", "request-2")[:2] == (0, "told 1 again\n")
            assert place.handled.get(timeout=TIMEOUT_S) == second
            assert place.ids() == ["request-1.completed"]
            assert dead("replay", "--all", "--name", "billing-charge")[:2] == (0, "told 1 again\n")
            assert place.handled.get(timeout=TIMEOUT_S) == first
        assert place.ids() == []
        assert tell(place.worker, "last") is None
        for each in (other, passing):
            assert each.next(TIMEOUT_S).request_id == "last"  # and nothing before it


def test_an_event_whose_subscription_is_gone_stays_and_is_told(place: Place, dead: Run) -> None:
    place.give_up("request-1")
    assert place.client.unsubscribe("billing-charge")
    code, _, err = dead("replay", "request-1")
    assert code == 1
    assert "kaasq: unroutable: there is no subscription 'billing-charge' any more: start the program" in err
    code, out, err = dead("replay", "--all")
    assert (code, out) == (1, "told 0 again\n")
    assert "kaasq: 1 left in the queue: there is no subscription 'billing-charge' any more" in err
    assert place.ids() == ["request-1.completed"]


def test_what_rabbitmq_gave_up_is_told_as_such_and_dropped(place: Place, dead: Run) -> None:
    with place.client.events("saxpy.*", name="kept"):
        assert tell(place.worker, "odd", message=Message(body=b"no event", message_id="odd-event-1")) is None
        place.wait_for(1)
    (told,) = json.loads(dead("list", "--json")[1])["events"]
    assert (told["id"], told["subscription"], told["code"], told["by"]) == ("odd-event-1", "kept", "rejected", "broker")
    assert told["routing_key"] == "guest.saxpy.completed"
    out = dead("show", "odd-event-1")[1]
    assert "rejected: a program gave it up: it could not be read" in out
    assert "it cannot be read: cloudEvents_specversion: a CloudEvent needs this header" in out
    assert json.loads(dead("show", "odd-event-1", "--json")[1])["data"] is None
    assert dead("drop", "odd-event-1")[:2] == (0, "removed 1\n")
    assert place.ids() == []


def test_an_event_that_several_gave_up_is_chosen_by_subscription(place: Place, dead: Run) -> None:
    message = Message(body=b"no event", message_id="odd-event-1")
    with place.client.events("saxpy.*", name="one"), place.client.events("saxpy.*", name="two"):
        assert tell(place.worker, "odd", message=message) is None
        place.wait_for(2)
    err = dead("show", "odd-event-1")[2]
    assert "means several dead letters, odd-event-1 of subscription 'one' and" in err.replace("'two'", "'one'")
    assert err.rstrip().endswith("give all of the id, or --name")
    assert dead("drop", "odd-event-1", "--name", "two")[0] == 0
    assert [each["subscription"] for each in json.loads(dead("list", "--json")[1])["events"]] == ["one"]


def test_a_user_without_subscriptions_has_none(dead: Run) -> None:
    assert "0 of 0 dead letters" in dead("list")[1]
    assert "no dead letter has that id (`kaasq events dead list` shows them)" in dead("show", "nowhere-1")[2]
