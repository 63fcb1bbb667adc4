"""Which request goes on where the one before it has ended, and as what."""

from __future__ import annotations

import msgspec
import pytest

from kaasq.codec import JSON, MSGPACK
from kaasq.messages import ErrorBody
from kaasq_workers.executor.onward import Bounds, first_here, goes_on
from kaasq_workers.link import Following, Job, onward_from
from kaasq_workers.vitals import next_tag

BOUNDS = Bounds(pool="p", spill_s=0.05, hold_s=600.0)
JOB = Job(7, "ann", "r", b"{}", None, 1, redelivered=True, delivery="e.7", taken_ms=1_000_000)
NEAR, FAR = Following(id="r+1", pool="p", body=b"{1}"), Following(id="r+2", pool="far")
BROKEN = Following(id="r+3", pool="p", error=ErrorBody(code="c", message="m"))


def chosen(*then: Following, job: Job = JOB, waited_s: float = 0.0, now_ms: int = 1_000_001) -> Following | None:
    return first_here(then, BOUNDS.pool) if goes_on(job, BOUNDS, waited_s=waited_s, now_ms=now_ms) else None


def test_the_first_that_can_run_here_does():
    assert chosen(BROKEN, FAR, NEAR, msgspec.structs.replace(NEAR, id="r+9")) is NEAR


@pytest.mark.parametrize("then", [(), (FAR,), (BROKEN,)])
def test_what_goes_elsewhere_or_could_not_be_made_does_not(then):
    assert chosen(*then) is None


def test_others_that_wait_for_too_long_have_it_go_to_whoever_is_free():
    assert chosen(NEAR, waited_s=0.049) is NEAR
    assert chosen(NEAR, waited_s=0.05) is None
    assert not goes_on(JOB, Bounds("p", 0.0, 600.0), waited_s=0.0, now_ms=1_000_001)  # switched off


def test_a_chain_does_not_stand_on_one_delivery_for_ever():
    assert chosen(NEAR, now_ms=1_000_000 + 599_999) is NEAR
    assert chosen(NEAR, now_ms=1_000_000 + 600_000) is None


def test_what_follows_a_suspect_leaves_the_executor_empty_for_the_next_one():
    assert chosen(NEAR, job=msgspec.structs.replace(JOB, alone=True)) is None


def test_what_goes_on_is_a_job_as_the_broker_would_have_brought_it_and_no_suspect():
    suspect = msgspec.structs.replace(JOB, alone=True, graph="g", content_type=None)
    timed = msgspec.structs.replace(NEAR, timeout_ms=5)
    job = onward_from(suspect, timed, 1_000_500)
    assert job == Job(
        next_tag(7), "ann", "r+1", b"{1}", JSON, 1_000_500, 5, redelivered=True, delivery="e.7", taken_ms=1_000_000
    )
    packed = onward_from(msgspec.structs.replace(JOB, content_type=MSGPACK), NEAR, 1)
    assert packed is not None
    assert packed.content_type == MSGPACK


def test_no_two_requests_have_one_tag_and_a_chain_ends_before_it_would():
    tags, tag = [], 5
    while (after := next_tag(tag)) is not None:
        tags.append(tag := after)
        if len(tags) > 5:
            break
    assert len(set(tags)) == 6
    assert min(tags) > 1 << 40  # no front ever gets there
    last = (1 << 64) - 3
    assert next_tag(last) is None
    assert onward_from(msgspec.structs.replace(JOB, tag=last), NEAR, 1) is None
