"""Frames between front and executor."""

import os
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq import polling
from kaasq.messages import ErrorBody, WorkerInfo
from kaasq.polling import MOST_CREDIT
from kaasq_workers.channel import FEW_AT_ONCE, BlockingChannel, FrameReader, Link, frame
from kaasq_workers.link import Answer, FromExecutor, Hello, Job, Refusal
from kaasq_workers.vitals import RUNNING_MOST, Vitals, next_tag


def job(tag: int, body: bytes = b"x") -> Job:
    return Job(tag, "guest", f"id-{tag}", body, None, None)


@given(st.lists(st.lists(st.binary(max_size=50), max_size=3), max_size=5), st.integers(1, 7))
def test_frames_survive_any_cut_of_the_stream(batches, step):
    stream = b"".join(frame([job(i, body) for i, body in enumerate(batch)]) for batch in batches)
    reader = FrameReader(Job)
    read = [each for i in range(0, len(stream), step) for each in reader.feed(stream[i : i + step])]
    assert [each.body for each in read] == [body for batch in batches for body in batch]


def test_each_kind_of_answer_comes_back_as_itself():
    worker = WorkerInfo(host="h", pid=1, device="cpu")
    sent = [
        Hello(worker=worker, description="d"),
        Refusal(error=ErrorBody(code="c", message="m")),
        Answer(tag=1, word="completed", reply=b"r"),
    ]
    assert list(FrameReader(FromExecutor).feed(frame(sent))) == sent


def test_what_one_thread_sends_arrives_whole_while_another_waits_for_jobs():
    link, channel, _ = pair()
    ended, sent = threading.Event(), [Answer(tag=tag, word="completed", reply=bytes(300_000)) for tag in range(1, 60)]

    def wait() -> None:
        while not ended.is_set():
            channel.receive(0.0)
            channel.receive(0.001)

    threads = [threading.Thread(target=wait), threading.Thread(target=lambda: channel.send(sent))]
    for each in threads:
        each.start()
    received: list[FromExecutor] = []
    until = time.monotonic() + 20
    while len(received) < len(sent) and time.monotonic() < until:
        received += link.receive() or []
    ended.set()
    for each in threads:
        each.join()
    assert received == sent


def pair(busy_poll_s: float = 0.0) -> tuple[Link, BlockingChannel, socket.socket]:
    ours, theirs = socket.socketpair()
    vitals, fd = Vitals.create()
    os.close(fd)
    return Link(ours, vitals), BlockingChannel(theirs, busy_poll_s), theirs


def flushed(link: Link) -> threading.Thread:
    """What the front's timer does."""

    def flush() -> None:
        while not link.flush():
            time.sleep(0.0005)

    thread = threading.Thread(target=flush)
    thread.start()
    return thread


@pytest.mark.parametrize(("count", "nbytes"), [(8, 1 << 20), (1, 64 << 20)])
def test_the_front_never_blocks_on_an_executor_that_does_not_read(count, nbytes):
    link, channel, _theirs = pair()
    assert link.send([job(i, bytes(nbytes)) for i in range(count)]) is False  # a socket pair holds far less
    flushing = flushed(link)
    received: list[Job] = []
    while len(received) < count:
        received += channel.receive(5.0) or []
    flushing.join()
    assert [(each.tag, len(each.body)) for each in received] == [(i, nbytes) for i in range(count)]
    link.dispose()


def test_both_ends_notice_that_the_other_is_gone():
    link, channel, theirs = pair()
    link.close()
    assert channel.receive(1.0) is None
    theirs.close()
    assert link.receive() is None
    link.dispose()


def test_receiving_times_out_with_nothing():
    link, channel, _theirs = pair()
    assert channel.receive(0.01) == []
    assert link.receive() == []
    link.dispose()


def test_the_names_of_graphs_that_run_are_seen_as_long_as_they_run():
    vitals, fd = Vitals.create()
    other = Vitals(fd)
    for tag in range(1, RUNNING_MOST + 1):
        vitals.begin(tag)
        if tag != 7:
            vitals.read(tag, f"images.g{tag}")
    vitals.read(8, "x" * 256)  # fits no routing key: what was there stays
    assert other.graphs == {tag: f"images.g{tag}" for tag in range(1, RUNNING_MOST + 1) if tag != 7}
    vitals.end(3)
    vitals.begin(99)  # in its place, and not read yet
    assert 3 not in other.graphs
    assert 99 not in other.graphs
    vitals.read(99, "y" * 255)
    assert other.graphs[99] == "y" * 255
    os.close(fd)


def test_vitals_are_seen_through_another_mapping():
    vitals, fd = Vitals.create()
    seen = Vitals(fd)
    vitals.begin(2**40 + 1)
    vitals.due(2**40 + 1, 7)
    vitals.begin(3)
    assert seen.running == {2**40 + 1: 7, 3: 0}
    vitals.end(2**40 + 1)
    assert seen.running == {3: 0}
    vitals.begin(4)
    assert seen.running == {3: 0, 4: 0}  # never with the deadline of who had the place before
    for tag in (4, 3):
        vitals.end(tag)
    assert seen.running == {}
    os.close(fd)


def test_as_many_requests_as_may_run_have_a_place_each():
    vitals, fd = Vitals.create()
    os.close(fd)
    for _ in range(2):
        for tag in range(1, RUNNING_MOST + 1):
            vitals.begin(tag)
            vitals.due(tag, 1000 + tag)
        vitals.withdraw(5)
        assert vitals.running == {tag: 1000 + tag for tag in range(1, RUNNING_MOST + 1)}
        assert [tag for tag in vitals.running if vitals.withdrawn(tag)] == [5]
        for tag in range(RUNNING_MOST, 0, -1):
            vitals.end(tag)


def test_what_goes_on_from_a_withdrawn_request_is_withdrawn_with_it_and_nothing_else():
    vitals, fd = Vitals.create()
    os.close(fd)
    chain = [5]
    while len(chain) < 4:
        after = next_tag(chain[-1])
        assert after is not None
        chain.append(after)
    vitals.withdraw(chain[1])
    assert [vitals.withdrawn(tag) for tag in chain] == [False, True, True, True]
    assert not vitals.withdrawn(5 + (1 << 16))  # in the same place
    assert not vitals.withdrawn(6)


def test_an_executor_sees_that_it_is_to_end_soon():
    vitals, fd = Vitals.create()
    seen = Vitals(fd)
    assert not seen.draining
    vitals.drain()
    assert seen.draining
    assert (seen.turns, seen.pulse, seen.running) == (0, 0, {})
    os.close(fd)


def test_an_executor_that_got_several_jobs_at_once_sleeps_until_the_next_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(polling, "CROWDED_S", 60.0)  # whatever else needs this machine
    link, channel = pair(busy_poll_s=60.0)[:2]

    def used_s() -> float:
        began = time.thread_time()
        assert channel.receive(0.3) == []
        return time.thread_time() - began

    for tag in range(MOST_CREDIT):
        later = threading.Timer(0.001, link.send, [[job(tag)]])
        later.start()
        assert channel.receive(30)
        later.join()
    assert used_s() > 0.01  # one after the other: it looks for the next
    assert link.send([job(tag) for tag in range(FEW_AT_ONCE + 1)])
    assert len(channel.receive(30) or []) == FEW_AT_ONCE + 1
    assert used_s() < 0.01
