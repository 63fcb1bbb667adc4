"""Decides whether a running request has to be stopped, which takes its executor with it. Pure: the supervisor acts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from kaasq.errors import Cancelled, DeadlineExceeded, KaasqError
from kaasq.messages import Status
from kaasq_workers.link import Job


class Stopped(NamedTuple):
    """A request whose executor is killed so that it ends, and what its client is told."""

    job: Job
    error: KaasqError
    status: Status


def to_stop(
    jobs: Mapping[int, Job],
    running: Mapping[int, int],
    withdrawn: Mapping[int, float],
    now_ms: float,
    now_s: float,
) -> Stopped | None:
    """The first request that runs past its deadline, or although it was cancelled.

    ``running``: the deadline of each tag in milliseconds since the epoch, 0 for none. ``withdrawn``: until when, by the
    clock of ``now_s``, a tag that was cancelled may go on. One at a time: the others run again, and are looked at then.
    """
    for tag, deadline_ms in running.items():
        job = jobs.get(tag)
        if job is None:
            continue
        if deadline_ms and now_ms > deadline_ms:
            late = DeadlineExceeded(
                f"request {job.id} was still running when its time was over (its timeout, or the worker's "
                "longest_run); it was stopped"
            )
            return Stopped(job, late, "expired")
        if now_s > withdrawn.get(tag, math.inf):
            return Stopped(job, Cancelled(f"request {job.id} was cancelled, and stopped", id=job.id), "cancelled")
    return None
