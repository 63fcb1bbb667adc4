"""Publishes a client's requests, and repeats those that may be lost, or whose replies may."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kaasq import topology
from kaasq.broker import Broker
from kaasq.errors import BrokerLost, KaasqError
from kaasq_producers.calls import FOREVER, Call, Route
from kaasq_producers.pending import Pending

RESEND_DELAY_S = 0.1
UNCONFIRMED_DELAY_S = 0.25  # after the broker's patience was over already; doubled each time
REJECTED_DELAY_S = 0.5  # a queue elects its next leader in less, mostly; a full one is asked no oftener


class Publishing:
    """Of the requests that are pending. Repeating one is safe: a request runs once per id.

    ``refused`` is told of a request that the broker does not take.
    """

    def __init__(
        self, broker: Broker, route: Route, pending: Pending, refused: Callable[[Call, KaasqError], None]
    ) -> None:
        self.connected = False
        self._broker = broker
        self._route = route
        self._pending = pending
        self._refused = refused
        self._resend: list[Call] = []

    def publish(self, call: Call) -> None:
        """Publish it, again or for the first time."""
        self._broker.publish(
            call.message(self._route),
            exchange=topology.REQUESTS,
            routing_key=self._route.key,
            mandatory=True,
            done=call.published,
        )

    def unpublished(self, call: Call, error: KaasqError) -> None:
        """The broker did not take it, or nobody knows."""
        if not self._pending.awaits(call):
            return
        rejected = bool(error.detail.get("rejected"))
        if not (rejected or isinstance(error, BrokerLost)) or self._pending.over is not None:
            self._refused(call, error)
            return
        # It may have arrived or not, or there was no room for it.
        call.rejected = rejected
        if error.detail.get("unconfirmed"):
            delay_s = UNCONFIRMED_DELAY_S * 2**call.unconfirmed
            call.unconfirmed += 1
            self._broker.call_later(delay_s, partial(self._repeat, call))
            return
        self._resend.append(call)
        if self.connected:
            self._broker.call_later(REJECTED_DELAY_S if rejected else RESEND_DELAY_S, self._resend_all)

    def begin(self) -> None:
        """There is a connection: publish what waited for it."""
        self.connected = True
        self._resend_all()

    def ask_for_replies(self) -> None:
        """Replies may have been lost with the connection: ask for them again, once those that the queue kept are here.

        A request that is not confirmed is still the broker's to publish, or is about to be repeated anyway.
        """
        asked = [each for each in self._pending.calls() if each.confirmed]
        if asked:
            self._broker.call_later(RESEND_DELAY_S, partial(self._ask_again, asked))

    def ask_for_all(self) -> None:
        """Replies to whatever was published may be lost: repeat all of it."""
        self._resend = self._pending.calls()
        if self.connected:
            self._resend_all()

    def ask_those_who_wait_long(self, now: float) -> float | None:
        """Repeat what is to be repeated from time to time; when that is next."""
        earliest = FOREVER
        for call in self._pending.calls():
            if call.again_s is not None and call.again_at <= now:
                call.again_at = now + call.again_s
                if self.connected and call.confirmed:  # else it is on its way, or about to be repeated anyway
                    call.confirmed = False
                    self.publish(call)
            earliest = min(earliest, call.again_at)
        return None if earliest == FOREVER else earliest

    def _ask_again(self, calls: list[Call]) -> None:
        """Repeat them: a worker answers from their outcomes, and runs what has none."""
        for call in calls:
            if call.confirmed and self._pending.awaits(call):
                call.confirmed = False
                self._resend.append(call)
        if self.connected:
            self._resend_all()

    def _repeat(self, call: Call) -> None:
        if not self.connected:
            self._resend.append(call)
        elif self._pending.awaits(call):
            self.publish(call)

    def _resend_all(self) -> None:
        calls, self._resend = self._resend, []
        for call in calls:
            if self._pending.awaits(call):
                self.publish(call)
