"""Which tenant gets an executor: never more than the most, the longest idle one makes room, everybody's turn comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kaasq_workers.front.allotting import Allotment, Limits, Place, allot

LIMITS = Limits(most=2, idle_s=60.0, turn_s=5.0)


def place(owner: str | None, *, since: float = 0.0, idle: float | None = None, leaving: bool = False) -> Place:
    return Place(owner, since, idle, leaving)


def test_a_newcomer_gets_a_free_one_before_one_is_started():
    assert allot({1: place(None, idle=0.0)}, ["ann"], LIMITS, 1.0) == Allotment(give=[(1, "ann")])


def test_one_is_started_while_there_is_room():
    assert allot({1: place("ann")}, ["bob"], LIMITS, 1.0) == Allotment(start=["bob"])


def test_the_one_idle_for_longest_makes_room():
    places = {1: place("ann", idle=8.0), 2: place("bob", idle=7.0)}
    assert allot(places, ["cat"], LIMITS, 9.0) == Allotment(leave=[2])


def test_nobody_loses_a_busy_one_before_its_turn_is_over():
    places = {1: place("ann", since=1.0), 2: place("bob", since=0.0)}
    assert allot(places, ["cat"], LIMITS, 4.9) == Allotment()
    assert allot(places, ["cat"], LIMITS, 5.0) == Allotment(leave=[2])


def test_no_more_leave_than_are_waited_for():
    places = {1: place("ann", leaving=True), 2: place("bob", idle=0.0)}
    assert allot(places, ["cat"], LIMITS, 9.0) == Allotment()
    assert allot(places, ["cat", "dan"], LIMITS, 9.0) == Allotment(leave=[2])


def test_what_nobody_uses_ends():
    places = {1: place("ann", idle=0.0), 2: place(None, idle=1.0)}
    assert allot(places, [], LIMITS, 60.0) == Allotment(leave=[1])
    assert allot(places, [], LIMITS, 61.0) == Allotment(leave=[1, 2])


TENANTS = [f"t{i}" for i in range(6)]


@given(
    most=st.integers(1, 4),
    arrivals=st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 4)), max_size=30),
    greedy=st.sets(st.sampled_from(TENANTS)),
)
def test_whoever_waits_is_served_though_others_never_stop_asking(most, arrivals, greedy):
    """A model of executors in steps of a second; a greedy tenant has a new request whenever one of its ends."""
    limits = Limits(most=most, idle_s=60.0, turn_s=5.0)
    waiting: dict[str, int] = {}
    served: set[str] = set()
    places: dict[int, Place] = {}
    work: dict[int, int] = {}
    next_key = 0
    asked: set[str] = set()

    def ask(tenant: str, requests: int) -> None:
        asked.add(tenant)
        key = next((k for k, each in places.items() if each.owner == tenant and not each.leaving), None)
        if key is None:
            waiting[tenant] = waiting.get(tenant, 0) + requests
        else:
            work[key] += requests

    for now in range(len(arrivals) + 20 * len(TENANTS)):
        if now < len(arrivals):
            ask(*arrivals[now])
        todo = allot(places, list(waiting), limits, float(now))
        for owner in todo.start:
            places[next_key], work[next_key] = Place(None, 0.0, float(now)), 0
            todo.give.append((next_key, owner))
            next_key += 1
        for key, owner in todo.give:
            assert not places[key].leaving
            places[key], work[key] = Place(owner, float(now)), waiting.pop(owner)
        for key in todo.leave:
            places[key] = Place(places[key].owner, places[key].since_s, places[key].idle_since_s, leaving=True)
        assert len(places) <= most
        owners = [each.owner for each in places.values() if each.owner is not None and not each.leaving]
        assert len(owners) == len(set(owners))
        for key, each in list(places.items()):
            if work[key]:
                work[key] -= 1
                assert each.owner is not None
                served.add(each.owner)
                if each.owner in greedy:
                    ask(each.owner, 1)
            if not work[key]:
                if each.leaving:
                    del places[key], work[key]
                else:
                    places[key] = Place(each.owner, each.since_s, float(now), each.leaving)
            elif each.idle_since_s is not None:
                places[key] = Place(each.owner, each.since_s, None, each.leaving)
    assert asked <= served
