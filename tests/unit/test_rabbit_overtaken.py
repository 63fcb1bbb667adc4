"""Which unconfirmed publishes are given up: those that others have overtaken, and a single one to find out."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from kaasq.rabbit.overtaken import Overtaken


@dataclass(frozen=True)
class Sent:
    sent_at: float
    routing_key: str = "pool"
    exchange: str = "requests"


def test_what_a_later_one_has_overtaken_is_lost_once_it_is_old() -> None:
    overtaken = Overtaken(1.0)
    overtaken.confirmed(Sent(10.1), 3)
    unconfirmed = {1: Sent(10.0), 2: Sent(10.05), 4: Sent(10.2)}
    assert overtaken.lost(unconfirmed, now=11.0) == []
    assert overtaken.lost(unconfirmed, now=11.1) == [1, 2]


def test_what_was_overtaken_by_one_for_another_place_only_is_not() -> None:
    overtaken = Overtaken(1.0)
    overtaken.confirmed(Sent(10.1, routing_key="other"), 3)
    unconfirmed = {1: Sent(10.0), 2: Sent(10.05)}
    assert overtaken.lost(unconfirmed, now=11.1) == [1]  # the probe
    assert overtaken.lost({2: Sent(10.05)}, now=11.2) == []


def test_a_slow_broker_gets_single_probes_at_doubling_intervals() -> None:
    overtaken = Overtaken(1.0)
    unconfirmed = {tag: Sent(0.0) for tag in range(1, 1001)}
    told: dict[float, list[int]] = {}
    for quarter in range(4 * 32):
        for tag in (lost := overtaken.lost(unconfirmed, now := quarter / 4)):
            del unconfirmed[tag]
        if lost:
            told[now] = lost
    assert told == {1.25: [1], 2.25: [2], 4.25: [3], 8.25: [4], 16.25: [5]}


def test_a_probe_that_is_confirmed_gives_up_all_before_it() -> None:
    overtaken = Overtaken(1.0)
    unconfirmed = {1: Sent(0.0), 2: Sent(0.1), 3: Sent(0.2)}
    assert overtaken.lost(unconfirmed, now=1.25) == [1]
    overtaken.confirmed(Sent(1.5), 4)
    assert overtaken.lost({2: Sent(0.1), 3: Sent(0.2)}, now=1.5) == [2, 3]


def test_intervals_are_short_again_after_a_confirm() -> None:
    overtaken = Overtaken(1.0)
    assert overtaken.lost({1: Sent(0.0)}, now=2.0) == [1]
    assert overtaken.lost({2: Sent(2.0)}, now=4.0) == [2]
    overtaken.confirmed(Sent(4.0), 3)
    assert overtaken.lost({4: Sent(5.0)}, now=7.0) == [4]
    assert overtaken.lost({5: Sent(7.0)}, now=8.25) == [5]


def test_another_channel_begins_anew() -> None:
    overtaken = Overtaken(1.0)
    overtaken.confirmed(Sent(0.0), 100)
    overtaken.reset()
    assert overtaken.lost({1: Sent(0.0), 2: Sent(0.0)}, now=2.0) == [1]


class Place(str):
    """A routing key of which one can tell whether anybody still has it."""

    __slots__ = ("__weakref__",)


def test_places_are_forgotten_that_overtake_nothing_any_more() -> None:
    overtaken = Overtaken(1.0)
    before, after = Place("kaasq.a"), Place("kaasq.b")
    gone, kept = weakref.ref(before), weakref.ref(after)
    overtaken.confirmed(Sent(10.0, routing_key=before), 1)
    overtaken.confirmed(Sent(10.2, routing_key=after), 3)
    del before, after
    assert overtaken.lost({2: Sent(10.1)}, now=10.3) == []
    assert gone() is None
    assert kept() is not None
    assert overtaken.lost({}, now=10.4) == []
    assert kept() is None
