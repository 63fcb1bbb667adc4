"""Continuations on a real RabbitMQ with real workers: what follows, whoever is killed, and for other users, too."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import kaasq
from kaasq import Output, Then
from kaasq.ids import new_id
from kaasq.settings import Settings
from kaasq_storage import open_store
from kaasq_workers.doctor.broker import check_broker
from tests.support.graphs import ENDLESS, only_output, saxpy, sum_of_squares
from tests.support.waiting import until
from tests.support.workers import RunningWorker, running_worker

ROOT = Path(__file__).parents[2]
N = 1000
X = np.arange(N, dtype=np.float32)
ONES = np.ones(N, dtype=np.float32)
SAXPY, SQUARES = saxpy(N), sum_of_squares(N)
STEPS = 4


class Pool:
    """A pool with one worker, and clients of it."""

    def __init__(self, url: str, name: str, store: Path) -> None:
        self.url, self.name, self.store = url, name, store

    def client(self, **changes) -> kaasq.Client:
        return kaasq.Client(self.url, **{"pool": self.name, "store": self.store, **changes})


@pytest.fixture(scope="module")
def pool(broker_url, tmp_path_factory) -> Iterator[Pool]:
    store = tmp_path_factory.mktemp("continuations") / "store"
    name = f"t{new_id()[-10:]}"
    with running_worker(broker_url, name, store):
        yield Pool(broker_url, name, store)


@pytest.fixture(scope="module")
def client(pool) -> Iterator[kaasq.Client]:
    with pool.client() as client:
        yield client


def total(client: kaasq.Client, **changes):
    follow = Then(SAXPY, x=Output("out"), y=ONES, a=1.0, name="added", then=Then(SQUARES, x=Output("out"), name="sum"))
    return client.submit(SAXPY, x=X, y=ONES, then=follow, **changes)


def test_what_follows_may_have_more_time_than_the_broker_can_count(client):
    year_s = 365 * 24 * 3600.0
    future = client.submit(SAXPY, x=X, y=ONES, timeout=2 * year_s, then=Then(SQUARES, x=Output("out"), timeout=year_s))
    assert future.then[0].result(20)["out"].shape == (1,)


def test_what_follows_runs_on_the_outputs_and_each_step_can_be_awaited(client):
    future = total(client)
    np.testing.assert_array_equal(future.result()["out"], 2 * X + 1)
    np.testing.assert_array_equal(future.then["added"].result()["out"], 2 * X + 2)
    np.testing.assert_allclose(future.then[-1].result()["out"], [np.sum((2 * X + 2) ** 2)], rtol=1e-5)
    assert [each.request_id for each in future.then] == [f"{future.request_id}+1", f"{future.request_id}+2"]


def test_large_intermediates_stay_in_the_store(client):
    n = 100_000
    graph = saxpy(n)
    large = np.arange(n, dtype=np.float32)
    result = client.run(graph, x=large, y=large, then=Then(graph, x=Output("out"), y=Output("out"), name="next"))
    assert set(result.refs) == {"out"}
    np.testing.assert_array_equal(result.then["next"].result()["out"], 9 * large)


def test_a_condition_chooses_the_branch(client):
    def branch(name: str, when) -> Then:
        return Then(SAXPY, x=X, y=X, a=Output("out"), when=when, name=name)

    more, less = branch("more", Output("out") > 10), branch("less", Output("out") <= 10)
    result = client.run(SQUARES, x=ONES, then=[more, less])
    np.testing.assert_array_equal(result.then["more"].result()["out"], N * X + X)
    with pytest.raises(kaasq.NotReached, match=r"step 'less' does not run: out is 1000.0, not <= 10"):
        result.then["less"].result()


def test_after_a_failure_nothing_runs_and_all_who_wait_are_told_why(client):
    broken = only_output('extern "C" __global__ void broken(int* out) { this is no C }', "broken")
    result = client.run(
        SQUARES,
        x=ONES,
        then=Then(broken, name="broken", then=Then(SAXPY, x=X, y=X, keep={"out": "never"}, name="after")),
    )
    with pytest.raises(kaasq.ModuleRejected):
        result.then["broken"].result()
    with pytest.raises(kaasq.NotReached, match=r"step 'after' does not run: .* ended with module_rejected") as caught:
        result.then["after"].result()
    assert caught.value.detail["cause"] == "module_rejected"
    assert [each.name for each in client.names("never")] == []


def test_the_time_of_the_request_is_that_of_the_chain(client):
    stuck = Then(only_output(ENDLESS, "endless"), name="stuck", then=Then(SAXPY, x=X, y=X, name="after"))
    started = time.monotonic()
    result = client.run(SQUARES, x=ONES, timeout=3, then=stuck)
    with pytest.raises(kaasq.DeadlineExceeded):
        result.then["stuck"].result(20)
    with pytest.raises(kaasq.NotReached):
        result.then["after"].result(20)
    assert time.monotonic() - started < 30  # and not the minute that a request has by default


def test_cancelling_a_request_that_has_ended_cancels_what_follows_it(client):
    stuck = Then(only_output(ENDLESS, "endless"), name="stuck", then=Then(SAXPY, x=X, y=X, name="after"))
    result = client.run(SQUARES, x=ONES, timeout=60, then=stuck)
    time.sleep(0.3)
    client.cancel(result.request_id)
    with pytest.raises(kaasq.Cancelled):
        result.then["stuck"].result(20)
    with pytest.raises(kaasq.NotReached, match="ended with cancelled"):
        result.then["after"].result(20)


def test_what_goes_to_a_pool_that_nobody_ever_served_is_answered(client):
    result = client.run(SQUARES, x=ONES, then=Then(SAXPY, x=X, y=X, pool="nobody-there", name="far"))
    with pytest.raises(kaasq.Unroutable, match="no worker ever served pool 'nobody-there'"):
        result.then["far"].result(20)


def test_a_mistake_in_what_follows_is_refused_before_anything_is_sent(client):
    with pytest.raises(kaasq.BadRequest, match=r"then\[0\].then\[0\].bind.x: graph .* has no output 'nope'"):
        client.run(SQUARES, x=ONES, then=Then(SAXPY, x=X, y=X, then=Then(SQUARES, x=Output("nope"))))


def test_asking_again_replays_what_follows_and_runs_nothing_twice(pool):
    """A client that lost its replies publishes its request again: the chain answers once more, under the same ids."""
    with pool.client() as client:
        kept = f"again/{new_id()}"
        future = client.submit(SAXPY, x=X, y=ONES, then=Then(SAXPY, x=Output("out"), y=ONES, keep={"out": kept}))
        future.result(), future.then[0].result()
        core, call = client._usable(), future._call
        replies: list = []
        for each in (call, *call.chain()):
            each.on_result = replies.append
            core.pending._awaited[each.id] = each
        core.pending._chains[call.id] = call
        core._publishing.publish(call)
        deadline = time.monotonic() + 20
        while len(replies) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [each.request_id for each in replies] == [call.id, f"{call.id}+1"]
        (named,) = client.names(kept)
        assert named.version == 1


def test_a_request_in_a_file_is_followed_as_it_says(pool, tmp_path):
    page = (ROOT / "docs" / "workflows.md").read_text()
    (request,) = re.findall(r"^```json request\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    program = [sys.executable, "-m", "kaasq", "run", "-", "--broker", pool.url, "--pool", pool.name]

    def run(what: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [*program, "--store", str(pool.store), *more]
        return subprocess.run(command, input=what, capture_output=True, text=True, timeout=60, check=False)

    said = json.loads(run(request, "--json").stdout)
    assert [each["id"] for each in said["then"]] == [f"{said['id']}+1", f"{said['id']}+2"]
    assert set(said["then"][1]["outputs"]) == {"out"}
    skipped = json.loads(request)
    skipped["then"][0]["if"]["value"] = 1e6
    ran = run(json.dumps(skipped))
    assert (ran.returncode, ran.stdout.count("not_reached")) == (0, 2)
    skipped["then"] = [{"graph": "scale", "bind": {"x": {"output": "sum"}}, "scalars": {"a": 1}}]
    ran = run(json.dumps(skipped), "--json")
    assert ran.returncode == 1
    assert "then[0].bind.x" in ran.stderr


# ---------------------------------------------------------------------------------------------------------------- loops

HALVE = kaasq.Module.from_source(
    r"""
extern "C" __global__ void halve(float* x, const float* by, float* next, float* left, int* ran, int n)
{ for (int i = 0; i < n; i++) { next[i] = x[i] / by[0]; x[i] = -1; } left[0] = next[0]; ran[0] += 1; }
extern "C" __global__ void slow(float* left) { volatile int spin = 0; while (spin < 20000000) spin = spin + 1; }
"""
)


def halving(n: int = 100, *, slow: bool = False) -> kaasq.Graph:
    """Writes over its input, and counts up an output that starts as zero."""
    graph = kaasq.Graph("halving")
    x, by = graph.input("x", shape=n, dtype="float32"), graph.input("by", shape=1, dtype="float32")
    next_, left = graph.output("next", shape=n, dtype="float32"), graph.output("left", shape=1, dtype="float32")
    ran = graph.output("ran", shape=1, dtype="int32")
    graph.launch(HALVE.kernel("halve"), grid=1, block=1, args=[x, by, next_, left, ran, np.int32(n)])
    if slow:
        graph.launch(HALVE.kernel("slow"), grid=1, block=1, args=[left])
    return graph


TWO = np.full(1, 2, np.float32)


@pytest.mark.parametrize("n", [100, 200_000])
def test_a_loop_ends_with_the_first_run_whose_output_says_so(client, n):
    until = kaasq.repeat({"x": "next"}, until=Output("left") < 0.01, most=1000)
    kept = f"loop/{new_id()}"
    result = client.run(halving(n), x=np.ones(n, np.float32), by=TWO, repeat=until, keep={"left": kept})
    assert (result.runs, result.held) == (7, True)
    np.testing.assert_array_equal(result["next"], np.full(n, 2.0**-7, np.float32))
    assert result["ran"] == [1]  # outputs start as zeros each time
    assert ("next" in result.refs) == (n == 200_000)
    (named,) = client.names(kept)
    assert named.version == 1


def test_a_loop_has_a_bound_and_may_follow_and_be_followed(client):
    def until(most: int):
        return kaasq.repeat({"x": "next"}, until=Output("left") < 0.01, most=most)

    graph = halving()
    follow = Then(graph, x=Output("next"), by=TWO, repeat=until(100), when=Output("left") >= 0.01, name="rest")
    result = client.run(graph, x=np.ones(100, np.float32), by=TWO, repeat=until(3), then=follow)
    assert (result.runs, result.held, result["left"]) == (3, False, [0.125])
    rest = result.then["rest"].result()
    assert (rest.runs, rest.held) == (4, True)


def test_a_loop_is_cancelled_between_two_runs_and_ends_with_its_time(client):
    forever = kaasq.repeat({"x": "next"}, until=Output("left") < -1, most=1_000_000)
    ones = np.ones(100, np.float32)
    future = client.submit(halving(slow=True), x=ones, by=TWO, repeat=forever)
    time.sleep(0.5)
    client.cancel(future.request_id)
    with pytest.raises(kaasq.Cancelled):
        future.result(20)
    with pytest.raises(kaasq.DeadlineExceeded):
        client.run(halving(slow=True), x=ones, by=TWO, repeat=forever, timeout=1)
    assert client.run(halving(), x=ones, by=TWO).runs == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (({}, Output("left") < 1, 3), "repeat.bind: expected a mapping"),
        (({"x": "next"}, True, 3), "repeat.until: expected a comparison of an Output"),
        (({"x": "next"}, Output("left") < 1, 0), "repeat.most: expected how often at most"),
        (({"x": "nope"}, Output("left") < 1, 3), "repeat.bind.x: graph 'halving' has no output 'nope'"),
        (({"x": "next"}, Output("next") < 1, 3), "repeat.until: output 'next' has 100 elements"),
        (({"x": "next"}, Output("left") < 1, 10**7), "repeat.most: must be from 1 to 1000000"),
    ],
)
def test_a_loop_that_cannot_be_is_refused(client, arguments, told):
    bind, until, most = arguments

    def attempt() -> None:
        loop = kaasq.repeat(bind, until=until, most=most)
        client.run(halving(), x=np.ones(100, np.float32), by=TWO, repeat=loop)

    with pytest.raises(kaasq.BadRequest) as caught:
        attempt()
    assert str(caught.value).startswith(told)


# ---------------------------------------------------------------------------------------------------------- killed ones


def chain(index: int) -> dict:
    """A chain whose every step leaves a name in the store: its version says how often that happened."""
    follow: tuple[Then, ...] = ()
    for step in range(STEPS, 0, -1):
        keep = {"out": f"ledger/{index}/{step}"}
        follow = (Then(SAXPY, x=Output("out"), y=ONES, a=1.0, keep=keep, name=str(step), then=follow),)
    return {"x": X, "y": ONES, "a": 1.0, "keep": {"out": f"ledger/{index}/0"}, "then": follow}


def executors(worker: RunningWorker) -> list[int]:
    return [each["pid"] for each in worker.events() if each["event"] == "executor.ready"]


@pytest.mark.parametrize("victim", ["front", "executor"])
def test_every_step_has_its_effect_once_whoever_is_killed(broker_url, tmp_path, victim):
    dice = random.Random(victim)
    pool = Pool(broker_url, f"t{new_id()[-10:]}", tmp_path / "store")
    chains = 120
    with pool.client(timeout=100) as client:
        worker = RunningWorker(pool.url, pool.name, pool.store)
        try:
            worker.wait_for("worker.started")
            client.run(SAXPY, x=X, y=ONES)
            futures = [client.submit(SAXPY, **chain(index)) for index in range(chains)]
            steps = [each for future in futures for each in (future, *future.then)]

            def wait_until_ended(count: int) -> None:
                until(lambda: sum(each.done() for each in steps) >= min(count, len(steps)))

            ended = caught = 0
            for _ in range(3):
                # Else whoever ran at the last kill may run at this one, too, and is rightly taken for the culprit.
                wait_until_ended(ended + 4)
                time.sleep(dice.uniform(0.0, 0.03))
                caught += sum(not each.done() for each in steps)
                if victim == "executor":
                    count = len(executors(worker))
                    os.kill(executors(worker)[-1], signal.SIGKILL)
                    worker.wait_for("executor.ready", count=count + 1)
                else:
                    worker.process.kill()
                    worker.process.wait()
                    worker = RunningWorker(pool.url, pool.name, pool.store)
                    worker.wait_for("worker.started")
                ended = sum(each.done() for each in steps)
            assert caught > 0  # or nothing was going on, and the kills showed nothing
            for future in futures:
                last = future.then[-1].result(100)
                assert last.refs["out"].version == 1
        finally:
            worker.stop()
    with open_store(pool.store, sync=False) as store:
        ledger = {each.name: each.version for each in store.names("guest", "ledger/")}
        assert ledger == {f"ledger/{index}/{step}": 1 for index in range(chains) for step in range(STEPS + 1)}
        for step in range(STEPS + 1):
            with store.open("guest", store.lookup("guest", name=f"ledger/7/{step}").ref) as reading:
                np.testing.assert_array_equal(np.frombuffer(reading.data, np.float32).copy(), X + 1 + step)


# ---------------------------------------------------------------------------------------------------------- other users


@pytest.mark.parametrize("tags", ["", "impersonator"])
def test_a_worker_publishes_for_another_user_if_the_broker_lets_it_and_says_so_if_not(
    broker, rabbit_url, tmp_path, monkeypatch, tags
):
    monkeypatch.setenv("KAASQ_CHAIN_SPILL", "0")  # each step goes through the broker
    parts = urlsplit(rabbit_url)
    vhost, host = parts.path[1:], parts.netloc.rpartition("@")[2]
    users = {name: secrets.token_hex(4) for name in (f"ann{new_id()[-6:]}", f"worker{new_id()[-6:]}")}
    ann, login = users
    try:
        for name, password in users.items():
            broker.management.add_user(name, password, tags=tags if name == login else "")
            broker.management.set_permissions(name, vhost=vhost)
        pool = Pool(f"amqp://{ann}:{users[ann]}@{host}/{vhost}", "p", tmp_path / "store")
        url = f"amqp://{login}:{users[login]}@{host}/{vhost}"
        with running_worker(url, "p", pool.store), pool.client() as client:
            findings = {each.check: each.found for each in check_broker(Settings(broker_url=url, pool="p"), None)}
            assert ("of any user" if tags else f"set_user_tags {login} impersonator") in findings["continuations"]
            for _ in range(2):
                future = total(client)
                np.testing.assert_array_equal(future.result(30)["out"], 2 * X + 1)
                if tags:
                    np.testing.assert_array_equal(future.then["added"].result(30)["out"], 2 * X + 2)
                    continue
                with pytest.raises(
                    kaasq.BrokerRefused, match=f"set_user_tags {login} impersonator .and its other tags"
                ):
                    future.then["added"].result(30)
                with pytest.raises(kaasq.NotReached, match="ended with broker_refused"):
                    future.then["sum"].result(30)
    finally:
        for name in users:
            broker.management.delete_user(name)
