"""RabbitBroker: the Broker protocol over AMQP connections on one I/O thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from functools import partial

from kaasq.broker import Consumer, Done, Inspected, Message, OnDelivery, State
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError
from kaasq.io_thread import IoBroker, invoke
from kaasq.rabbit.connection import Callbacks, Connection
from kaasq.rabbit.consuming import Consumers, Subscription
from kaasq.rabbit.declaring import Declarer
from kaasq.rabbit.direct import DirectLimits, DirectReplies
from kaasq.rabbit.parameters import connection_parameters, quieten_pika
from kaasq.rabbit.publishing import Publish, Publisher, PublishLimits
from kaasq.rabbit.state_log import StateLog
from kaasq.rabbit.wire import WireConnection
from kaasq.topology import Topology

TICK_S = 2.0
EXPIRE_S = 0.25  # how exactly a publish's patience is kept
REFUSED_GRACE_S = 60.0
"""A broker that is starting may know its users late: a refusal after a reconnect counts once it has lasted."""


class Phase(Enum):
    """Where the connection stands."""

    OPENING = "opening"  # not yet connected for the first time
    CONNECTED = "connected"
    LOST = "lost"
    OVER = "over"  # failed or closed


class RabbitBroker(IoBroker):
    """A broker connection that comes back by itself.

    It publishes on one connection and consumes on another: a broker that is short of memory stops reading from those
    who publish, and a worker must still be able to ack. LOST and CONNECTED are about the one that consumes (and
    declares); when only the publishing one is gone, publishing is BLOCKED until it is back. Direct replies have a third
    one once there are some: their addresses, which others wrote, may cost it, and no state tells of it.

    ``publish`` while there is no connection waits for the next one, within ``limits``. Use a broker once: after
    ``close``, or an ``open`` that failed, make a new one.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: PublishLimits = PublishLimits(),  # noqa: B008  # frozen
        direct_limits: DirectLimits = DirectLimits(),  # noqa: B008  # frozen
        max_pause_s: float = 5.0,
        give_up_s: float | None = None,
        connection_name: str = "kaasq",
        impersonates: bool = False,
        busy_poll_s: float = 0.0,
    ) -> None:
        """``max_pause_s`` lies at most between two attempts to reconnect; after ``give_up_s`` of them without success
        the broker is FAILED (None: never). ``impersonates``: messages for other users are published, too, for which
        RabbitMQ wants the tag ``impersonator``; else they are refused here. ``busy_poll_s``: for how long its thread
        looks for messages at most before it sleeps.
        """
        super().__init__("kaasq-rabbit", busy_poll_s)
        quieten_pika()
        parameters, self._where = connection_parameters(url, connection_name=connection_name)
        self.tenant = self._where.user
        self.scope = ""
        self._give_up_s = give_up_s
        self._phase = Phase.OPENING
        self._blocked = False
        self._error: KaasqError | None = None
        self._lost_at: float | None = None
        self._refused_at: float | None = None
        self._opened = threading.Event()
        self._log = StateLog(str(self._where))
        self._closing = False
        self._publishing = Connection(self._io, parameters, self._where, "publish", max_pause_s)
        self._consuming = Connection(self._io, parameters, self._where, "consume", max_pause_s)
        self._publisher = Publisher(self.tenant, limits, on_ready=self._progress, impersonates=impersonates)
        self._replying = Connection(self._io, parameters, self._where, "reply", direct_limits.max_pause_s)
        self._direct = DirectReplies(self._replying, self.tenant, direct_limits, impersonates=impersonates)
        self._declarer = Declarer(self._io, on_ready=self._declared, refused=self._fail)
        self._consumers = Consumers(
            self._io, redeclare=self._declarer.redeclare, refused=self._fail, on_ready=self._progress
        )

    # the protocol; all but open and close from any thread

    def open(self, timeout_s: float) -> None:
        if self._io.started or self._phase is Phase.OVER:
            raise BrokerRefused("this broker was opened before: make a new one")
        self._io.start()
        self._io.post(self._start)
        try:
            in_time = self._opened.wait(timeout_s)
        except BaseException:  # Ctrl-C
            self.close(0)
            raise
        error = self._error
        if in_time and error is None:
            return
        self.close()
        raise error or BrokerLost(
            f"no answer from RabbitMQ at {self._where} within {timeout_s:g} s",
            host=self._where.host,
            port=self._where.port,
        )

    def close(self, timeout_s: float = 5.0) -> None:
        self._io.post(self._close, timeout_s)
        self._io.join(timeout_s + 1)

    def declare(self, topology: Topology, done: Done, on_absent: Callable[[], None] | None = None) -> None:
        self._io.post(self._declarer.declare, topology, done, on_absent)

    def remove(self, topology: Topology, done: Done) -> None:
        self._io.post(self._declarer.remove, topology, done)

    def inspect(self, queue: str, done: Callable[[Inspected | KaasqError], None]) -> None:
        self._io.post(self._declarer.inspect, queue, done)

    def publish(
        self,
        message: Message,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        done: Done | None = None,
        tenant: str | None = None,
    ) -> None:
        item = Publish(message, exchange, routing_key, mandatory, done, self.tenant if tenant is None else tenant)
        publish_it = self._direct.publish if self._direct.takes(item) else self._publisher.publish
        if self._io.inside:
            publish_it(item)
        else:
            self._io.post(publish_it, item)

    def consume(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int = 0, on_gap: Callable[[], None] | None = None
    ) -> Consumer:
        subscription = Subscription(self._consumers, queue, on_delivery, prefetch, on_gap)
        self._io.post(self._consumers.add, subscription)
        return subscription

    # what follows runs on the I/O thread

    def _start(self) -> None:
        failed = self._attempt_failed
        self._publishing.start(
            Callbacks(self._publisher.attach, self._publish_down, partial(failed, "publish"), self._block)
        )
        self._consuming.start(
            Callbacks(self._consume_up, self._consume_down, partial(failed, "consume"), lambda _: None)
        )
        self._direct.start()
        self._tick()
        self._expire()

    def _expire(self) -> None:
        self._publisher.expire()
        self._direct.expire()
        self._io.call_later(EXPIRE_S, self._expire)

    def _tick(self) -> None:
        invoke(self._log.tick)
        self._io.call_later(TICK_S, self._tick)

    def _declared(self, connection: WireConnection) -> None:
        self._consumers.attach(connection)

    def _progress(self) -> None:
        """Something got ready: see whether everything is."""
        if self._phase is Phase.CONNECTED and self._publisher.ready:
            self._lost_at = self._refused_at = None
            self._show_blocked(False)
        elif self._phase in {Phase.OPENING, Phase.LOST} and self._publisher.ready and self._consumers.ready:
            self._phase = Phase.CONNECTED
            self._error = self._lost_at = self._refused_at = None
            self._blocked = False
            self._publisher.allow(True)
            self._tell(State.CONNECTED)
            self._opened.set()

    def _log_state(self, state: State, error: KaasqError | None) -> None:
        self._log.changed(state, error)

    def _attempt_failed(self, role: str, error: KaasqError) -> None:
        self._log.attempt_failed(role, error)
        now = self._io.loop.time()
        if not isinstance(error, BrokerRefused):
            self._refused_at = None
        elif self._refused_at is None:
            self._refused_at = now
        refused = self._refused_at is not None and (
            self._phase is Phase.OPENING or now - self._refused_at > REFUSED_GRACE_S
        )
        lost_s = 0.0 if self._lost_at is None else now - self._lost_at
        if self._phase is Phase.OPENING:
            self._error = error  # for open() to tell, if its time runs out
        if refused or (self._give_up_s is not None and lost_s > self._give_up_s):
            self._fail(error)

    def _consume_up(self, connection: WireConnection) -> None:
        cluster = (connection.server_properties or {}).get("cluster_name") or str(self._where)
        self.scope = f"{cluster} {self._where.vhost}"
        self._declarer.attach(connection)

    def _consume_down(self, error: KaasqError) -> None:
        self._declarer.detach()
        self._consumers.detach()
        self._publisher.allow(False)
        if self._phase is Phase.CONNECTED:
            self._phase = Phase.LOST
            self._lost_at = self._io.loop.time()
            self._tell(State.LOST, error)

    def _publish_down(self, error: KaasqError) -> None:
        self._publisher.detach(error)
        self._lost_at = self._lost_at or self._io.loop.time()
        self._show_blocked(True, error)

    def _block(self, blocked: bool) -> None:
        self._publisher.block(blocked)
        self._show_blocked(blocked)

    def _show_blocked(self, blocked: bool, error: KaasqError | None = None) -> None:
        if self._phase is Phase.CONNECTED and blocked is not self._blocked:
            self._blocked = blocked
            self._tell(State.BLOCKED if blocked else State.UNBLOCKED, error)

    def _fail(self, error: KaasqError) -> None:
        """What waiting does not mend."""
        if self._phase is Phase.OVER:
            return
        opening = self._phase is Phase.OPENING
        self._end(error, on_closed=lambda: None)
        if opening:
            self._error = error  # open() raises it
            self._opened.set()
        else:
            self._tell(State.FAILED, error)

    def _close(self, timeout_s: float) -> None:
        if self._closing:
            return
        self._closing = True
        if self._io.inside:
            self._io.call_later(timeout_s, self._abort)
        self._end(BrokerLost("the broker connection was closed", closed=True), on_closed=self._stop)

    def _stop(self) -> None:
        if self._io.inside:  # else it never started
            self._io.stop()

    def _abort(self) -> None:
        self._publishing.drop()
        self._consuming.drop()
        self._replying.drop()
        self._io.stop()

    def _end(self, error: KaasqError, on_closed: Callable[[], None]) -> None:
        self._phase = Phase.OVER
        self._log.end()
        open_ones = {self._publishing, self._consuming, self._replying}

        def closed(connection: Connection) -> Callable[[], None]:
            def one_less() -> None:
                open_ones.discard(connection)
                if not open_ones:
                    on_closed()

            return one_less

        self._publisher.finish(error)
        self._direct.finish(error)
        self._declarer.finish(error)
        self._consumers.flush()
        self._consumers.detach()
        for each in tuple(open_ones):
            each.close(closed(each))
