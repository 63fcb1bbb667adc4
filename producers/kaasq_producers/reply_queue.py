"""Where a client's replies arrive: a queue of its own, or another one once its node is gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kaasq import topology
from kaasq.broker import Broker, Consumer, Delivery, Done
from kaasq.errors import KaasqError
from kaasq.log import get_logger
from kaasq_producers.calls import Route

log = get_logger()


class ReplyQueue:
    """The queue that ``route`` names. ``on_gap``: replies may have been lost with the connection; ``on_moved``:
    another queue has been taken, and nobody has the replies to what was published before.
    """

    def __init__(
        self,
        broker: Broker,
        route: Route,
        on_reply: Callable[[Delivery], None],
        on_gap: Callable[[], None],
        on_moved: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._route = route
        self._on_reply = on_reply
        self._on_gap = on_gap
        self._on_moved = on_moved
        self._consumer: Consumer | None = None
        self._over = False

    def take(self, done: Done) -> None:
        """Declare and consume it."""
        route = self._route

        def declared(error: KaasqError | None) -> None:
            if error is None and not self._over:
                queue = topology.reply_queue(route.tenant, route.reply_id)
                self._consumer = self._broker.consume(queue, self._on_reply, on_gap=self._on_gap)
            done(error)

        self._broker.declare(topology.reply_topology(route.tenant, route.reply_id), declared, self._absent)

    def leave(self, removed: Done) -> None:
        """Take no more replies, and remove it: it would go by itself, some time later. From any thread."""
        self._broker.call_soon(partial(self._leave, removed))

    def close(self) -> None:
        """Take no more replies."""
        self._over = True
        if self._consumer is not None:
            self._consumer.cancel()

    def _leave(self, removed: Done) -> None:
        self.close()
        declared = topology.reply_topology(self._route.tenant, self._route.reply_id)
        self._broker.remove(topology.Topology(queues=declared.queues), removed)

    def _absent(self) -> None:
        """The node of a cluster that has it is down: take another queue, and ask again."""

        def declared(error: KaasqError | None) -> None:
            if error is not None:
                log.warning("replies.refused", code=error.code, error=error.message)
                return
            # Only now: what was published since may have been answered before the new queue was there.
            self._on_moved()

        log.info("replies.moved", reply_id=self._route.reply_id)
        if self._consumer is not None:
            self._consumer.cancel()
        self._route.renew()
        self.take(declared)
