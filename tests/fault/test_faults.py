"""Faults in a kaasq under load, quickly: a few of each kind that ``ops/faults`` injects by the hundred."""

from __future__ import annotations

import random
import warnings

import pytest

from kaasq_bench.rabbitmq.cluster import RabbitCluster
from kaasq_faults import boundaries, campaign, conditions, hostile, kernels, leaders
from kaasq_faults.faults import DISTURBANCES
from kaasq_faults.rig import WITH_FLOWS, Rig, Size
from real_broker import node_root

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

SIZE = Size(rate=8.0)
FLOWS = Size(rate=8.0, kinds=WITH_FLOWS)
ONE = Size(rate=8.0, workers=1)
AWAY_S = 15.0
MOST_GAP_S = 6.0  # twice the long form's bar: the machine may be busy. Who waits for a dead node waits for AWAY_S


def test_nothing_is_lost_or_done_twice_whoever_is_killed(node, tmp_path, seed):
    counts = {"kill executor": 6, "kill front": 3, "kill client": 3, "kill broker": 1}
    with Rig(tmp_path / "rig", seed, node, FLOWS) as rig:
        report = campaign.run(rig, counts, pause_s=0.8)
    assert report.problems == [], f"seed {seed}"
    assert report.verdict.asked > 100
    assert report.verdict.flows > 5
    assert counts.keys() <= (+report.faults).keys(), "each kind of process was killed, some of them more than once"
    assert report.faults.total() > len(counts)


@pytest.mark.parametrize("mode", boundaries.MODES)
def test_a_workflow_ends_alike_at_whatever_moment_a_process_dies(node, tmp_path, seed, mode):
    with boundaries.Boundaries(tmp_path / "rig", node.url, mode) as worker:
        report = worker.run(random.Random(seed), share=0.015, pairs=0)
    assert report.problems == [], f"seed {seed}"
    assert report.deaths.total() > 0
    assert min(report.passed.values()) > 40


def test_nothing_is_lost_or_done_twice_whatever_stands_still_or_breaks_off(node, tmp_path, seed):
    counts = {fault.name: 1 for fault in DISTURBANCES}
    with Rig(tmp_path / "rig", seed, node, SIZE) as rig:
        report = campaign.run(rig, counts, pause_s=1.0)
    assert report.problems == [], f"seed {seed}"
    assert report.faults.total() == len(counts)


def test_a_memory_alarm_of_the_broker_delays_and_does_nothing_else(node, tmp_path, seed):
    with Rig(tmp_path / "rig", seed, node, ONE) as rig:
        report = conditions.memory_alarm(rig)
    assert report.verdict.problems == [], f"seed {seed}"
    assert report.told == {}


def test_a_full_disk_under_the_store_is_told_and_over_when_there_is_room(node, tmp_path, seed):
    try:
        report = conditions.full_disk(tmp_path / "rig", seed, node, ONE)
    except PermissionError as error:
        warnings.warn(f"not run: mounting a small file system needs root ({error})", stacklevel=1)
        return
    assert report.verdict.problems == [], f"seed {seed}"
    assert set(report.told) == {"store_full"}


def test_a_full_store_is_told_and_over_when_there_is_room(node, tmp_path, seed):
    size = Size(rate=8.0, workers=1, worker_args=["--store-capacity", str(conditions.ROOM_BYTES)])
    with Rig(tmp_path / "rig", seed, node, size) as rig:
        report = conditions.full_store(rig)
    assert report.verdict.problems == [], f"seed {seed}"
    assert set(report.told) == {"store_full"}


def test_a_clock_that_is_set_ends_nothing_but_deadlines(node, tmp_path, seed):
    report = conditions.clock_steps(tmp_path / "rig", seed, node, ONE)
    assert report.verdict.problems == [], f"seed {seed}"
    assert set(report.told) <= {"deadline_exceeded"}


def test_a_cluster_that_loses_its_leader_loses_nothing(tmp_path, seed):
    with RabbitCluster(root=node_root()) as cluster, Rig(tmp_path / "rig", seed, cluster, SIZE) as rig:
        report = leaders.run(rig, cluster, 1, away_s=AWAY_S)
    assert report.verdict.problems == [], f"seed {seed}"
    assert max(report.gaps) < MOST_GAP_S, f"seed {seed}"


def test_hostile_messages_are_each_answered_or_kept_and_harm_nobody(node, tmp_path, seed):
    with Rig(tmp_path / "rig", seed, node, ONE) as rig:
        report = hostile.run(rig, 2000)
        verdict = rig.settle(60.0)
    assert report.problems + verdict.problems == [], f"seed {seed}"
    assert sum(report.answers.values()) == report.sent == 2000


def test_kernels_that_crash_hang_or_want_too_much_are_told_so_and_others_are_served(node, tmp_path, seed):
    with Rig(tmp_path / "rig", seed, node, ONE) as rig:
        report = kernels.run(rig, len(kernels.CASES["cpu"]))
    assert report.verdict.problems == [], f"seed {seed}"
    assert set(report.told) == set(kernels.CASES["cpu"])
