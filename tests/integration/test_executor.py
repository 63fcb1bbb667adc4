"""The executor against a real store and the CPU device: what is committed, once, and what survives a bad request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaasq import codec
from kaasq.ids import new_id
from kaasq.messages import Reply, Request, Stored, WorkerInfo
from kaasq.settings import Settings
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.executor.flight import Flight
from kaasq_workers.executor.line import Line
from kaasq_workers.executor.outcomes import Ended
from kaasq_workers.executor.serving import Executor
from kaasq_workers.link import Job, Vitals
from tests.support.graphs import only_output

ONE = only_output('extern "C" __global__ void one(int* out) { out[0] = 1; }', "one").freeze()


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


def executor(store: BufferStore, device: CpuDevice) -> Executor:
    return Executor(device, store, Settings(), WorkerInfo(host="h", pid=1, device="cpu", store=store.id))


def job(request: Request, key: str | None = None) -> Job:
    return Job(1, "guest", key or new_id(), codec.encode(request), codec.MSGPACK, None)


def vitals() -> Vitals:
    return Vitals.create()[0]


def ran(executor: Executor, job: Job) -> Ended:
    """What running it gives, not yet committed."""
    line: Line[Flight] = Line(1)
    page = vitals()
    executor._begin(job, line, page)
    for tag in list(line.flying):
        executor._end(tag, line, page)
    assert page.running == {}
    (ended,) = line.take_ended()
    return ended


def reply(answers: list) -> Reply:
    (answer,) = answers
    return codec.decode_reply(answer.reply, codec.MSGPACK)


def test_two_workers_that_ran_the_same_request_commit_it_once(store, device):
    one, other = executor(store, device), executor(store, device)
    same = job(Request(graph=ONE, keep={"out": "kept"}))
    first, second = ran(one, same), ran(other, same)  # both before either commits
    replies = [reply(one._commit([first])), reply(other._commit([second]))]
    assert [each.outputs["out"].version for each in replies] == [1, 1]
    (named,) = store.names("guest")
    assert named.version == 1


def test_the_other_workers_different_body_is_a_conflict(store, device):
    one, other = executor(store, device), executor(store, device)
    key = new_id()
    first = ran(one, job(Request(graph=ONE, keep={"out": "a"}), key))
    second = ran(other, job(Request(graph=ONE, keep={"out": "b"}), key))
    assert reply(one._commit([first])).status == "ok"
    assert reply(other._commit([second])).error.code == "conflict"
    assert [each.name for each in store.names("guest")] == ["a"]


def test_whatever_breaks_a_commit_costs_only_its_own_request(store, device, monkeypatch):
    one = executor(store, device)
    bad, good = (ran(one, job(Request(graph=ONE))) for _ in range(2))
    bad.queued_us = 2**70  # cannot be encoded
    replies = [codec.decode_reply(each.reply, codec.MSGPACK) for each in one._commit([bad, good])]
    assert [each.status for each in replies] == ["error", "ok"]
    assert replies[0].error.code == "internal"


@pytest.mark.parametrize("offset", [-1, 2**53, 2**64 - 1])
def test_an_offset_out_of_bounds_is_a_bad_request_naming_the_place(store, device, offset):
    one = executor(store, device)
    request = Request(graph=ONE, bind={"x": Stored(ref="0" * 64, offset=offset)})
    answered = reply(one._commit([ran(one, job(request))]))
    assert answered.error.code == "bad_request"
    assert answered.error.detail["at"].startswith("bind.x")
