"""Tells the workers which requests not to run (any further)."""

from __future__ import annotations

import threading
import time

from kaasq import codec, topology
from kaasq.broker import Broker, Done, Message
from kaasq.errors import KaasqError
from kaasq.ids import new_id
from kaasq.log import get_logger
from kaasq.messages import Cancel
from kaasq_producers.calls import Route

log = get_logger()


class Withdrawals:
    """Of one client, which says when its connection is lost and when it is back. Thread-safe."""

    def __init__(self, broker: Broker, route: Route) -> None:
        self._broker = broker
        self._route = route
        self._connected = True
        self._telling = 0  # those that the broker has not confirmed yet
        self._told = threading.Condition()

    def withdraw(self, request_id: str, done: Done | None = None) -> None:
        """Tell the workers not to run a request of this tenant (any further). Who awaits it gets ``Cancelled``.

        ``done`` is called once the broker has it, or with why it has not.
        """
        route = self._route
        message = Message(
            body=codec.encode(Cancel(cancel=request_id)),
            content_type=codec.MSGPACK,
            user_id=route.tenant,
            message_id=new_id(),
            timestamp_ms=time.time_ns() // 1_000_000,
        )
        key = topology.control_key(route.tenant, route.pool)
        with self._told:
            self._telling += 1

        def confirmed(error: KaasqError | None) -> None:
            self._withdrawn()
            if error is not None and done is None:
                log.warning(
                    "cancel.not_sent", request=request_id, code=error.code, error=f"{error.message}: it may go on"
                )
            if done is not None:
                done(error)

        self._broker.publish(message, exchange=topology.CONTROL, routing_key=key, done=confirmed)

    def wait_until_told(self, timeout_s: float) -> None:
        """Block until the broker has confirmed all of them, at most so long, and only while it is there.

        Who closes after Ctrl-C has just sent one; closing at once would leave open whether it arrived.
        """
        with self._told:
            self._told.wait_for(lambda: not self._telling or not self._connected, timeout_s)

    def lost(self) -> None:
        """The broker is gone: nobody waits for it."""
        with self._told:
            self._connected = False
            self._told.notify_all()

    def connected(self) -> None:
        """It is back."""
        self._connected = True

    def _withdrawn(self) -> None:
        """The broker took one; or did not: then the request may run, and its reply is dropped."""
        with self._told:
            self._telling -= 1
            self._told.notify_all()
