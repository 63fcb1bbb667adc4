"""Requests of a chain that stand on one delivery: it is settled when all of them are."""

from __future__ import annotations

from kaasq.broker import Delivery, Message

_ACK, _REQUEUE, _REJECT = range(3)  # the gravest counts


class _Whole:
    """The delivery that the broker made, and how many requests stand on it."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.open = 0
        self._gravest = _ACK

    def settled(self, how: int) -> None:
        self.open -= 1
        self._gravest = max(self._gravest, how)
        if self.open:
            return
        if self._gravest == _ACK:
            self.delivery.ack()
        elif self._gravest == _REQUEUE:
            self.delivery.requeue()
        else:
            self.delivery.reject()


class Share:
    """One of the requests on it: a delivery like any other, as if the broker had brought that message."""

    def __init__(self, whole: _Whole, message: Message, exchange: str, routing_key: str) -> None:
        self.whole = whole
        self.message, self.exchange, self.routing_key = message, exchange, routing_key
        self.queue, self.redelivered = whole.delivery.queue, whole.delivery.redelivered
        self._settled = False
        whole.open += 1

    def ack(self) -> None:
        self._settle(_ACK)

    def requeue(self) -> None:
        self._settle(_REQUEUE)

    def reject(self) -> None:
        self._settle(_REJECT)

    def _settle(self, how: int) -> None:
        if not self._settled:
            self._settled = True
            self.whole.settled(how)


def shared(delivery: Delivery, message: Message, exchange: str, routing_key: str) -> tuple[Share, Share]:
    """The delivery as a share in itself, unless it is one, and another share in it for the message that follows."""
    before = delivery
    if not isinstance(before, Share):
        before = Share(_Whole(delivery), delivery.message, delivery.exchange, delivery.routing_key)
    return before, Share(before.whole, message, exchange, routing_key)
