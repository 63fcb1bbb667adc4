"""Decides which of the requests that follow one begins here at once, without the broker. Pure.

It spares the broker a message and the request a wait for it. But the broker gives a request to whoever is free, which
this executor may not be; and it wants its deliveries settled in time, on one of which the whole chain stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kaasq_workers.link import Following, Job


class Bounds(msgspec.Struct, frozen=True):
    """Within which a chain goes on here.

    ``spill_s``: a request that has waited here for so long shows that others are needed. ``hold_s``: for so long a
    chain may stand on one delivery.
    """

    pool: str
    spill_s: float
    hold_s: float


def first_here(then: Sequence[Following], pool: str) -> Following | None:
    """Which of those that follow a job begins here, if any does; None if all are to be published."""
    return next((each for each in then if each.error is None and each.pool == pool), None)


def goes_on(job: Job, bounds: Bounds, *, waited_s: float, now_ms: int) -> bool:
    """Whether anything that follows the job may begin here.

    ``waited_s``: for how long somebody has been waiting here, 0 if nobody does. What follows a suspect does not begin
    here: behind it other suspects wait for the executor to be empty.
    """
    return not job.alone and waited_s < bounds.spill_s and now_ms - job.taken_ms < bounds.hold_s * 1000
