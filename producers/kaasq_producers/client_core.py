"""The client's heart, in callbacks: sends requests, ends them, and gives them up in time.

Client waits on it with threads, AsyncClient with futures of its loop; the logic is here and in the modules that it puts
together, once. Callbacks come on the broker's I/O thread.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from typing import Any

from kaasq.broker import Broker, Done, State
from kaasq.errors import BrokerLost, Cancelled, KaasqError, ReplyTimeout
from kaasq.polling import FEW
from kaasq.settings import Settings
from kaasq_producers.buffers import Buffers
from kaasq_producers.calls import Awaited, Call, OnResult, Route, Sendable
from kaasq_producers.deadlines import Deadlines
from kaasq_producers.endings import Endings
from kaasq_producers.listeners import Listeners
from kaasq_producers.pending import Pending
from kaasq_producers.publishing import Publishing
from kaasq_producers.reply_queue import ReplyQueue
from kaasq_producers.steps import NONE, Steps
from kaasq_producers.withdrawals import Withdrawals


class ClientCore:
    """Requests of one client over one broker. Every method may be called from any thread and returns at once.

    ``buffers`` None: a client without a store, which can read no large outputs.
    """

    def __init__(self, broker: Broker, buffers: Buffers | None, settings: Settings) -> None:
        self.broker = broker
        self.buffers = buffers
        self.route = Route(broker.tenant, settings.pool)
        self.pending = Pending(settings.pending_limit)
        self.withdrawals = Withdrawals(broker, self.route)
        self.listeners = Listeners()
        self.io_thread = 0
        """The I/O thread's ident: who waits there for a reply waits for ever."""
        self._abandoned: set[OnResult] = set()  # whose calls are to be cancelled
        self._publishing = publishing = Publishing(broker, self.route, self.pending, self._refused)
        self._endings = Endings(self.pending, buffers, publishing.publish)
        self._replies = ReplyQueue(
            broker, self.route, self._endings.replied, publishing.ask_for_replies, publishing.ask_for_all
        )
        self._deadlines = Deadlines(broker, self._expire)
        self._again = Deadlines(broker, publishing.ask_those_who_wait_long)

    def start(self, done: Done) -> None:
        """On an open broker: declare and consume the reply queue. ``done`` is called when requests may be sent."""

        def declared(error: KaasqError | None) -> None:
            self.io_thread = threading.get_ident()
            self._publishing.connected = error is None
            done(error)

        self.broker.watch(self._on_state)
        self.broker.expects(lambda: 0 < len(self.pending) <= FEW)
        self._replies.take(declared)

    def send(
        self,
        prepared: Sendable,
        on_result: OnResult,
        call_id: str | None = None,
        *,
        on_steps: Sequence[OnResult] = (),
        steps: Steps[Any] = NONE,
    ) -> Call | None:
        """Publish a request; ``on_result`` is called once with what became of it. Its id is new, unless one is given
        that no other call of this client has now.

        ``on_steps``: likewise for each of its continuations, whose futures, ``steps``, its result is given.
        None if there is no room: ``pending_limit`` requests have no reply. Raises BrokerLost after ``stop``.
        """
        if self.pending.is_full:
            return None  # looked at again below; a call for nothing would be encoded for nothing
        call = prepared.call(on_result, self._publishing.unpublished, call_id, on_steps, steps)
        if not self.pending.add(call):
            return None
        self._deadlines.add(call.given_up_at)
        self._again.add(call.again_at)
        self._publishing.publish(call)
        return call

    def no_room(self, timeout_s: float) -> ReplyTimeout:
        """What to tell a request that waited so long for room."""
        return ReplyTimeout(
            f"{len(self.pending)} requests had no reply yet (pending_limit is {self.pending.limit}), and within "
            f"{timeout_s:g} s there was no room for another",
            pool=self.route.pool,
            timeout_s=timeout_s,
        )

    def cancel(self, call: Awaited) -> bool:
        """Forget the request, and have the workers run neither it (any further) nor what follows it.

        False if its reply has come.
        """
        if not self.pending.forget(call):
            return False
        if call.cancels is not None:
            self.withdrawals.withdraw(call.cancels)  # of what follows the first of a chain, the workers know by its id
        for each in call.chain():
            if each.call is not call:
                self.withdrawals.withdraw(each.id)
            self._endings.end(each, Cancelled(f"request {each.id} was cancelled with what it follows", id=each.id))
        return True

    def abandon(self, on_result: OnResult) -> None:
        """Cancel the call that was to tell this, if it has been sent and has no reply.

        On the I/O thread, where no Ctrl-C ends it half way; so this may be interrupted, and done again.
        """

        def cancel() -> None:
            self._cancel_abandoned()
            self._abandoned.discard(on_result)

        self._abandoned.add(on_result)
        self.broker.call_soon(cancel)

    def wait_until_told(self, timeout_s: float) -> None:
        """Block until the broker has what was cancelled, and removed the queues that nobody listens to any more; at
        most about so long, and only while it is there.
        """
        until = time.monotonic() + timeout_s
        if self._abandoned:
            handed_over = threading.Event()
            self.broker.call_soon(handed_over.set)
            handed_over.wait(timeout_s)
        self.withdrawals.wait_until_told(max(0.0, until - time.monotonic()))
        self.listeners.leaving()
        self._replies.leave(self.listeners.left)
        self.listeners.leave(max(0.0, until - time.monotonic()))

    def stop(self, error: KaasqError | None = None) -> None:
        """Send nothing more, and tell everybody who waits."""
        over = self.pending.close(error or BrokerLost("the client is closed"))
        self.listeners.over(over)
        self._deadlines.cancel()
        self._again.cancel()
        self._replies.close()
        self._cancel_abandoned()  # the I/O thread may not have come to it
        for call in self.pending.all():
            closed = f"the client was closed before {call.what} had its reply"
            ended = copy.copy(error) if error is not None else BrokerLost(closed, request_id=call.id)
            self._endings.end(call, ended)

    def _cancel_abandoned(self) -> None:
        for call in self.pending.all() if self._abandoned else ():
            if call.on_result in self._abandoned:
                self.cancel(call)

    def _refused(self, call: Call, error: KaasqError) -> None:
        self._endings.fail(call, self.route.refused(error, call.id))

    def _expire(self, now: float) -> float | None:
        """End what is due; the earliest deadline that remains."""
        earliest: float | None = None
        for call in self.pending.all():
            if call.given_up_at <= now:
                self._endings.end(call, call.timed_out(self.route, connected=self._publishing.connected))
            elif earliest is None or call.given_up_at < earliest:
                earliest = call.given_up_at
        return earliest

    def _on_state(self, state: State, error: KaasqError | None) -> None:
        match state:
            case State.CONNECTED:
                self.withdrawals.connected()
                self._publishing.begin()
                self.listeners.connected()
            case State.LOST:
                self._publishing.connected = False
                self.withdrawals.lost()
                self.listeners.lost()
            case State.FAILED:
                self.stop(error or BrokerLost("the broker connection failed for good"))
            case State.BLOCKED | State.UNBLOCKED:
                pass  # publishes wait in the broker object, and the window bounds them
