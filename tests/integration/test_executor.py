"""The executor against a real store and the CPU device: what is committed, once, and what survives a bad request."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kaasq import codec
from kaasq.errors import KernelFailed
from kaasq.ids import new_id
from kaasq.messages import ErrorBody, Reply, Request, Stored, WorkerInfo
from kaasq.quotas import Quota, Quotas
from kaasq.settings import Settings
from kaasq_storage import BufferStore, open_store
from kaasq_workers.channel import BlockingChannel, FrameReader, frame
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.flight import Flight
from kaasq_workers.executor.line import Line
from kaasq_workers.executor.serving import Executor
from kaasq_workers.link import Answer, FromExecutor, Job
from kaasq_workers.vitals import Vitals
from tests.support.graphs import only_output, saxpy
from tests.support.logs import log_lines

ONE = only_output('extern "C" __global__ void one(int* out) { out[0] = 1; }', "one").freeze()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    opened = open_store(tmp_path / "store", sync=False)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def device(code_folder: Path) -> Iterator[CpuDevice]:
    opened = CpuDevice(cache_dir=code_folder / "cpu", compiler=None, memory_limit=None)
    yield opened
    opened.close()


def executor(store: BufferStore, device: CpuDevice, *, in_flight: int = 0, quotas: Quotas | None = None) -> Executor:
    worker = WorkerInfo(host="h", pid=1, device="cpu", store=store.id)
    return Executor(device, store, Settings(in_flight=in_flight, quotas=quotas or Quotas()), worker)


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
        executor._end(tag, line, page, onward=False)
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


def test_of_two_workers_the_first_ones_reply_counts_for_both_where_all_of_it_is_inline(store, device):
    one, other = executor(store, device), executor(store, device)
    same = job(Request(graph=ONE))
    first, second = ran(one, same), ran(other, same)
    first.queued_us, second.queued_us = 11, 22
    replies = [reply(one._commit([first])), reply(other._commit([second]))]
    assert [each.timings.queued for each in replies] == [11, 11]
    assert [each.outputs["out"].inline[:4] for each in replies] == [b"\1\0\0\0"] * 2


@pytest.mark.parametrize(("keep", "others"), [("a", "b"), ("a", None), (None, "b")])
def test_the_other_workers_different_body_is_a_conflict(store, device, keep, others):
    one, other = executor(store, device), executor(store, device)
    key = new_id()
    first = ran(one, job(Request(graph=ONE, keep={"out": keep} if keep else {}), key))
    second = ran(other, job(Request(graph=ONE, keep={"out": others} if others else {}), key))
    assert reply(one._commit([first])).status == "ok"
    assert reply(other._commit([second])).error.code == "conflict"
    assert [each.name for each in store.names("guest")] == ([keep] if keep else [])


def test_whatever_breaks_a_commit_costs_only_its_own_request(store, device, monkeypatch):
    one = executor(store, device)
    bad, good = (ran(one, job(Request(graph=ONE))) for _ in range(2))
    bad.queued_us = 2**70  # cannot be encoded
    replies = [codec.decode_reply(each.reply, codec.MSGPACK) for each in one._commit([bad, good])]
    assert [each.status for each in replies] == ["error", "ok"]
    assert replies[0].error.code == "internal"


def test_a_request_that_is_too_late_because_an_attempt_killed_its_executor_says_so(store, device):
    late = msgspec.structs.replace(job(Request(graph=ONE, timeout_ms=1)), published_ms=1)
    plain, suspected, killer = (
        reply(one._commit([ran(one, msgspec.structs.replace(late, id=new_id(), died=how, kills=kills))])).error
        for one in [executor(store, device)]
        for how, kills in ((None, 0), ("SIGSEGV", 0), ("SIGSEGV", 1))
    )
    assert {each.code for each in (plain, suspected, killer)} == {"deadline_exceeded"}
    assert plain.message.endswith("ms before a worker could start it")
    assert suspected.message.startswith("the executor that had it died (SIGSEGV), and its time was over ")
    assert killer.message.startswith("an attempt at it killed its executor (SIGSEGV), and its time was over ")
    assert (killer.detail["how"], killer.detail["kills"]) == ("SIGSEGV", 1)


def test_a_request_with_more_inline_than_its_tenant_may_is_refused_and_not_remembered(store, device):
    request = Request(graph=ONE, bind={"x": bytes(100)})
    refused = reply_of(executor(store, device, quotas=Quotas(inline_bytes=99)), request, "same")
    assert refused.error.code == "quota_exceeded"
    assert refused.error.detail == {"which": "inline_bytes", "limit": 99, "used": 100}
    allowed = Quotas(inline_bytes=99, tenants={"guest": Quota(inline_bytes=0)})
    assert reply_of(executor(store, device, quotas=allowed), request, "same").error.code != "quota_exceeded"


def test_device_seconds_are_charged_to_the_tenant_and_what_has_an_outcome_is_answered_all_the_same(store, device):
    one = executor(store, device, quotas=Quotas(device_seconds=1e-9, window=3600.0))
    request = Request(graph=ONE)
    assert reply_of(one, request, "first").status == "ok"
    refused = reply_of(one, request, "second")
    assert (refused.error.code, refused.error.detail["which"]) == ("quota_exceeded", "device_seconds")
    assert refused.error.detail["retry_after_s"] > 0
    assert reply_of(one, request, "first").status == "ok"
    other = msgspec.structs.replace(job(request), tenant="other")
    assert reply(one._commit([ran(one, other)])).status == "ok"


def test_a_module_that_is_not_on_the_workers_list_is_forbidden_and_its_name_told(store, device, tmp_path):
    (module,) = saxpy().freeze().modules.values()
    (tmp_path / "list").write_text("")
    settings = Settings(module_policy="listed", module_list=str(tmp_path / "list"))
    worker = WorkerInfo(host="h", pid=1, device="cpu", store=store.id)
    request = Request(graph=saxpy().freeze(), bind={"x": bytes(16), "y": bytes(16)})
    refused = reply_of(Executor(device, store, settings, worker), request, "first")
    assert (refused.error.code, refused.error.detail["module"]) == ("forbidden", module.hash)
    (tmp_path / "list").write_text(module.hash)
    assert reply_of(Executor(device, store, settings, worker), request, "second").status == "ok"


def test_a_graph_that_was_refused_has_to_come_whole_again_since_its_hash_leaves_signatures_out(store, device, tmp_path):
    (tmp_path / "list").write_text("")
    settings = Settings(module_policy="listed", module_list=str(tmp_path / "list"))
    one = Executor(device, store, settings, WorkerInfo(host="h", pid=1, device="cpu", store=store.id))
    whole = Request(graph=saxpy().freeze(), bind={"x": bytes(16), "y": bytes(16)})
    assert reply_of(one, whole, "whole").error.code == "forbidden"
    assert reply_of(one, msgspec.structs.replace(whole, graph=whole.graph.hash), "hash").error.code == "unknown_graph"


def test_asking_for_a_graph_is_no_failure_that_an_operator_reads_of(store, device):
    with log_lines() as lines:
        one = executor(store, device)
        assert reply_of(one, Request(graph="0" * 64), "hash").error.code == "unknown_graph"
        assert reply_of(one, Request(graph=saxpy().freeze(), bind={"x": bytes(16)}), "x").error.code == "buffer_missing"
    told = [(line["code"], line["log_level"]) for line in lines if line["event"] == "request.failed"]
    assert told == [("unknown_graph", "debug"), ("buffer_missing", "info")]


def test_the_log_says_whose_outcome_the_store_had_no_room_for(store, device):
    store.set_quotas(10, {})
    large = only_output('extern "C" __global__ void one(int* out) { out[0] = 1; }', "one", 16 << 10).freeze()
    with log_lines() as lines:  # it goes with the reply, for which there is no room
        assert reply_of(executor(store, device), Request(graph=large), "large").error.code == "quota_exceeded"
    (told,) = [each for each in lines if each["event"] == "commit.failed"]
    assert (told["request"], told["tenant"], told["code"]) == ("large", "guest", "quota_exceeded")


def test_the_stored_inputs_of_a_request_that_is_dead_lettered_are_kept_for_its_letter(store, device):
    stored, _ = store.put("guest", bytes(16), ttl_s=60)
    one = executor(store, device)
    verdict = ErrorBody(code="kernel_failed", message="it crashed twice", detail={"kills": 2})
    request = Request(graph=saxpy().freeze(), bind={"x": Stored(ref=stored.ref), "y": bytes(16)})
    condemned = msgspec.structs.replace(job(request), verdict=verdict)
    (answer,) = one._commit([ran(one, condemned)])
    assert answer.dead
    assert store.lookup("guest", ref=stored.ref).expires > time.time() + Settings().dead_ttl - 60


def test_outputs_beyond_the_tenants_bytes_are_refused_and_nothing_of_them_stays(store, device):
    store.set_quotas(10, {})
    one = executor(store, device)
    refused = reply_of(one, Request(graph=ONE, keep={"out": "kept"}), "same")
    assert (refused.error.code, refused.error.detail["which"]) == ("quota_exceeded", "stored_bytes")
    assert list(store.names("guest")) == []
    store.set_quotas(0, {})
    assert reply_of(one, Request(graph=ONE, keep={"out": "kept"}), "same").status == "ok"


def reply_of(executor: Executor, request: Request, key: str) -> Reply:
    return reply(executor._commit([ran(executor, job(request, key))]))


@pytest.mark.parametrize("offset", [-1, 2**53, 2**64 - 1])
def test_an_offset_out_of_bounds_is_a_bad_request_naming_the_place(store, device, offset):
    one = executor(store, device)
    request = Request(graph=ONE, bind={"x": Stored(ref="0" * 64, offset=offset)})
    answered = reply(one._commit([ran(one, job(request))]))
    assert answered.error.code == "bad_request"
    assert answered.error.detail["at"].startswith("bind.x")


def served(executor: Executor, jobs: list[Job]) -> tuple[bool, list[Answer], Vitals]:
    """What becomes of jobs that come at once, from a front that then hangs up."""
    ours, theirs = socket.socketpair()
    page = vitals()
    with ours, theirs:
        ours.sendall(frame(jobs))
        ours.shutdown(socket.SHUT_WR)
        told = executor.serve(BlockingChannel(theirs), page)
        theirs.close()
        data = b"".join(iter(lambda: ours.recv(1 << 20), b""))
    return told, list(FrameReader(FromExecutor).feed(data)), page


def poisoning(device: CpuDevice, made: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the device be lost when a request ends, as a GPU is after a kernel has crashed."""

    def lost(flight: Flight) -> None:
        monkeypatch.setattr(device, "poisoned", True)
        raise KernelFailed("kernel 'one' failed")

    monkeypatch.setattr(made._engine, "end", lost)


def test_who_alone_was_running_as_the_device_was_lost_is_told(store, device, monkeypatch):
    made = executor(store, device)
    poisoning(device, made, monkeypatch)
    jobs = [msgspec.structs.replace(job(Request(graph=ONE)), tag=tag) for tag in (1, 2)]
    told, answers, page = served(made, jobs)
    assert (told, [(each.tag, each.error.code) for each in answers]) == (True, [(1, "kernel_failed")])
    assert page.running == {}  # the second was never begun: the front has it run by another executor


def test_of_several_that_were_running_as_the_device_was_lost_none_is_answered(store, device, monkeypatch):
    made = executor(store, device, in_flight=3)
    poisoning(device, made, monkeypatch)
    jobs = [msgspec.structs.replace(job(Request(graph=ONE)), tag=tag) for tag in (1, 2, 3, 4)]
    told, answers, page = served(made, jobs)
    assert (told, answers) == (False, [])
    assert page.running.keys() == {1, 2, 3}


@pytest.mark.parametrize("in_flight", [1, 5])
def test_every_request_of_a_batch_is_answered_once_and_repeats_with_their_first_outcome(store, device, in_flight):
    made = executor(store, device, in_flight=in_flight)
    keys = [new_id() for _ in range(50)]
    jobs = [
        msgspec.structs.replace(job(Request(graph=ONE, keep={"out": f"kept/{tag % 50}"}), keys[tag % 50]), tag=tag)
        for tag in range(1, 151)
    ]
    told, answers, page = served(made, jobs)
    assert told
    assert sorted(each.tag for each in answers) == list(range(1, 151))
    versions = [codec.decode_reply(each.reply, codec.MSGPACK).outputs["out"].version for each in answers]
    assert versions == [1] * 150
    assert page.running == {}
