"""Whether anybody takes requests of a pool now: asked before one is sent that would lie there until it expires."""

from __future__ import annotations

import queue

from kaasq.broker import Broker, Inspected
from kaasq.errors import KaasqError
from kaasq.topology import work_queue


def is_served(broker: Broker, pool: str, timeout_s: float) -> bool:
    """Whether the pool's queue has a consumer. If the broker does not say, a request will tell.

    Not on the I/O thread.
    """
    found: queue.SimpleQueue[Inspected | KaasqError] = queue.SimpleQueue()
    broker.inspect(work_queue(pool), found.put)
    try:
        said = found.get(timeout=timeout_s)
    except queue.Empty:
        return True
    return not isinstance(said, Inspected) or said.consumers > 0
