"""`kaasq bench` as its users call it: what it measures on, what it says where it cannot, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from urllib.parse import urlsplit

import pytest

from kaasq.broker import wait_for
from kaasq.rabbit import RabbitBroker
from kaasq.topology import DEAD, pool_topology, work_queue
from kaasq_bench.children import tied
from kaasq_bench.rabbitmq.ports import free_ports
from kaasq_storage import open_store
from tests.support.workers import running_worker

WITHOUT_RABBITMQ = """
import sys
import kaasq_bench.rabbitmq.installation as installation
from kaasq.cli import main
installation.BIN_FOLDERS = ()
main(sys.argv[1:])
"""


def started(*arguments: str, folder, program: tuple[str, ...] = ("-m", "kaasq")) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)}
    return subprocess.Popen(
        tied(sys.executable, *program, "bench", *arguments),
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, folder, program: tuple[str, ...] = ("-m", "kaasq")) -> tuple[int, str, str]:
    process = started(*arguments, folder=folder, program=program)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def queues(broker) -> set[str]:
    return {each["name"] for each in broker.management.queues()} - {"kaasq.dead"}


def test_it_measures_the_users_pool_as_it_is_and_leaves_his_broker_and_his_store_as_they_were(
    own_rabbit, pool, tmp_path
):
    with running_worker(own_rabbit.url, pool, tmp_path / "store", "--queue-type", "classic"):
        before = queues(own_rabbit)
        reached = ["--broker", own_rabbit.url, "--pool", pool, "--store", str(tmp_path / "store")]
        code, out, err = run("messaging", "overhead", "--quick", "--json", "-", *reached, folder=tmp_path)
        assert code == 0, err
        assert queues(own_rabbit) == before
        with open_store(tmp_path / "store") as store:
            assert list(store.objects("guest")) == []
    report = json.loads(out)
    assert pool in report["on"]
    assert f"your pool '{pool}' on cpu" in err
    assert "bars met" in err
    rows = [row for part in report["parts"] for row in part["rows"]]
    assert {row["peer"] for row in rows if row["what"].startswith("no-op, classic, synced")} == {"pika echo"}
    assert any(row["peer"] == "Celery" and row["bar"]["limit"] == 0.5 for row in rows)
    assert not [part["broken"] for part in report["parts"] if part["broken"]]
    assert [each.name for each in tmp_path.glob("kaasq-bench-*")] == []


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_ends_what_it_started_and_removes_its_queues_and_folders(own_rabbit, tmp_path, number, exit_code):
    before = queues(own_rabbit)
    process = started("messaging", "--broker", own_rabbit.url, "--device", "cpu", folder=tmp_path)
    deadline = time.monotonic() + 60
    while not any("kaasq.bench.peer" in each for each in queues(own_rabbit)):  # so it is amid a measurement
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)
    assert process.returncode == exit_code, said
    assert queues(own_rabbit) == before
    assert list(tmp_path.iterdir()) == []


def test_without_any_rabbitmq_it_goes_through_memory_and_says_what_that_leaves_out(tmp_path):
    program = ("-c", WITHOUT_RABBITMQ)
    code, out, err = run("messaging", "copies", "--quick", "--device", "cpu", folder=tmp_path, program=program)
    assert code == 0, err
    assert "messages go through memory" in out
    assert "left out: needs a RabbitMQ: apt-get install rabbitmq-server" in out
    assert "cached" in out


def test_a_broker_that_was_named_and_does_not_answer_is_an_error(tmp_path):
    (port,) = free_ports(1)
    code, _, err = run("--broker", f"amqp://guest:guest@127.0.0.1:{port}/", "--connect-timeout", "1", folder=tmp_path)
    assert code == 1
    assert err.startswith("kaasq: broker_lost: ")


def test_a_pool_that_was_named_and_nobody_serves_is_an_error(own_rabbit, pool, tmp_path):
    code, _, err = run("messaging", "--broker", own_rabbit.url, "--pool", pool, folder=tmp_path)
    assert code == 1
    assert err.startswith("kaasq: unroutable: no worker serves pool")
    assert f"kaasq worker --pool {pool}" in err


def test_a_pool_whose_workers_have_gone_is_left_without_a_request(rabbit_url, pool, tmp_path):
    broker = RabbitBroker(rabbit_url)
    broker.open(10)
    try:
        wait_for(lambda done: broker.declare(pool_topology(pool, "cpu"), done), 10)
        code, _, err = run("messaging", "--broker", rabbit_url, "--pool", pool, folder=tmp_path)
        assert code == 1
        assert err.startswith("kaasq: unroutable: no worker serves pool")
        # A request would lie in the pool's queue until it expires, which is when the command gives up.
        assert [waiting(broker, each) for each in (work_queue(pool), DEAD)] == [0, 0]
    finally:
        broker.close()


def waiting(broker, queue: str) -> int:
    found: Future = Future()
    broker.inspect(queue, found.set_result)
    return found.result(10).messages


def test_a_user_who_may_not_use_the_echos_queue_is_told_which_rights_it_takes(own_rabbit, tmp_path):
    management = own_rabbit.management
    management.add_user("narrow", "secret")
    kaasqs = r"^kaasq\."
    management.set_permissions("narrow", configure=kaasqs, write=kaasqs, read=kaasqs)
    url = urlsplit(own_rabbit.url)._replace(netloc=f"narrow:secret@127.0.0.1:{urlsplit(own_rabbit.url).port}").geturl()
    try:
        code, _, err = run("messaging", "--broker", url, "--device", "cpu", folder=tmp_path)
    finally:
        management.delete_user("narrow")
    assert code == 1
    assert err.startswith("kaasq: broker_refused: ")
    assert r"write to '^(kaasq\.|amq\.default$)'" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["speed"], "'messaging'"), (["--json", "/nowhere/x.json"], "kaasq: bad_request: --json: there is no folder")],
)
def test_wrong_usage_is_told_before_anything_is_measured(arguments, said, tmp_path):
    code, _, err = run(*arguments, folder=tmp_path)
    assert code in {1, 2}
    assert said in err
