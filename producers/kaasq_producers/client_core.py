"""The client's heart, in callbacks: publishes requests, matches replies, times out, repeats what may be lost.

Client waits on it with threads, AsyncClient with futures of its loop; the logic is here, once. Callbacks come on the
broker's I/O thread.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from kaasq import codec, topology
from kaasq.broker import Broker, Consumer, Delivery, Done, Message, State
from kaasq.errors import BadRequest, BrokerLost, Cancelled, KaasqError, ReplyTimeout, UnknownGraph
from kaasq.ids import new_id
from kaasq.log import get_logger
from kaasq.messages import Cancel, Reply
from kaasq.settings import Settings
from kaasq_producers.buffers import Buffers
from kaasq_producers.calls import Awaited, Call, OnResult, Route
from kaasq_producers.deadlines import Deadlines
from kaasq_producers.prepare import Prepared
from kaasq_producers.result import Result, failure
from kaasq_producers.steps import NONE, Steps

RESEND_DELAY_S = 0.1
UNCONFIRMED_DELAY_S = 0.25  # after the broker's patience was over already; doubled each time
REJECTED_DELAY_S = 0.5  # a queue elects its next leader in less, mostly; a full one is asked no oftener

log = get_logger()


class Listener(Protocol):
    """Who also lives on the client's connection, and is told of it on the I/O thread."""

    def lost(self) -> None:
        """It is gone: what was delivered can no longer be settled."""

    def connected(self) -> None:
        """It is back."""

    def over(self, error: KaasqError) -> None:
        """It will not come back; on any thread, once."""


class ClientCore:
    """Requests of one client over one broker. Every method may be called from any thread and returns at once.

    ``buffers`` None: a client without a store, which can read no large outputs.
    """

    def __init__(self, broker: Broker, buffers: Buffers | None, settings: Settings) -> None:
        self.broker = broker
        self.buffers = buffers
        self.route = Route(broker.tenant, settings.pool)
        self.limit = settings.pending_limit
        self._pending: dict[str, Awaited] = {}
        self._chains: dict[str, Call] = {}  # requests of which something that follows is pending, or they are
        self._room = threading.Condition()
        self._waiting = 0
        self._callbacks: deque[Callable[[], None]] = deque()
        self._deadlines = Deadlines(broker, self._expire)
        self._resend: list[Call] = []
        self._consumer: Consumer | None = None
        self._connected = False
        self._over: KaasqError | None = None
        self._listeners: list[Listener] = []
        self._telling = 0  # cancellations that the broker has not confirmed yet
        self._told = threading.Condition()
        self.io_thread = 0
        """The I/O thread's ident: who waits there for a reply waits for ever."""

    @property
    def pending(self) -> int:
        """How many requests have no reply yet."""
        return len(self._pending)

    def start(self, done: Done) -> None:
        """On an open broker: declare and consume the reply queue. ``done`` is called when requests may be sent."""

        def declared(error: KaasqError | None) -> None:
            self.io_thread = threading.get_ident()
            self._connected = error is None
            done(error)

        self.broker.watch(self._on_state)
        self._take_replies(declared)

    def send(
        self,
        prepared: Prepared,
        on_result: OnResult,
        request_id: str | None = None,
        *,
        on_steps: Sequence[OnResult] = (),
        steps: Steps[Any] = NONE,
    ) -> Call | None:
        """Publish a request; ``on_result`` is called once with what became of it. Its id is new, unless one is given
        that no other request of this client has now.

        ``on_steps``: likewise for each of its continuations, whose futures, ``steps``, its result is given.
        None if there is no room: ``pending_limit`` requests have no reply. Raises BrokerLost after ``stop``.
        """
        if len(self._pending) >= self.limit and self._over is None:
            return None  # looked at again below; a call for nothing would be encoded for nothing
        call = Call(prepared, on_result, self._on_unpublished, request_id, on_steps, steps)
        with self._room:
            if self._over is not None:
                raise copy.copy(self._over)  # a raised exception collects its raiser's traceback
            if len(self._pending) >= self.limit:
                return None
            self._pending[call.id] = call
            if call.following:
                self._chains[call.id] = call
                self._pending.update((each.id, each) for each in call.chain())
        self._deadlines.add(call.given_up_at)
        self._publish(call)
        return call

    def wait_for_room(self, timeout_s: float) -> bool:
        """Block until ``send`` is likely to have room again. False if it took too long."""
        with self._room:
            self._waiting += 1
            try:
                return self._room.wait_for(self._has_room, timeout_s)
            finally:
                self._waiting -= 1

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call back once ``send`` is likely to have room again, or nothing is sent any more: from any thread, at once
        if that is so now. It is called once, and must neither block nor raise; each free place calls one of them, which
        has to ask again if it was not enough.
        """
        with self._room:
            # First this, then the look at the room: ``forget`` makes room and then looks here, without the lock.
            self._callbacks.append(callback)
            if not self._has_room():
                return
            self._callbacks.remove(callback)
        callback()

    def no_room(self, timeout_s: float) -> ReplyTimeout:
        """What to tell a request that waited so long for room."""
        return ReplyTimeout(
            f"{self.pending} requests had no reply yet (pending_limit is {self.limit}), and within {timeout_s:g} s "
            f"there was no room for another",
            pool=self.route.pool,
            timeout_s=timeout_s,
        )

    def cancel(self, call: Awaited) -> bool:
        """Forget the request, and have the workers run neither it (any further) nor what follows it.

        False if its reply has come.
        """
        if not self.forget(call):
            return False
        self.withdraw(call.id)  # of what follows the first of a chain, the workers know by its id
        for each in call.chain():
            if each.call is not call:
                self.withdraw(each.id)
            self._end(each, Cancelled(f"request {each.id} was cancelled with what it follows", id=each.id))
        return True

    def withdraw(self, request_id: str) -> None:
        """Tell the workers not to run a request of this tenant (any further). Who awaits it gets ``Cancelled``."""
        message = Message(
            body=codec.encode(Cancel(cancel=request_id)),
            content_type=codec.MSGPACK,
            user_id=self.route.tenant,
            message_id=new_id(),
            timestamp_ms=time.time_ns() // 1_000_000,
        )
        key = topology.control_key(self.route.tenant, self.route.pool)
        with self._told:
            self._telling += 1
        self.broker.publish(message, exchange=topology.CONTROL, routing_key=key, done=self._withdrawn)

    def wait_until_told(self, timeout_s: float) -> None:
        """Block until the broker has confirmed all cancellations, at most so long, and only while it is there.

        Who closes after Ctrl-C has just sent one; closing at once would leave open whether it arrived.
        """
        with self._told:
            self._told.wait_for(lambda: not self._telling or not self._connected, timeout_s)

    def forget(self, call: Awaited) -> bool:
        """Stop waiting for a reply; it is dropped when it comes. False if it has come. Calls nobody back."""
        if self._pending.pop(call.id, None) is None:
            return False
        if call.call.following and not self._is_awaited(call.call):
            self._chains.pop(call.call.id, None)
        if self._waiting or self._callbacks:
            with self._room:
                self._room.notify()
                callback = self._callbacks.popleft() if self._callbacks else None
            if callback is not None:
                callback()
        return True

    def attach(self, listener: Listener) -> None:
        """Tell it of the connection from now on."""
        with self._room:
            over = self._over
            if over is None:
                self._listeners.append(listener)
        if over is not None:
            listener.over(over)

    def detach(self, listener: Listener) -> None:
        """Tell it no more."""
        with self._room:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def stop(self, error: KaasqError | None = None) -> None:
        """Send nothing more, and tell everybody who waits."""
        with self._room:
            if self._over is None:
                self._over = error or BrokerLost("the client is closed")
            calls = list(self._pending.values())
            self._room.notify_all()
            callbacks, self._callbacks = self._callbacks, deque()
            listeners, self._listeners = self._listeners, []
        for callback in callbacks:
            callback()
        for listener in listeners:
            listener.over(self._over)
        self._deadlines.cancel()
        if self._consumer is not None:
            self._consumer.cancel()
        for call in calls:
            closed = f"the client was closed before request {call.id} had its reply"
            self._end(call, copy.copy(error) if error is not None else BrokerLost(closed, request_id=call.id))

    def _take_replies(self, done: Done) -> None:
        """Declare and consume the reply queue."""
        route = self.route

        def declared(error: KaasqError | None) -> None:
            if error is None and self._over is None:
                queue = topology.reply_queue(route.tenant, route.reply_id)
                self._consumer = self.broker.consume(queue, self._on_reply, on_gap=self._on_gap)
            done(error)

        self.broker.declare(topology.reply_topology(route.tenant, route.reply_id), declared, self._reply_queue_absent)

    def _reply_queue_absent(self) -> None:
        """The node of a cluster that has the reply queue is down: take another queue, and ask again."""

        def declared(error: KaasqError | None) -> None:
            if error is not None:
                log.warning("replies.refused", code=error.code, error=error.message)
                return
            # All of them: what was published since may have been answered before the new queue was there.
            self._resend = self._calls()
            if self._connected:
                self._resend_all()

        log.info("replies.moved", reply_id=self.route.reply_id)
        if self._consumer is not None:
            self._consumer.cancel()
        self.route.renew()
        self._take_replies(declared)

    def _publish(self, call: Call) -> None:
        self.broker.publish(
            call.message(self.route),
            exchange=topology.REQUESTS,
            routing_key=self.route.key,
            mandatory=True,
            done=call.published,
        )

    def _on_unpublished(self, call: Call, error: KaasqError) -> None:
        if not self._is_awaited(call):
            return
        rejected = bool(error.detail.get("rejected"))
        if not (rejected or isinstance(error, BrokerLost)) or self._over is not None:
            self._fail(call, self.route.refused(error, call.id))
            return
        # It may have arrived or not, or there was no room for it. Repeating it is safe: a request runs once per id.
        call.rejected = rejected
        if error.detail.get("unconfirmed"):
            delay_s = UNCONFIRMED_DELAY_S * 2**call.unconfirmed
            call.unconfirmed += 1
            self.broker.call_later(delay_s, partial(self._repeat, call))
            return
        self._resend.append(call)
        if self._connected:
            self.broker.call_later(REJECTED_DELAY_S if rejected else RESEND_DELAY_S, self._resend_all)

    def _on_gap(self) -> None:
        """Replies may have been lost with the connection: ask for them again, once those that the queue kept are here.

        A request that is not confirmed is still the broker's to publish, or is about to be repeated anyway.
        """
        asked = [each for each in self._calls() if each.confirmed]
        if asked:
            self.broker.call_later(RESEND_DELAY_S, partial(self._ask_again, asked))

    def _ask_again(self, calls: list[Call]) -> None:
        """Repeat them: a worker answers from their outcomes, and runs what has none."""
        for call in calls:
            if call.confirmed and self._is_awaited(call):
                call.confirmed = False
                self._resend.append(call)
        if self._connected:
            self._resend_all()

    def _on_reply(self, delivery: Delivery) -> None:
        message = delivery.message
        key = message.correlation_id or ""
        call = self._pending.get(key) or self._chains.get(key)
        if call is not None:  # else a duplicate, or its request was given up
            try:
                reply = codec.decode_reply(message.body, message.content_type)
            except BadRequest as error:
                self._end(call, KaasqError(f"the reply to request {call.id} cannot be read: {error.message}"))
            else:
                self._settle(call, reply)

    def _settle(self, call: Awaited, reply: Reply) -> None:
        if reply.status == "ok":
            if isinstance(call, Call) and call.whole:
                call.taught()
            elapsed = time.monotonic() - call.started
            steps = call.steps if isinstance(call, Call) else NONE
            self._end(call, Result(reply, call.spec, self.buffers, elapsed, steps))
            if call.following:
                self._skip(call, {each.id: each.skipped for each in reply.then})
        elif isinstance(call, Call) and reply.error is not None and reply.error.code == UnknownGraph.code:
            if not call.whole:  # else a second answer to what was sent before the graph was sent whole
                call.make_whole()
                self._publish(call)
        else:
            self._fail(call, failure(reply, self.buffers))

    def _skip(self, call: Awaited, skipped: Mapping[str, str | None]) -> None:
        """Tell those whose condition did not hold, and what was to follow them."""
        for step in call.following:
            why = skipped.get(step.id)
            if why is not None:
                for each in (step, *step.chain()):
                    self._end(each, each.not_reached(why))

    def _fail(self, call: Awaited, error: KaasqError) -> None:
        """It ended without a result, so nothing follows it."""
        self._end(call, error)
        for each in call.chain():
            self._end(each, each.not_reached(f"request {call.id} before it ended with {error.code}: {error}", error))

    def _calls(self) -> list[Call]:
        """The requests to ask for: those without a reply, and those of which something that follows has none.

        What follows a request is asked for by asking for that one: its worker publishes again what follows it.
        """
        return list({each.call.id: each.call for each in list(self._pending.values())}.values())

    def _is_awaited(self, call: Call) -> bool:
        return call.id in self._pending or any(each.id in self._pending for each in call.chain())

    def _end(self, call: Awaited, result: Result | KaasqError) -> None:
        if self.forget(call):
            call.finish(result)

    def _expire(self, now: float) -> float | None:
        """End what is due; the earliest deadline that remains."""
        earliest: float | None = None
        with self._room:
            calls = list(self._pending.values())
        for call in calls:
            if call.given_up_at <= now:
                self._end(call, call.timed_out(self.route, connected=self._connected))
            elif earliest is None or call.given_up_at < earliest:
                earliest = call.given_up_at
        return earliest

    def _has_room(self) -> bool:
        return self._over is not None or len(self._pending) < self.limit

    def _on_state(self, state: State, error: KaasqError | None) -> None:
        match state:
            case State.CONNECTED:
                self._connected = True
                self._resend_all()
                for listener in list(self._listeners):
                    listener.connected()
            case State.LOST:
                with self._told:
                    self._connected = False
                    self._told.notify_all()
                for listener in list(self._listeners):
                    listener.lost()
            case State.FAILED:
                self.stop(error or BrokerLost("the broker connection failed for good"))
            case State.BLOCKED | State.UNBLOCKED:
                pass  # publishes wait in the broker object, and the window bounds them

    def _withdrawn(self, error: KaasqError | None) -> None:
        """Whether the broker took a cancellation; if not, the request may run, and its reply is dropped."""
        with self._told:
            self._telling -= 1
            self._told.notify_all()
        if error is not None:
            log.warning("cancel.not_sent", code=error.code, error=error.message)

    def _repeat(self, call: Call) -> None:
        if not self._connected:
            self._resend.append(call)
        elif self._is_awaited(call):
            self._publish(call)

    def _resend_all(self) -> None:
        calls, self._resend = self._resend, []
        for call in calls:
            if self._is_awaited(call):
                self._publish(call)
