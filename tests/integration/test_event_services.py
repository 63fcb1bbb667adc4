"""Services and subscriptions on a real RabbitMQ, in processes that are killed, beside brokers that restart."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import kaasq
from kaasq import cli
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings
from kaasq.topology import pool_topology
from kaasq_bench.children import tied
from real_broker import Broker as Server
from real_broker import RealBroker
from tests.support.chain_steps import X, graph
from tests.support.events import tell
from tests.support.messaging import TIMEOUT_S, declare
from tests.support.workers import running_worker

ROOT = Path(__file__).parents[2]


def _hear_interrupts() -> None:
    """A shell's background job begins with them ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tied(sys.executable, "-m", "kaasq", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_interrupts,  # noqa: PLW1509  # it is one call into the kernel
    )


def stop(process: subprocess.Popen[str], number: int) -> tuple[int, str, str]:
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out, err


def test_a_service_killed_between_publish_and_ack_has_each_effect_once(rabbit_url: str, tmp_path: Path) -> None:
    store, marks = tmp_path / "store", tmp_path / "marks"
    marks.mkdir()
    extra = ("--store-capacity", str(1 << 28), "--no-store-sync")
    serve = ("serve", "tests.support.chain_steps:service", "--broker", rabbit_url, "--store", str(store))
    photos = ("a", "b")
    with (
        running_worker(rabbit_url, "default", store, *extra),
        kaasq.Client(rabbit_url, store=store) as client,
        client.events("third.completed", name="ends") as ends,
    ):
        for step, pattern in (("second", "first.completed"), ("third", "second.completed")):
            client.events(pattern, name=f"chain-{step}").close()  # before the service runs for the first time
        for photo in photos:
            client.run(graph("first"), x=X, out=kaasq.Keep(f"first/{photo}"))
        killed, seen = 0, set[str]()
        process = start(*serve, CHAIN_MARKS=str(marks))
        deadline = time.monotonic() + 90
        try:
            while len(seen) < len(photos) or killed < 6:
                assert time.monotonic() < deadline, (seen, killed)
                try:
                    event = ends.next(0.05)
                    seen.add(event.request_id)
                except TimeoutError:
                    pass
                if process.poll() is not None:
                    assert process.returncode == -signal.SIGKILL, process.communicate()
                    process.communicate()
                    killed += 1
                    process = start(*serve, CHAIN_MARKS=str(marks))
        finally:
            code, _, log = stop(process, signal.SIGTERM)
        assert code in {0, -signal.SIGTERM}, log  # it may have been told to stop before it had begun
        assert killed == len(list(marks.iterdir())) == 6
        kept = {each.name: each.version for each in client.names()}
        assert kept == {f"{step}/{photo}": 1 for step in ("first", "second", "third") for photo in photos}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "store"), store_capacity=1 << 28, store_sync=False)


@pytest.fixture
def worker_side(rabbit_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbit_url)
    broker.open(TIMEOUT_S)
    assert declare(broker, pool_topology("default", "s1")) is None
    yield broker
    broker.close()


def test_services_and_subscriptions_go_on_after_the_broker_was_restarted(
    own_rabbit: Server, settings: Settings
) -> None:
    worker = RabbitBroker(own_rabbit.url)
    worker.open(TIMEOUT_S)
    handled = queue.Queue[str]()

    @kaasq.on("saxpy.*")
    def handle(event: kaasq.Event, step: kaasq.Step) -> None:
        handled.put(event.request_id)

    with kaasq.Client(own_rabbit.url, settings=settings) as client:
        client.events("saxpy.*", name="kept").close()
        with client.events("saxpy.*") as passing, client.serve(handle):
            assert tell(worker, "before") is None
            assert handled.get(timeout=TIMEOUT_S) == passing.next(TIMEOUT_S).request_id == "before"
            own_rabbit.restart()
            assert tell(worker, "after") is None
            while (one := handled.get(timeout=TIMEOUT_S)) != "after":
                assert one == "before"  # its ack may have been lost
            while (heard := passing.next(TIMEOUT_S).request_id) != "after":
                assert heard == "before"
        with client.events("saxpy.*", name="kept") as kept:
            assert [kept.next(TIMEOUT_S).request_id for _ in range(2)] == ["before", "after"]
        for each in ("kept", "tests-integration-test_event_services-handle"):
            assert client.unsubscribe(each)
    worker.close()


def test_events_from_the_command_line(
    rabbit_url: str, worker_side: RabbitBroker, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main(["events", *arguments, "--broker", rabbit_url])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    with kaasq.Client(rabbit_url, settings=settings) as client:
        client.events("saxpy.*", name="cli").close()
    for number in range(3):
        assert tell(worker_side, f"r{number}", word=("completed", "failed", "completed")[number]) is None
    code, out, _ = run("saxpy.*", "--name", "cli", "--json", "--limit", "2", "--store", settings.store)
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [each["id"] for each in told] == ["r0.completed", "r1.failed"]
    assert told[1]["data"]["error"]["code"] == "kernel_failed"
    assert told[0]["traceparent"] == "00-r0-01"
    code, out, _ = run("saxpy.*", "--name", "cli", "--limit", "1", "--store", settings.store)
    assert (code, "saxpy completed r2 nothing in" in out) == (0, True)
    code, out, _ = run("list", "--json")
    assert (code, [each["name"] for each in json.loads(out)]) == (0, ["cli"])
    code, out, _ = run("list")
    assert (code, "guest.saxpy.*" in out) == (0, True)
    assert run("rm", "cli")[:2] == (0, "removed cli\n")
    code, _, err = run("rm", "cli")
    assert (code, "no subscription 'cli'" in err) == (1, True)
    code, _, err = run("saxpy")
    assert (code, "can match no event" in err) == (1, True)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_following_ends_with_a_signal_and_leaves_no_queue(
    rabbit_url: str,
    broker: RealBroker,
    worker_side: RabbitBroker,
    settings: Settings,
    number: signal.Signals,
    exit_code: int,
) -> None:
    def queues() -> set[str]:
        assert broker.management is not None
        return {each["name"] for each in broker.management.queues(urlsplit(rabbit_url).path[1:])}

    before = queues()
    process = start("events", "saxpy.*", "--broker", rabbit_url, "--store", settings.store)
    lines: queue.Queue[Any] = queue.Queue()
    assert process.stdout is not None
    reading = threading.Thread(target=lambda out: lines.put(out.readline()), args=(process.stdout,))
    reading.start()
    deadline = time.monotonic() + 30
    while lines.empty():  # it may not listen yet
        assert time.monotonic() < deadline
        tell(worker_side, "r1")
        time.sleep(0.1)
    assert "saxpy completed r1" in lines.get()
    reading.join()
    assert queues() > before
    code, _, err = stop(process, number)
    assert code == exit_code, err
    assert err.strip() == ""
    assert queues() == before
