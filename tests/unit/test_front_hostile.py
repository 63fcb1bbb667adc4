"""An executor whose tenant's code speaks in its name: what it says counts for what it was given, and breaks nothing."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from kaasq.messages import ErrorBody
from kaasq_workers.channel import FRAME_MOST, frame
from kaasq_workers.front.handles import ProcessHandle
from kaasq_workers.link import Answer, Hello, Job, Refusal, Withdrawn
from kaasq_workers.vitals import Vitals
from tests.support.front_bench import WORKER, Bench


class Curious(Bench):
    """Remembers which executors said what they have."""

    def __init__(self) -> None:
        self.hellos: list[Hello] = []
        super().__init__()

    def started(self, hello: Hello) -> None:
        self.hellos.append(hello)


@pytest.fixture
def bench() -> Curious:
    return Curious()


def say(bench: Bench, *messages) -> None:
    bench.executor.channel.send(messages)
    bench.loop.turn()


@pytest.mark.parametrize(
    "said",
    [
        b"\x04\x00\x00\x00\xff\xff\xff\xff",
        frame(["no message"]),
        frame([Job(1, "guest", "one", b"", None, None)]),
        struct.pack("<I", 5000) + b"\x91" * 5000,  # nested far too deep
        struct.pack("<I", FRAME_MOST + 1),
    ],
    ids=["no msgpack", "another type", "the front's own", "nested", "too large"],
)
def test_what_is_no_word_of_an_executors_ends_it_and_the_next_one_answers(bench, said):
    taken = bench.take("one")
    first = bench.executor
    first.received()
    first.sock.sendall(said)
    bench.loop.turn()
    assert first.killed
    bench.revive()
    bench.answer(*bench.executor.received())
    assert taken.settled == "ack"


def test_an_answer_to_what_it_was_not_given_is_passed_over(bench):
    taken = bench.take("one")
    (job,) = bench.executor.received()
    say(bench, Answer(tag=job.tag + 1, word="completed", reply=b""), Answer(tag=-1, word="completed", reply=b""))
    assert (taken.settled, bench.loop.published) == (None, [])
    bench.answer(job)
    assert taken.settled == "ack"


def test_an_answer_before_the_request_was_handed_over_is_passed_over(bench):
    bench.take("one")
    (first,) = bench.executor.received()
    bench.die(running=first.tag)
    bench.revive()
    bench.executor.received()
    second = bench.take("two")  # waits, while the suspect runs alone
    say(bench, Answer(tag=first.tag + 1, word="completed", reply=b""))
    bench.answer(first)
    (job,) = bench.executor.received()
    bench.answer(job)
    assert (job.id, second.settled) == ("two", "ack")


def test_it_can_say_only_once_what_memory_there_is(bench):
    say(bench, Hello(worker=WORKER, description="", device_memory=1))
    assert [each.device_memory for each in bench.hellos] == [0]


def test_it_cannot_say_that_it_cannot_start_once_it_has(bench):
    say(bench, Refusal(error=ErrorBody(code="device_unavailable", message="no")))
    taken = bench.take("one")
    bench.answer(*bench.executor.received())
    assert taken.settled == "ack"


def test_a_cancellation_that_it_was_not_told_of_is_not_done(bench):
    bench.die()
    cancelled = bench.cancel("two")
    bench.revive()
    (told,) = bench.executor.told()
    say(bench, Withdrawn([told.tag + 1, told.tag + 2]))
    assert cancelled.settled is None
    bench.note(told)
    assert cancelled.settled == "ack"


def test_the_page_of_vitals_cannot_be_cut_short_under_the_fronts_eyes():
    vitals, fd = Vitals.create()
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)
    assert vitals.running == {}


def test_an_executor_does_not_inherit_the_brokers_password(monkeypatch):
    monkeypatch.setenv("KAASQ_BROKER_URL", "amqp://worker:secret@broker/")
    monkeypatch.setenv("KAASQ_TEST_KEPT", "kept")
    handle = ProcessHandle("cpu")
    try:
        deadline = time.monotonic() + 10
        while not (said := Path(f"/proc/{handle.pid}/environ").read_bytes()):  # it is just beginning
            assert time.monotonic() < deadline
    finally:
        handle.kill()
        handle.wait(10.0)
        handle.link.dispose()
    assert b"KAASQ_TEST_KEPT" in said
    assert b"secret" not in said
