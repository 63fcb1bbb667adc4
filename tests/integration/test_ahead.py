"""Steps of a chain that begin before those before them are durable, and short requests before long ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest

from kaasq import codec
from kaasq.errors import StoreFull
from kaasq.messages import Continuation, Output, Reply, Request, Source
from kaasq_storage import BufferStore, Outcome, open_store
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.executor import committing
from kaasq_workers.executor.following import Followers
from kaasq_workers.executor.identity import WITHDRAWN, digest
from kaasq_workers.link import Answer, Job
from kaasq_workers.vitals import next_tag
from tests.support.executors import serving
from tests.support.graphs import held, only_output, saxpy
from tests.support.waiting import until

ONE = only_output('extern "C" __global__ void one(int* out) { out[0] = 1; }', "one", nbytes=4).freeze()
LARGE = only_output('extern "C" __global__ void one(int* out) { out[0] = 1; }', "one", nbytes=6000).freeze()
ADD = saxpy(4).freeze()
ONES = np.ones(4, np.float32).tobytes()


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of what holds a kernel. Nobody collects garbage meanwhile, who would wait for the store, too."""
    monkeypatch.setattr("kaasq_workers.executor.serving.FIRST_GC_S", 3600.0)
    yield tmp_path
    (tmp_path / "end").touch()


def job(request: Request, tag: int = 1, **changes) -> Job:
    now_ms = time.time_ns() // 1_000_000
    made = Job(tag, "guest", "r", codec.encode(request), codec.MSGPACK, now_ms, taken_ms=now_ms)
    return msgspec.structs.replace(made, **changes)


def reply(answer: Answer) -> Reply:
    return codec.decode_reply(answer.reply, codec.MSGPACK)


def marker(tag: int = 1000) -> Job:
    """A request of its own, which shows that nothing was told before its answer."""
    return job(Request(graph=ONE), tag, id="marker")


def test_a_step_begins_before_the_one_before_it_is_durable_and_is_told_of_afterwards(store, device, folder):
    then = (Continuation(graph=held(folder).freeze()),)
    with serving(store, device) as one:
        with store.transaction():  # so nothing can be committed
            one.send(job(Request(graph=ONE, then=then)))
            until((folder / "begun").exists)
            assert one.silent
            assert store.outcome("guest", "r") is None
            assert set(one.vitals.running) == {next_tag(1)}
        (first,) = one.answers(1)  # while the second runs
        assert first.onward is not None
        assert (reply(first).id, first.onward.id) == ("r", "r+1")
        assert store.outcome("guest", "r+1") is None
        (folder / "end").touch()
        (second,) = one.answers(1)
        assert (second.tag, reply(second).id, reply(second).status) == (next_tag(1), "r+1", "ok")


def test_several_steps_share_a_commit_and_are_told_of_in_their_order(store, device, folder):
    then: tuple[Continuation, ...] = (Continuation(graph=held(folder).freeze()),)
    for _ in range(5):
        then = (Continuation(graph=ADD, bind={"x": Source(output="out"), "y": ONES}, scalars={"a": 1}, then=then),)
    with serving(store, device) as one:
        with store.transaction():
            one.send(job(Request(graph=ADD, bind={"x": ONES, "y": ONES}, scalars={"a": 1}, then=then)))
            until((folder / "begun").exists)
        answers = one.answers(6)
        (folder / "end").touch()
        answers += one.answers(1)
    assert [reply(each).id for each in answers] == ["r", *(f"r+{step}" for step in range(1, 7))]
    assert [each.onward and each.onward.id for each in answers] == [*(f"r+{step}" for step in range(1, 7)), None]
    for step, each in enumerate(answers[:6]):
        np.testing.assert_array_equal(np.frombuffer(reply(each).outputs["out"].inline or b"", np.float32), 2 + step)
        assert [told.id for told in reply(each).then] == [f"r+{step + 1}"]


@pytest.mark.parametrize("store_sync", [True, False])
def test_a_short_request_is_answered_while_the_long_one_behind_it_runs(store, device, folder, store_sync):
    with serving(store, device, store_sync=store_sync) as one:
        one.send(job(Request(graph=ONE)), job(Request(graph=held(folder).freeze()), 2, id="long"))
        (short,) = one.answers(1)
        assert reply(short).id == "r"
        until((folder / "begun").exists)
        (folder / "end").touch()
        assert reply(one.answers(1)[0]).id == "long"


@pytest.mark.parametrize("earlier", ["ended", "withdrawn", "conflict"])
def test_what_began_behind_one_that_did_not_end_as_foretold_never_was(store, device, folder, earlier):
    """Somebody else gave the first one an outcome after all."""
    request = Request(graph=ONE, then=(Continuation(graph=held(folder).freeze(), keep={"out": "kept"}),))
    theirs = Reply(id="r", status="ok", outputs={"out": Output(nbytes=4, inline=b"\2\0\0\0")})
    if earlier == "withdrawn":
        theirs = Reply(id="r", status="cancelled")
    body = {"ended": digest(request, ONE), "withdrawn": WITHDRAWN, "conflict": "another"}[earlier]
    with serving(store, device) as one:
        with store.transaction() as transaction:
            one.send(job(request))
            until((folder / "begun").exists)
            transaction.record("guest", "r", Outcome(body=body, reply=codec.encode(theirs)))
        (first,) = one.answers(1)
        (folder / "end").touch()
        one.send(marker())
        assert reply(one.answers(1)[0]).id == "marker"
        until(lambda: not one.vitals.running)
    assert first.onward is None
    assert [each.id for each in first.then] == (["r+1"] if earlier == "ended" else [])
    status = {"ended": "ok", "withdrawn": "cancelled", "conflict": "error"}[earlier]
    assert reply(first).status == status
    assert store.outcome("guest", "r+1") is None
    assert not list(store.names("guest"))


def test_what_began_behind_one_that_could_not_be_committed_never_was_and_what_was_before_is(store, device, folder):
    then: tuple[Continuation, ...] = (Continuation(graph=held(folder).freeze()),)
    then = (Continuation(graph=LARGE, then=then),)
    store.set_quotas(1, {})  # no room for a large reply
    with serving(store, device) as one:
        with store.transaction():
            one.send(job(Request(graph=ONE, then=then)))
            until((folder / "begun").exists)  # the third
        first, second = one.answers(2)
        (folder / "end").touch()
        one.send(marker())
        assert reply(one.answers(1)[0]).id == "marker"
    assert (reply(first).status, first.onward and first.onward.id) == ("ok", "r+1")
    failed = reply(second)
    assert failed.error is not None
    assert (failed.id, failed.error.code) == ("r+1", "quota_exceeded")
    assert (second.onward, second.then) == (None, [])
    assert [store.outcome("guest", each) is not None for each in ("r", "r+1", "r+2")] == [True, False, False]


def test_what_began_behind_one_of_which_nothing_could_be_written_never_was(store, device, folder):
    """The disk is so full that not even the failure is recorded."""

    def full() -> NoReturn:
        until((folder / "begun").exists)
        raise StoreFull("the disk is full")

    request = Request(graph=ONE, then=(Continuation(graph=held(folder).freeze()),))
    with serving(store, device) as one:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(store, "transaction", full)
            one.send(job(request))
            (first,) = one.answers(1)
        (folder / "end").touch()
        one.send(marker())
        assert reply(one.answers(1)[0]).id == "marker"
    failed = reply(first)
    assert failed.error is not None
    assert (failed.error.code, failed.then, first.onward, first.then) == ("store_full", (), None, [])
    assert [store.outcome("guest", each) for each in ("r", "r+1")] == [None, None]


def test_a_step_reads_the_name_that_the_one_before_it_moved(store, device):
    store.put("guest", bytes(16), dtype="float32", shape=(4,), name="w")
    then = (Continuation(graph=ADD, bind={"x": Source(name="w"), "y": ONES}, scalars={"a": 1}),)
    request = Request(graph=ADD, bind={"x": ONES, "y": ONES}, scalars={"a": 1}, keep={"out": "w"}, then=then)
    with serving(store, device) as one:
        one.send(job(request))
        _, second = one.answers(2)
    np.testing.assert_array_equal(np.frombuffer(reply(second).outputs["out"].inline or b"", np.float32), 3)


def test_a_chain_that_is_cancelled_before_its_first_step_is_durable_has_no_second(store, device, folder):
    """The cancellation is recorded first: it counts, though the second step runs already."""
    then = (Continuation(graph=held(folder).freeze(), then=(Continuation(graph=ONE),)),)
    with serving(store, device) as one:
        with store.transaction() as transaction:
            one.send(job(Request(graph=ONE, then=then)))
            until((folder / "begun").exists)
            one.vitals.withdraw(1)
            told = Reply(id="r", status="cancelled")
            transaction.record("guest", "r", Outcome(body=WITHDRAWN, reply=codec.encode(told)))
        assert reply(one.answers(1)[0]).status == "cancelled"
        (folder / "end").touch()
        one.send(marker())
        assert reply(one.answers(1)[0]).id == "marker"
    assert [store.outcome("guest", each) for each in ("r+1", "r+2")] == [None, None]


def test_what_breaks_after_an_outcome_is_durable_is_tried_once_more(store, device, monkeypatch):
    """Otherwise a request that ended well would be told to have failed, and nothing would follow it."""
    calls, made = 0, Followers.following

    def following(self: Followers, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:  # as it is foretold, and once it is durable
            raise RuntimeError("broken")
        return made(self, *given)

    monkeypatch.setattr(Followers, "following", following)
    with serving(store, device) as one:
        one.send(job(Request(graph=ONE, then=(Continuation(graph=ONE),))))
        first, second = one.answers(2)
    assert [reply(each).status for each in (first, second)] == ["ok", "ok"]
    assert [each.id for each in reply(first).then] == [reply(second).id] == ["r+1"]


def test_an_executor_that_waits_for_a_commit_does_not_look_for_its_end_all_the_time(store, device, folder):
    """It would keep the interpreter's lock from the thread that commits."""
    many = 2 * committing.GROUP_SIZE + 1
    with serving(store, device, store_sync=True) as one:
        with store.transaction():
            one.send(*(job(Request(graph=ONE), tag, id=f"r{tag}") for tag in range(1, many + 1)))
            time.sleep(0.2)  # until a group is full beside the one that is being committed
            before = one.vitals.turns
            time.sleep(0.2)
            turns = one.vitals.turns - before
        assert len(one.answers(many)) == many
    assert 0 < turns < 1000


def test_an_executor_whose_commits_do_not_end_shows_it(store, device, monkeypatch):
    monkeypatch.setattr(committing, "STUCK_S", 0.05)
    with serving(store, device) as one:
        with store.transaction():
            one.send(job(Request(graph=ONE)))
            turns = -1

            def stands_still() -> bool:
                nonlocal turns
                before, turns = turns, one.vitals.turns
                time.sleep(1.2)  # longer than an idle executor takes for a turn
                return one.vitals.turns == before

            until(stands_still)
        assert reply(one.answers(1)[0]).status == "ok"
        until(lambda: one.vitals.turns > turns)
