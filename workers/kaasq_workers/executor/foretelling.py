"""Makes what follows a request before its outcome is durable: so it may begin, and several steps share a commit.

Nobody is told of it before. Should the request not end as foretold after all, what began behind it never was.
"""

from __future__ import annotations

from kaasq.messages import Output, Reply
from kaasq_workers.executor.ended import Ended, Foretold
from kaasq_workers.executor.flight import output_of
from kaasq_workers.executor.following import Followers
from kaasq_workers.executor.onward import first_here


def foretold(ended: Ended, followers: Followers, pool: str) -> Foretold | None:
    """What follows a request that ran; None if it has to be made once that is durable.

    Only where all outputs are bytes: what is kept or large can be read, and names have moved, once it is durable. What
    was delivered before is not begun ahead either: how often it was is counted in the store, step by step.
    """
    job, request, executed = ended.job, ended.request, ended.executed
    if request is None or executed is None or ended.below is None or not request.then:
        return None
    if ended.error is not None or ended.digest is None or ended.step is not None or job.redelivered:
        return None
    outputs: dict[str, Output] = {}
    for buffer, data in executed.outputs:
        if not isinstance(data, bytearray):
            return None
        outputs[buffer.name] = output_of(buffer, bytes(data))
    reply = Reply(id=job.id, status="ok", outputs=outputs)
    told, follow = followers.following(
        *(job.tenant, job.id, request, ended.below), reply, ended.reply_type, ended.deadline_ms
    )
    return Foretold(told, follow, first_here(follow, pool))
