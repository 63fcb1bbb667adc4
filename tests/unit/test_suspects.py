"""Direct replies that may cost the connection: whose turn it is, and how many of whom may wait."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kaasq.rabbit.suspects import Suspects


@dataclass(eq=False)
class Reply:
    tenant: str
    channel: str = "c"
    size: int = 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def suspects(clock: Clock) -> Suspects[Reply]:
    return Suspects(2, 10, 60.0, clock)


def taken(suspects: Suspects[Reply]) -> list[Reply]:
    return [suspects.next() for _ in range(len(suspects))]


def test_tenants_take_turns_and_each_ones_own_stay_in_order(suspects):
    many = [Reply("mallory") for _ in range(3)]
    few = [Reply("ann"), Reply("bob")]
    for each in (*many, *few):
        suspects.add(each)
    assert taken(suspects) == [many[0], *few, *many[1:]]
    assert not suspects


def test_who_forged_comes_after_everybody_else(suspects):
    suspects.blame(Reply("mallory"))
    suspects.add(forged := Reply("mallory"))
    few = [Reply("ann"), Reply("ann"), Reply("bob")]
    for each in few:
        suspects.add(each)
    assert taken(suspects) == [few[0], few[2], few[1], forged]


def test_who_is_nobody_comes_before_who_forged(suspects):
    suspects.blame(Reply("mallory"))
    forged, anybodys = Reply("mallory"), Reply("")
    suspects.add(forged)
    suspects.add(anybodys)
    assert taken(suspects) == [anybodys, forged]


def test_one_that_is_put_back_is_its_tenants_next(suspects):
    first, second = Reply("ann"), Reply("ann")
    suspects.add(second)
    suspects.add_first(first)
    assert taken(suspects) == [first, second]


def test_only_who_forged_is_held_to_few(suspects):
    for tenant in ("mallory", "ann"):
        for _ in range(5):
            assert not suspects.crowded(tenant, 1)
            suspects.add(Reply(tenant))
    bad, many = suspects.blame(Reply("mallory", "forged"))
    assert bad == []
    assert [each.tenant for each in many] == ["mallory"] * 3
    assert suspects.crowded("mallory", 1)
    assert not suspects.crowded("ann", 1)
    assert suspects.alerted("mallory")
    assert not suspects.alerted("ann")
    assert sorted(each.tenant for each in suspects) == ["ann"] * 5 + ["mallory"] * 2


def test_those_to_the_same_channel_go_with_the_one_to_blame_but_only_its_tenants(suspects):
    same, other, anns = Reply("mallory", "forged"), Reply("mallory", "else"), Reply("ann", "forged")
    for each in (same, other, anns):
        suspects.add(each)
    assert suspects.blame(Reply("mallory", "forged")) == ([same], [])
    assert set(suspects) == {other, anns}


def test_bytes_count_but_one_may_always_wait(suspects):
    suspects.blame(Reply("mallory"))
    assert not suspects.crowded("mallory", 1000)
    suspects.add(Reply("mallory", size=8))
    assert not suspects.crowded("mallory", 2)
    assert suspects.crowded("mallory", 3)


def test_an_alert_ends(suspects, clock):
    suspects.blame(Reply("mallory"))
    clock.now = 59.0
    suspects.blame(Reply("eve"))
    clock.now = 61.0
    assert not suspects.alerted("mallory")
    assert suspects.alerted("eve")


def test_what_is_removed_is_told_and_gone(suspects):
    old, new = Reply("ann", size=1), Reply("ann", size=2)
    suspects.add(old)
    suspects.add(new)
    assert suspects.remove(lambda each: each.size == 1) == [old]
    assert list(suspects) == [new]
    assert suspects.remove(lambda _: True) == [new]
    assert len(suspects) == 0
