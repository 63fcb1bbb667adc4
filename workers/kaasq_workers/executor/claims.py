"""Counts how often a request was begun and never ended, durably: what the front knows of it dies with the worker.

Only for requests that the broker delivers again. A first delivery needs no claim: that it was begun twice is harmless,
since its outcome is committed once, together with its effects.
"""

from __future__ import annotations

import time

from kaasq.errors import KernelFailed
from kaasq.ids import new_id
from kaasq.messages import WorkerInfo
from kaasq_storage import BufferStore, Claim
from kaasq_workers.link import Job


class Claims:
    """Of one executor, known by its ``epoch``."""

    def __init__(self, store: BufferStore, worker: WorkerInfo, *, most: int, ttl_s: float) -> None:
        self._store = store
        self._worker = f"{worker.host}/{worker.pid}/{worker.device}"
        self._most = most
        self._ttl_s = ttl_s
        self.epoch = new_id()

    def begin(self, job: Job, until_ms: int) -> None:
        """Record that it is begun. Raises KernelFailed if it was, too often, and never ended.

        What is delivered once counts once, however often the front has it run again: those kills it counts itself.
        """
        now = time.time()
        with self._store.transaction() as transaction:
            if transaction.outcome(job.tenant, job.id) is not None:
                return  # another worker has just ended it: that counts, whatever comes of this attempt
            earlier = transaction.claim(job.tenant, job.id)
            attempts = 1
            if earlier is not None:
                attempts = earlier.attempts + (earlier.delivery != job.delivery)
                if attempts > self._most:
                    raise begun_too_often(job.id, earlier)
            claim = Claim(
                worker=self._worker,
                epoch=self.epoch,
                delivery=job.delivery,
                attempts=attempts,
                since=now,
                until=until_ms / 1000,
                expires=now + self._ttl_s,
            )
            transaction.stake(job.tenant, job.id, claim)


def begun_too_often(request_id: str, claim: Claim) -> KernelFailed:
    """What is known of a request that no worker lived to end."""
    ago_s = max(0.0, time.time() - claim.since)
    return KernelFailed(
        f"request {request_id} was begun in {claim.attempts} deliveries, and no worker that began it has ended it; the "
        f"last was {claim.worker}, {ago_s:.0f} s ago. What ended them is not known: the whole worker died (out of "
        "memory, most likely), or it lost its broker each time. The request is kept in the dead-letter queue",
        attempts=claim.attempts,
        worker=claim.worker,
        epoch=claim.epoch,
        since=claim.since,
    )
