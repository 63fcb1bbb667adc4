"""What a cache keeps, on traces of accesses: rounds, popularity, scans, a change of what is wanted, sizes."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq_workers.executor.retention import REMEMBERED_LEAST, Retention, reload_us

MIB = 1 << 20
OBJECT = 8 * MIB
HOLDS = 100  # objects
Trace = list[tuple[int, int]]


def anyone(_: object) -> bool:
    return True


def replay(trace: Trace, capacity: int = HOLDS * OBJECT) -> list[bool]:
    """Which accesses are hits."""
    retention: Retention[int] = Retention(capacity)
    held: set[int] = set()
    hits = []
    for key, nbytes in trace:
        hits.append(key in held)
        if key in held:
            retention.used(key)
            continue
        evicted = retention.admit(key, nbytes, anyone)
        if evicted is not None:
            held.difference_update(evicted)
            retention.add(key, nbytes)
            held.add(key)
        assert retention.nbytes <= capacity
    return hits


def least_recently_used(trace: Trace, capacity: int = HOLDS * OBJECT) -> list[bool]:
    held: OrderedDict[int, int] = OrderedDict()
    hits = []
    for key, nbytes in trace:
        hits.append(key in held)
        held.pop(key, None)
        while held and sum(held.values()) + nbytes > capacity:
            held.popitem(last=False)
        held[key] = nbytes
    return hits


def rate(hits: Iterable[bool]) -> float:
    late = list(hits)
    late = late[len(late) // 3 :]
    return sum(late) / len(late)


def rounds(objects: int, count: int, first: int = 0) -> Trace:
    return [(first + index, OBJECT) for _ in range(count) for index in range(objects)]


@pytest.mark.parametrize(
    ("objects", "least"), [(80, 1.0), (100, 1.0), (105, 0.9), (125, 0.75), (150, 0.6), (200, 0.45)]
)
def test_a_round_larger_than_the_cache_loses_what_does_not_fit_and_no_more(objects, least):
    assert rate(replay(rounds(objects, 30))) >= least


def test_the_same_rounds_find_nothing_in_least_recently_used_order():
    assert rate(least_recently_used(rounds(125, 30))) == 0  # that this suite can tell the difference


@pytest.mark.parametrize("skew", [0.8, 1.0])
def test_popular_objects_are_kept_better_than_by_recency(skew):
    weights = [(index + 1) ** -skew for index in range(1000)]
    keys = random.Random(1).choices(range(1000), weights, k=20_000)
    trace = [(key, OBJECT) for key in keys]
    assert rate(replay(trace)) > rate(least_recently_used(trace)) + 0.04


def test_a_scan_leaves_what_is_wanted_again_and_again():
    trace: Trace = []
    for round_ in range(30):
        trace += rounds(60, 1) + rounds(400, 1, first=1000 * (round_ + 1))
    hits = replay(trace)
    hot = [hit for (key, _), hit in zip(trace, hits, strict=True) if key < 60]
    assert rate(hot) == 1.0


def test_another_working_set_is_adopted_within_five_rounds():
    trace = rounds(90, 20) + rounds(90, 6, first=1000)
    last = replay(trace)[-90:]
    assert sum(last) == 90


def test_one_new_object_that_is_wanted_at_once_and_often_comes_in_within_as_many_uses_as_there_are_dead_ones():
    hits = replay(rounds(100, 5) + [(1000, OBJECT)] * 210)
    assert hits[-1]


def test_small_objects_are_kept_rather_than_large_ones_that_cost_less_for_their_size():
    small, large = [(index, 64 << 10) for index in range(400)], [(1000 + index, 40 * MIB) for index in range(30)]
    shuffled = random.Random(2)
    trace: Trace = []
    for _ in range(30):
        each = small + large
        shuffled.shuffle(each)
        trace += each
    hits = replay(trace)
    small_hits = [hit for (key, _), hit in zip(trace, hits, strict=True) if key < 1000]
    assert rate(small_hits) > 0.95


def saved_us(trace: Trace, hits: list[bool]) -> float:
    return sum(reload_us(nbytes) for (_, nbytes), hit in zip(trace, hits, strict=True) if hit)


def test_of_sizes_that_differ_more_time_is_saved_than_by_recency():
    drawn = random.Random(3)
    sizes = [drawn.choice([64 << 10, MIB, OBJECT, 64 * MIB]) for _ in range(400)]
    keys = [min(399, int(drawn.expovariate(1 / 60))) for _ in range(20_000)]
    trace = [(key, sizes[key]) for key in keys]
    assert saved_us(trace, replay(trace)) > saved_us(trace, least_recently_used(trace))


def test_what_is_larger_than_the_cache_evicts_nobody():
    retention: Retention[str] = Retention(100)
    assert retention.admit("a", 60, anyone) == []
    retention.add("a", 60)
    for _ in range(10):
        assert retention.admit("b", 101, anyone) is None
    assert list(retention.order()) == ["a"]


def test_what_is_in_use_is_not_asked_to_go():
    retention: Retention[str] = Retention(100)
    for key in "ab":
        assert retention.admit(key, 50, anyone) == []
        retention.add(key, 50)
    evicted = None
    for _ in range(5):
        evicted = evicted or retention.admit("c", 50, lambda each: each != "a")
    assert evicted == ["b"]


def test_memory_of_what_is_gone_is_bounded():
    retention: Retention[int] = Retention(10)
    retention.admit(0, 10, anyone)
    retention.add(0, 10)
    for key in range(1, 1000):
        retention.admit(key, 10, anyone)
    assert len(retention._remembered) <= REMEMBERED_LEAST


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=200), st.integers(1, 60))
def test_bytes_are_counted_whatever_comes(accesses, capacity):
    sizes = [1, 7, 20, 61]
    retention: Retention[tuple[int, int]] = Retention(capacity)
    held: dict[tuple[int, int], int] = {}
    for key in accesses:
        nbytes = sizes[key[1]]
        if key in held:
            retention.used(key)
            continue
        evicted = retention.admit(key, nbytes, anyone)
        if evicted is not None:
            for each in evicted:
                del held[each]
            retention.add(key, nbytes)
            held[key] = nbytes
        assert retention.nbytes == sum(held.values()) <= capacity
        assert set(retention.order()) == set(held)
