"""Tenants without an executor whose workflows stand still: who is asked for and when, also if looking fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest

from kaasq import codec
from kaasq.flows.model import FlowCall
from kaasq_workers.front.answers import Answers
from kaasq_workers.front.overlooked import MOST_AT_ONCE, Overlooked
from tests.support.front_bench import Loop
from tests.support.waiting import until


class Waking(Loop):
    """A loop that other threads can wake."""

    def __init__(self) -> None:
        super().__init__()
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)


def looked(loop: Waking, find: Callable[[], Mapping[str, str]], served: set[str]) -> Overlooked:
    answers = Answers(loop, "/test")
    return Overlooked(loop, answers, lambda: served, find, pool="p", patience_s=8.0)


def test_tenants_without_an_executor_are_asked_for_in_their_name() -> None:
    loop = Waking()
    looked(loop, lambda: {"ada": "f", "bob": "g", "eve": "h"}, {"bob"}).start()
    loop.run_timers()
    until(lambda: loop.soon)
    loop.soon.pop()()
    asked = [
        (key, message.user_id, codec.decode(message.body, codec.MSGPACK, FlowCall))
        for _, key, message in loop.published
    ]
    assert [(key, user, call.flow.id, call.flow.do) for key, user, call in asked] == [
        ("ada.p.any", "ada", "f", "status"),
        ("eve.p.any", "eve", "h", "status"),
    ]


def test_only_so_many_are_asked_for_at_once() -> None:
    loop = Waking()
    looked(loop, lambda: {f"t{number}": "f" for number in range(MOST_AT_ONCE + 9)}, set()).start()
    loop.run_timers()
    until(lambda: loop.soon)
    loop.soon.pop()()
    assert len(loop.published) == MOST_AT_ONCE


def test_it_looks_again_also_after_a_look_that_failed() -> None:
    loop, tried = Waking(), threading.Semaphore(0)

    def find() -> Mapping[str, str]:
        tried.release()
        raise OSError("no process to be had")

    looked(loop, find, set()).start()
    for _ in range(2):
        loop.run_timers()
        assert tried.acquire(timeout=10)
        until(lambda: loop.soon)
        assert loop.later == []  # not before it has ended
        loop.soon.pop()()
    ((delay_s, _),) = loop.later
    assert delay_s == pytest.approx(8.0, abs=2.0)
    assert loop.published == []
