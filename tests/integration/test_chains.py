"""Chains that go on inside an executor: when they do, when they do not, and whoever dies where, each step once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import Output, Then, codec
from kaasq.ids import new_id
from kaasq.messages import Continuation, Reply, Request, Source
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.link import Answer, Job
from kaasq_workers.vitals import next_tag
from tests.support.executors import serving
from tests.support.graphs import CRASH, only_output, saxpy
from tests.support.workers import RunningWorker, running_worker

N = 1000
X = np.arange(N, dtype=np.float32)
ONES = np.ones(N, dtype=np.float32)
SAXPY = saxpy(N)
FROZEN = SAXPY.freeze()


# ------------------------------------------------------------------------------------------------------- one executor


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    opened = open_store(tmp_path / "store", sync=False)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CpuDevice]:
    opened = CpuDevice(cache_dir=tmp_path_factory.mktemp("code") / "cpu", compiler=None, memory_limit=None)
    yield opened
    opened.close()


def chain(steps: int, kept: str = "step") -> Request:
    """Each step adds one, and keeps what it has."""
    then: tuple[Continuation, ...] = ()
    for step in range(steps, 0, -1):
        bind = {"x": Source(output="out"), "y": ONES.tobytes()}
        then = (Continuation(graph=FROZEN, bind=bind, scalars={"a": 1}, keep={"out": f"{kept}/{step}"}, then=then),)
    bind = {"x": X.tobytes(), "y": ONES.tobytes()}
    return Request(graph=FROZEN, bind=bind, scalars={"a": 1}, keep={"out": f"{kept}/0"}, then=then)


def job(request: Request, content_type: str = codec.MSGPACK, **changes) -> Job:
    now_ms = time.time_ns() // 1_000_000
    made = Job(1, "guest", "r", codec.encode(request, content_type), content_type, now_ms, taken_ms=now_ms)
    return msgspec.structs.replace(made, **changes)


def reply(answer: Answer, content_type: str = codec.MSGPACK) -> Reply:
    return codec.decode_reply(answer.reply, content_type)


@pytest.mark.parametrize("content_type", [codec.MSGPACK, codec.JSON])
def test_a_chain_goes_on_without_the_broker_and_each_step_has_its_answer(store, device, content_type):
    with serving(store, device) as one:
        one.send(job(chain(3), content_type))
        answers = one.answers(4)
    tags = [1]
    while len(tags) < 4:
        tags.append(next_tag(tags[-1]) or 0)
    assert [each.tag for each in answers] == tags
    assert [reply(each, content_type).id for each in answers] == ["r", "r+1", "r+2", "r+3"]
    assert [each.onward and each.onward.id for each in answers] == ["r+1", "r+2", "r+3", None]
    assert [each.then for each in answers] == [[]] * 4
    assert {each.name: each.version for each in store.names("guest")} == {f"step/{step}": 1 for step in range(4)}
    with store.open("guest", store.lookup("guest", name="step/3").ref) as reading:
        np.testing.assert_array_equal(np.frombuffer(reading.data, np.float32).copy(), X + 4)


def test_one_branch_goes_on_and_the_others_are_published(store, device):
    near = chain(1).then[0]
    far = msgspec.structs.replace(near, pool="far", keep={})
    with serving(store, device) as one:
        one.send(job(msgspec.structs.replace(chain(0), then=(far, near, near))))
        answers = one.answers(2)
    assert [each.id for each in answers[0].then] == ["r+1", "r+3"]
    assert answers[0].onward is not None
    assert reply(answers[1]).id == answers[0].onward.id == "r+2"


def test_a_repeat_is_answered_from_its_outcomes_and_goes_on_all_the_same(store, device):
    with serving(store, device) as one:
        for tag in (1, 2):
            one.send(job(chain(2), tag=tag, redelivered=tag == 2, delivery=f"e.{tag}"))
            assert [reply(each).status for each in one.answers(3)] == ["ok"] * 3
    assert {each.version for each in store.names("guest")} == {1}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"chain_spill": 0.0}, {}),
        ({"chain_hold": 0.0}, {}),
        ({}, {"alone": True}),
        ({}, {"taken_ms": 1}),
    ],
    ids=["spill", "hold", "suspect", "old"],
)
def test_what_is_not_to_go_on_here_is_published(store, device, settings, changes):
    with serving(store, device, **settings) as one:
        one.send(job(chain(2), **changes))
        (answer,) = one.answers(1)
    assert (answer.onward, [each.id for each in answer.then]) == (None, ["r+1"])


def test_an_executor_that_drains_publishes_what_follows(store, device):
    with serving(store, device) as one:
        one.vitals.drain()
        one.send(job(chain(2)))
        (answer,) = one.answers(1)
    assert (answer.onward, [each.id for each in answer.then]) == (None, ["r+1"])


def test_others_have_their_turn_between_the_steps_of_a_chain(store, device):
    with serving(store, device, in_flight=1) as one:
        others = [job(chain(0, f"o{tag}"), tag=tag, id=f"o{tag}", tenant="other") for tag in range(2, 5)]
        one.send(job(chain(6)), *others)
        ids = [reply(each).id for each in one.answers(10)]
    assert max(ids.index(f"o{tag}") for tag in range(2, 5)) < ids.index("r+4")


def test_a_chain_that_is_cancelled_ends_at_its_next_step(store, device):
    with serving(store, device) as one:
        one.vitals.withdraw(1)  # as it is marked while the first step runs, which looks no more
        one.send(job(chain(2), tag=next_tag(1)))
        (answer,) = one.answers(1)
    assert reply(answer).status == "cancelled"


# ------------------------------------------------------------------------------------------------- workers that die


STEPS = 3


def follow(kept: str) -> tuple[Then, ...]:
    then: tuple[Then, ...] = ()
    for step in range(STEPS, 0, -1):
        then = (Then(SAXPY, x=Output("out"), y=ONES, a=1.0, keep={"out": f"{kept}/{step}"}, name=str(step), then=then),)
    return then


def start(client: kaasq.Client, kept: str):
    return client.submit(SAXPY, x=X, y=ONES, a=1.0, keep={"out": f"{kept}/0"}, then=follow(kept))


def check(store_path: Path, kept: str) -> None:
    """Each step happened once, on what the one before gave."""
    with open_store(store_path, sync=False) as store:
        versions = {each.name: each.version for each in store.names("guest", f"{kept}/")}
        assert versions == {f"{kept}/{step}": 1 for step in range(STEPS + 1)}
        for step in range(STEPS + 1):
            with store.open("guest", store.lookup("guest", name=f"{kept}/{step}").ref) as reading:
                np.testing.assert_array_equal(np.frombuffer(reading.data, np.float32).copy(), X + 1 + step)


def test_an_executor_that_dies_between_any_two_steps_costs_and_doubles_nothing(broker_url, tmp_path, deaths):
    pool, store = f"t{new_id()[-10:]}", tmp_path / "store"
    with (
        running_worker(broker_url, pool, store),
        kaasq.Client(broker_url, pool=pool, store=store, timeout=60) as client,
    ):
        client.run(SAXPY, x=X, y=ONES)
        for moment, most in (("ended", 4), ("committed", 4), ("told", 4), ("begun", 4)):
            deaths.at(moment)
            future = start(client, moment)
            replies = [future.result(60), *(each.result(60) for each in future.then)]
            assert [each.refs["out"].version for each in replies] == [1] * 4
            # What follows a suspect goes through the broker, so not every step is one that the executor went on to.
            assert most // 2 <= deaths.count(moment) <= most
            check(store, moment)


def light(kept: str) -> tuple[Then, ...]:
    """Only the last step keeps what it has: each of them may begin before the one before it is durable."""
    then = (Then(SAXPY, x=Output("out"), y=ONES, a=1.0, keep={"out": kept}),)
    for _ in range(STEPS - 1):
        then = (Then(SAXPY, x=Output("out"), y=ONES, a=1.0, then=then),)
    return then


def test_an_executor_that_dies_before_steps_are_durable_that_were_begun_costs_and_doubles_nothing(
    broker_url, tmp_path, deaths
):
    pool, store = f"t{new_id()[-10:]}", tmp_path / "store"
    with (
        running_worker(broker_url, pool, store),
        kaasq.Client(broker_url, pool=pool, store=store, timeout=60) as client,
    ):
        client.run(SAXPY, x=X, y=ONES)
        for kept, moments in (("early", ("begun 1", "ended 3")), ("late", ("begun 3", "committed 2"))):
            deaths.at(*moments)
            future = client.submit(SAXPY, x=X, y=ONES, a=1.0, then=light(kept))
            replies = [future.result(60), *(each.result(60) for each in future.then)]
            for step, each in enumerate(replies[:-1]):
                np.testing.assert_array_equal(each["out"], X + 1 + step)
            assert replies[-1].refs["out"].version == 1
            np.testing.assert_array_equal(client.get(kept), X + 1 + STEPS)
        assert [deaths.count(each) for each in ("begun", "ended", "committed")] == [2, 1, 1]


def test_a_step_that_kills_its_executor_is_the_one_to_blame_though_the_one_before_it_was_not_durable(
    broker_url, tmp_path
):
    pool, store = f"t{new_id()[-10:]}", tmp_path / "store"
    with (
        running_worker(broker_url, pool, store),
        kaasq.Client(broker_url, pool=pool, store=store, timeout=60) as client,
    ):
        future = client.submit(SAXPY, x=X, y=ONES, a=1.0, then=(Then(only_output(CRASH, "crash")),))
        np.testing.assert_array_equal(future.result(60)["out"], X + 1)
        with pytest.raises(kaasq.KernelFailed, match="killed its executor 2 times"):
            future.then[0].result(60)
        np.testing.assert_array_equal(client.run(SAXPY, x=X, y=ONES, a=1.0)["out"], X + 1)


def test_a_worker_that_dies_between_any_two_steps_costs_and_doubles_nothing(broker_url, tmp_path, deaths):
    pool, store = f"t{new_id()[-10:]}", tmp_path / "store"
    with kaasq.Client(broker_url, pool=pool, store=store, timeout=100) as client:
        worker = RunningWorker(broker_url, pool, store)
        try:
            worker.wait_for("worker.started")
            for moment in ("heard", "sent"):
                deaths.at(moment)
                future = start(client, moment)
                until = time.monotonic() + 60
                while not future.then[-1].done() and time.monotonic() < until:
                    if worker.process.poll() is not None:
                        worker.stop()
                        worker = RunningWorker(broker_url, pool, store)
                    time.sleep(0.02)
                replies = [each.result(1) for each in (future, *future.then)]
                assert [each.refs["out"].version for each in replies] == [1] * 4
                assert deaths.count(moment) == STEPS + 1
                check(store, moment)
        finally:
            worker.stop()


SLOW = only_output(
    r"""extern "C" __global__ void slow(int* out)
    { volatile int spin = 0; while (spin < 50000000) spin = spin + 1; out[0] = 1; }""",
    "slow",
)


def test_a_worker_that_drains_lets_a_long_chain_go_to_the_next_one(broker_url, tmp_path):
    pool, store = f"t{new_id()[-10:]}", tmp_path / "store"
    then: tuple[Then, ...] = ()
    for step in range(40, 0, -1):
        then = (Then(SLOW, keep={"out": f"slow/{step}"}, then=then),)
    with kaasq.Client(broker_url, pool=pool, store=store, timeout=100) as client:
        first = RunningWorker(broker_url, pool, store)
        try:
            first.wait_for("worker.started")
            future = client.submit(SLOW, then=then)
            future.then[1].result(60)
            assert first.stop() == 0
            gone = sum(each.done() for each in future.then)
            assert gone < 40
        finally:
            first.stop()
        with running_worker(broker_url, pool, store):
            future.then[-1].result(60)
            assert {each.version for each in client.names("slow/")} == {1}
