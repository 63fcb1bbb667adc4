"""What the log says about a broker that comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kaasq.broker import State
from kaasq.errors import BrokerLost, SlotTaken
from kaasq.rabbit.state_log import Seldom, StateLog
from tests.support.logs import log_lines

AWAY = BrokerLost("nobody listens")


class Scene:
    def __init__(self, lines: list[Any]) -> None:
        self.now = 1000.0
        self.log = StateLog("mq:5672", lambda: self.now)
        self._lines = lines

    def passes(self, seconds: int, *, attempts: bool = False) -> None:
        for _ in range(seconds):
            self.now += 1
            if attempts:
                self.log.attempt_failed("publish", AWAY)
                self.log.attempt_failed("consume", AWAY)
            self.log.tick()

    def told(self) -> list[tuple[Any, ...]]:
        lines = [(each["log_level"], each["event"], each.get("error"), each.get("attempts")) for each in self._lines]
        self._lines.clear()
        return lines


@pytest.fixture
def scene() -> Iterator[Scene]:
    with log_lines() as lines:
        yield Scene(lines)


def test_a_first_connection_is_no_warning(scene: Scene) -> None:
    scene.log.changed(State.CONNECTED, None)
    assert scene.told() == [("info", "broker.connected", None, None)]


def test_a_loss_is_told_at_once_every_30_s_and_when_it_is_over(scene: Scene) -> None:
    scene.log.changed(State.LOST, BrokerLost("gone"))
    assert scene.told() == [("warning", "broker.lost", "gone", None)]
    scene.passes(29, attempts=True)
    assert scene.told() == []
    scene.passes(32, attempts=True)
    assert scene.told() == [
        ("warning", "broker.lost", "nobody listens", 30),
        ("warning", "broker.lost", "nobody listens", 60),
    ]
    scene.log.changed(State.CONNECTED, None)
    assert scene.told() == [("warning", "broker.connected", None, None)]
    scene.passes(60)
    assert scene.told() == []


def test_a_publishing_connection_that_goes_first_makes_it_no_two_events(scene: Scene) -> None:
    scene.log.changed(State.BLOCKED, AWAY)
    scene.log.changed(State.LOST, AWAY)
    scene.passes(5, attempts=True)
    assert [each[1] for each in scene.told()] == ["broker.lost"]


def test_a_publishing_connection_that_is_back_at_once_is_not_worth_a_line(scene: Scene) -> None:
    scene.log.changed(State.BLOCKED, AWAY)
    scene.log.changed(State.UNBLOCKED, None)
    scene.passes(5)
    assert scene.told() == []


def test_one_that_stays_away_is(scene: Scene) -> None:
    scene.log.changed(State.BLOCKED, AWAY)
    scene.passes(5, attempts=True)
    scene.log.changed(State.UNBLOCKED, None)
    assert [each[:2] for each in scene.told()] == [("warning", "broker.blocked"), ("warning", "broker.unblocked")]


def test_a_broker_short_of_memory_is_told_at_once(scene: Scene) -> None:
    scene.log.changed(State.BLOCKED, None)
    scene.log.changed(State.UNBLOCKED, None)
    assert [each[:2] for each in scene.told()] == [("warning", "broker.blocked"), ("warning", "broker.unblocked")]


def test_a_broker_that_cannot_be_reached_at_first_is_told_once_that_lasts(scene: Scene) -> None:
    scene.log.attempt_failed("publish", AWAY)
    assert scene.told() == []
    scene.passes(20, attempts=True)
    assert scene.told() == [("warning", "broker.unreachable", "nobody listens", 2)]
    scene.log.changed(State.CONNECTED, None)
    assert scene.told() == [("warning", "broker.connected", None, None)]


def test_after_the_end_nothing_is_told(scene: Scene) -> None:
    scene.log.changed(State.LOST, AWAY)
    scene.log.changed(State.FAILED, SlotTaken("taken"))
    scene.passes(60)
    assert [each[1:3] for each in scene.told()] == [("broker.lost", "nobody listens"), ("broker.failed", "taken")]


def test_what_is_said_seldom() -> None:
    now = 1000.0
    seldom = Seldom(lambda: now)
    assert [seldom(), seldom()] == [True, False]
    now += 30
    assert [seldom(), seldom()] == [True, False]
