"""What all workers of a pool agree on when they drive workflows."""

from __future__ import annotations

import msgspec

from kaasq.checks import GraphLimits
from kaasq_workers.flows.keeping import keep_at_ms
from kaasq_workers.flows.records import Head


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """From the settings. ``patience_s``: what has been due for so long is published again.

    ``longest_s``: for so long after its start, what a workflow needs is kept beyond ``ttl_s``.
    """

    pool: str
    limits: GraphLimits
    inline_limit: int
    ttl_s: float
    patience_s: float
    longest_s: float

    def keep_at_ms(self, head: Head) -> int | None:
        """When all that the workflow needs is to be prolonged, if ever."""
        return keep_at_ms(head, round(self.ttl_s * 1000), round(self.longest_s * 1000))
