"""The outcome protocol on a real store and device: whatever executors do in whatever order, a request ends once."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kaasq import codec
from kaasq.errors import KernelFailed
from kaasq.messages import ErrorBody, Reply, Request, WorkerInfo
from kaasq.settings import Settings
from kaasq_storage import Claim, open_store
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.flight import Flight
from kaasq_workers.executor.line import Line
from kaasq_workers.executor.serving import Executor
from kaasq_workers.link import Answer, Job
from kaasq_workers.vitals import Vitals
from tests.support.graphs import only_output

TENANT = "guest"
IDS = ("one", "two")
MOST_ATTEMPTS = 2
GRAPHS = tuple(
    only_output(f'extern "C" __global__ void put(int* out) {{ out[0] = {value}; }}', "put").freeze() for value in (1, 2)
)
EXECUTORS = st.integers(0, 2)


def request(key: str, body: int) -> Request:
    """One of two bodies under an id; both keep their output under the same name."""
    return Request(graph=GRAPHS[body], keep={"out": f"kept/{key}"})


class Waiting(NamedTuple):
    """A message in the queue."""

    key: str
    body: int
    redelivered: bool


class Running(NamedTuple):
    """A delivery that an executor has run, and not committed yet. Not ``held``: the broker has taken it back."""

    message: Waiting
    ended: Ended
    held: bool


class Outcomes(RuleBasedStateMachine):
    device: CpuDevice

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="kaasq-outcomes-")
        self.store = open_store(Path(self.folder) / "store", sync=False)
        self.tags = itertools.count(1)
        self.queue: list[Waiting] = []
        self.executors = [self.executor() for _ in range(3)]
        self.running: dict[int, list[Running]] = defaultdict(list)
        self.first: dict[str, tuple[int, Reply]] = {}  # the body that an id means, and its outcome
        self.unended: Counter[str] = Counter()  # redeliveries that were begun while there was no outcome
        self.settled: Counter[str] = Counter()

    def teardown(self) -> None:
        """Everything that is still in the queue is answered at the end."""
        try:
            for which in range(3):
                self.commit(which)
            while self.queue:
                self.deliver(0)
                self.commit(0)
            self.once()
            assert self.first.keys() == set(self.settled)
        finally:
            for each in self.executors:
                each.close()
            self.store.close()
            shutil.rmtree(self.folder)

    def executor(self) -> Executor:
        worker = WorkerInfo(host="h", pid=next(self.tags), device="cpu", store=self.store.id)
        return Executor(self.device, self.store, Settings(most_attempts=MOST_ATTEMPTS), worker)

    @rule(key=st.sampled_from(IDS), body=st.integers(0, 1))
    def publish(self, key: str, body: int) -> None:
        """A request; or a client's repeat of it; or somebody's other one under the same id."""
        self.queue.append(Waiting(key, body, redelivered=False))

    @precondition(lambda self: self.queue)
    @rule(which=EXECUTORS)
    def deliver(self, which: int) -> None:
        """An executor takes a message and runs it, unless it finds its outcome; nothing is committed yet."""
        message = self.queue.pop(0)
        if any(each.message.key == message.key for each in self.running[which]):
            self.commit(which)  # as its line would have it
        tag = next(self.tags)
        job = Job(
            tag,
            TENANT,
            message.key,
            codec.encode(request(message.key, message.body)),
            codec.MSGPACK,
            None,
            redelivered=message.redelivered,
            delivery=f"d{tag}",
        )
        line: Line[Flight] = Line(1)
        vitals = Vitals.create()[0]
        self.executors[which]._begin(job, line, vitals)
        for running in list(line.flying):
            self.executors[which]._end(running, line, vitals, onward=False)
        (ended,) = line.take_ended()
        if ended.claimed:
            self.unended[message.key] += 1
        self.running[which].append(Running(message, ended, held=True))

    @rule(which=EXECUTORS)
    def commit(self, which: int) -> None:
        """It commits what it has run, however long ago, in one group."""
        group = self.running.pop(which, [])
        if not group:
            return
        for running, answer in zip(group, self.executors[which]._commit([each.ended for each in group]), strict=True):
            self.answered(running, answer)

    @rule(which=EXECUTORS)
    def die(self, which: int) -> None:
        """Its process ends: what it ran is gone, what it held is delivered again."""
        for running in self.running.pop(which, []):
            running.ended.discard()
            self.give_back(running)
        self.executors[which].close()
        self.executors[which] = self.executor()

    @rule(which=EXECUTORS)
    def pause(self, which: int) -> None:
        """It stands still for so long that the broker takes back what it holds; then it may go on."""
        for running in self.running[which]:
            self.give_back(running)
        self.running[which] = [each._replace(held=False) for each in self.running[which]]

    def give_back(self, running: Running) -> None:
        if running.held:
            self.queue.insert(0, running.message._replace(redelivered=True))

    def answered(self, running: Running, answer: Answer) -> None:
        reply = codec.decode_reply(answer.reply, codec.MSGPACK)
        key, body, _ = running.message
        meant, outcome = self.first.setdefault(key, (body, reply))
        if meant == body:
            assert (reply.status, reply.outputs, reply.error) == (outcome.status, outcome.outputs, outcome.error)
        else:
            assert reply.error is not None
            assert reply.error.code == "conflict"
        if answer.dead:
            assert self.unended[key] >= MOST_ATTEMPTS
        if running.held:
            self.settled[key] += 1

    @invariant()
    def once(self) -> None:
        """One outcome, and of what it keeps one version; a claim only as long as there is none."""
        kept = {each.name: each.version for each in self.store.names(TENANT)}
        for key in IDS:
            known = self.store.outcome(TENANT, key)
            assert (known is not None) == (key in self.first)
            with self.store.transaction() as transaction:
                claim = transaction.claim(TENANT, key)
            if known is None:
                assert f"kept/{key}" not in kept
                continue
            assert claim is None
            told = codec.decode_reply(known.reply, codec.MSGPACK)
            assert told.outputs == self.first[key][1].outputs
            assert kept.get(f"kept/{key}") == (1 if told.status == "ok" else None)


@pytest.fixture(scope="module")
def device(code_folder):
    opened = CpuDevice(cache_dir=code_folder / "cpu")
    yield opened
    opened.close()


def test_any_order_of_events_ends_in_one_outcome_and_one_version(device):
    machine = type("Machine", (Outcomes,), {"device": device})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store", sync=False) as opened:
        yield opened


def executor(store, device, **changed) -> Executor:
    return Executor(device, store, Settings(**changed), WorkerInfo(host="h", pid=7, device="cpu", store=store.id))


def job(delivery: str, **changed) -> Job:
    body = codec.encode(request("one", 0))
    fields = {"redelivered": True, "delivery": delivery, **changed}
    return Job(1, TENANT, "one", body, codec.MSGPACK, None, **fields)


def begun(made: Executor, job: Job) -> Ended:
    """As far as an executor comes that then dies."""
    line: Line[Flight] = Line(1)
    vitals = Vitals.create()[0]
    made._begin(job, line, vitals)
    for tag in list(line.flying):
        made._end(tag, line, vitals, onward=False)
    return line.take_ended()[0]


def answer(made: Executor, ended: Ended) -> tuple[Answer, Reply]:
    (given,) = made._commit([ended])
    assert given is not None
    return given, codec.decode_reply(given.reply, codec.MSGPACK)


def claimed(store) -> Claim | None:
    with store.transaction() as transaction:
        return transaction.claim(TENANT, "one")


def test_a_request_that_no_worker_lives_to_end_is_given_up_with_what_is_known(store, device):
    for number in range(1, 4):
        begun(executor(store, device, most_attempts=3), job(f"d{number}")).discard()
        assert claimed(store).attempts == number
    last = executor(store, device, most_attempts=3)
    given, reply = answer(last, begun(last, job("d4")))
    assert given.dead
    assert reply.error.code == "kernel_failed"
    assert reply.error.detail["attempts"] == 3
    assert reply.error.detail["worker"] == "h/7/cpu"
    assert claimed(store) is None
    again, replayed = answer(last, begun(last, job("d5")))  # the worker may have died before the letter was written
    assert (again.dead, replayed.error) == (True, reply.error)
    repeat, replayed = answer(last, begun(last, job("d6", redelivered=False)))
    assert (repeat.dead, replayed.error) == (False, reply.error)


def test_what_is_delivered_once_counts_once_however_often_its_executors_die(store, device):
    for _ in range(4):
        begun(executor(store, device), job("d1")).discard()
    assert claimed(store).attempts == 1


def test_each_executor_signs_with_an_epoch_of_its_own_and_the_end_removes_the_claim(store, device):
    one, other = executor(store, device), executor(store, device)
    begun(one, job("d1")).discard()
    first = claimed(store)
    ended = begun(other, job("d1"))
    assert claimed(store).epoch != first.epoch
    assert answer(other, ended)[1].status == "ok"
    assert claimed(store) is None


def test_a_first_delivery_makes_no_claim(store, device):
    begun(executor(store, device), job("d1", redelivered=False)).discard()
    assert claimed(store) is None


def test_what_ends_without_an_outcome_leaves_no_claim(store, device):
    made = executor(store, device)
    ended = begun(made, job("d1"))
    ended.discard()
    ended.digest, ended.error = None, KernelFailed("as if it may be sent again")
    assert answer(made, ended)[0].error is not None
    assert claimed(store) is None
    assert store.outcome(TENANT, "one") is None


def test_a_claim_expires(device, tmp_path):
    now = 1e9
    with open_store(tmp_path / "store", sync=False, clock=lambda: now) as store:
        with store.transaction() as transaction:
            transaction.stake(TENANT, "one", Claim(worker="w", epoch="e", delivery="d", expires=now + 10))
        now += 11
        assert claimed(store) is None
        store.gc()
        with store.transaction() as transaction:
            transaction.stake(TENANT, "one", Claim(worker="w", epoch="e", delivery="d", expires=now + 10))
        assert claimed(store) is not None


def test_a_verdict_is_the_requests_outcome_unless_it_has_one(store, device):
    error = ErrorBody.of(KernelFailed("it killed its executor", how="SIGSEGV", kills=2))
    made = executor(store, device)
    given, reply = answer(made, begun(made, job("d1", verdict=error)))
    assert (given.dead, reply.error, reply.status) == (True, error, "error")
    assert given.event is not None
    assert answer(made, begun(made, job("d2", redelivered=False)))[1].error == error
    other = codec.encode(request("one", 1))
    conflicting = msgspec.structs.replace(job("d3"), body=other)
    assert answer(made, begun(made, conflicting))[1].error.code == "conflict"


def test_a_verdict_on_a_request_by_hash_has_an_event_if_an_executor_had_read_the_graph(store, device):
    error = ErrorBody.of(KernelFailed("it killed its executor", kills=2))
    by_hash = codec.encode(Request(graph="ab" * 32))
    made = executor(store, device)
    for graph in ("images.resize", None):
        given, reply = answer(
            made, begun(made, msgspec.structs.replace(job("d1", verdict=error), body=by_hash, graph=graph))
        )
        assert (reply.error, given.graph, given.event is None) == (error, graph, graph is None)


def test_a_verdict_on_what_has_ended_changes_nothing(store, device):
    made = executor(store, device)
    ok = answer(made, begun(made, job("d1")))[1]
    error = ErrorBody.of(KernelFailed("too late", kills=2))
    given, reply = answer(made, begun(made, job("d2", verdict=error)))
    assert (given.dead, reply.status, reply.outputs) == (False, "ok", ok.outputs)
