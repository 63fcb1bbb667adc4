"""Direct replies: over a connection of their own, and what may cost it is sent alone.

RabbitMQ (3.10; 4.3 does not) ends the connection of whoever publishes to a direct reply-to address that is malformed,
or that names a node which is not there, and tenants write these addresses. So nothing else uses this connection, and a
reply to a client's channel that none has reached yet goes out when nothing else is on its way. If the connection ends
over it, it is known which one it was, and the others are sent on the next connection.

Who writes such addresses is told by ``Publish.tenant``: it costs that tenant its own replies.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial

import msgspec

from kaasq.errors import BrokerLost, KaasqError
from kaasq.rabbit.connection import Callbacks, Connection
from kaasq.rabbit.publishing import Publish, Publisher, PublishLimits, tell
from kaasq.rabbit.suspects import Suspects
from kaasq.rabbit.wire import WireConnection
from kaasq.topology import DIRECT_REPLY_TO

INTERNAL_ERROR = 541
PROVEN = 4096  # channels remembered as reached
SHARES = 8  # one of so many parts of what may wait is for a tenant whose address cost the connection


class DirectLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What may wait for the connection of direct replies, or be on its way: the requests behind it are not settled yet.

    ``suspects``: how many replies to channels that none has reached may wait of one tenant, for ``alert_s`` after an
    address of its has cost the connection; of its others an eighth of what may wait. No more of what a worker may hold
    can be taken up by who forges.
    """

    unconfirmed: int = 256
    waiting: int = 1000
    waiting_bytes: int = 64 * 1024 * 1024
    wait_s: float = 5.0
    max_pause_s: float = 0.5
    suspects: int = 8
    alert_s: float = 60.0


class _Reply:
    """A direct reply until it has been told how it ended."""

    __slots__ = ("channel", "item", "since", "size", "tenant")

    def __init__(self, item: Publish) -> None:
        self.item = item
        self.channel = item.routing_key.rpartition(".")[0]  # what follows is the key of one consumer on it
        self.tenant = item.tenant
        self.size = len(item.message.body)
        self.since = time.monotonic()


class DirectReplies:
    """Publishes them on a connection opened for the first one, and again while some wait. Lives on the I/O thread."""

    def __init__(self, connection: Connection, tenant: str, limits: DirectLimits, *, impersonates: bool) -> None:
        self._connection = connection
        self._limits = limits
        self._publisher = Publisher(
            tenant,
            PublishLimits(unconfirmed=limits.unconfirmed, confirm_timeout_s=limits.wait_s),
            on_ready=self._pump,
            impersonates=impersonates,
        )
        self._publisher.allow(True)
        self._may_connect = self._connecting = self._blocked = False
        self._over: KaasqError | None = None
        self._why = ""  # there is no connection
        self._proven: dict[str, None] = {}  # channels that were reached, the latest last
        self._waiting: deque[_Reply] = deque()  # to proven ones
        share = limits.waiting_bytes // SHARES
        self._suspects = Suspects[_Reply](limits.suspects, share, limits.alert_s, time.monotonic)  # to others
        self._sent: dict[_Reply, None] = {}
        self._proving = False  # what is sent is a suspect, alone
        self._doubtful = False  # it was, and was not confirmed in time: nothing is sent behind it
        self._suspects_turn = self._pumping = False
        self._bytes = 0

    @staticmethod
    def takes(item: Publish) -> bool:
        """Whether it is one of those that may cost the connection."""
        return not item.exchange and item.routing_key.startswith(DIRECT_REPLY_TO)

    def start(self) -> None:
        """From now on there may be a connection."""
        self._may_connect = True
        self._connect()

    def publish(self, item: Publish) -> None:
        """Send it once it is its turn; bounded in number, bytes and time."""
        reply = _Reply(item)
        refusal = self._over or self._no_room(reply)
        if refusal is not None:
            tell(item, refusal)
            return
        self._bytes += reply.size
        self._queue(reply)
        self._connect()
        self._pump()

    def expire(self) -> None:
        """Give up on what has waited too long."""
        self._publisher.expire()
        if self._doubtful:
            self._connection.drop()  # what is given up may cost it yet, and another one would be blamed
        if self._blocked:
            return
        before = time.monotonic() - self._limits.wait_s
        late = [each for each in self._waiting if each.since < before]
        if late:
            self._waiting = deque(each for each in self._waiting if each.since >= before)
        late += self._suspects.remove(lambda each: each.since < before)
        for each in late:
            told = f"the direct reply could not be sent within {self._limits.wait_s:g} s{self._why}"
            self._end(each, self._lost(each, told))
        self._pump()

    def finish(self, error: KaasqError) -> None:
        """Nothing is published any more."""
        self._over = error
        left = [*self._sent, *self._waiting, *self._suspects.remove(lambda _: True)]
        self._sent.clear()
        self._waiting.clear()
        self._publisher.finish(error)
        for each in left:
            self._end(each, error)

    # the connection's news

    def _connect(self) -> None:
        if not self._may_connect or not self._wanted():
            return
        if not self._connecting:
            self._connecting = True
            self._connection.start(Callbacks(self._up, self._down, self._failed, self._block, self._wanted))
        else:
            self._connection.wake()

    def _wanted(self) -> bool:
        return bool(self._waiting or self._suspects)

    def _up(self, connection: WireConnection) -> None:
        self._blocked = self._doubtful = False
        self._why = ""
        self._publisher.attach(connection)

    def _failed(self, error: KaasqError) -> None:
        self._why = f": {error.message}"

    def _block(self, blocked: bool) -> None:
        self._blocked = blocked
        now = time.monotonic()
        for each in (*self._waiting, *self._suspects):  # what could not be sent meanwhile has not waited
            each.since = now
        self._publisher.block(blocked)
        self._pump()

    def _down(self, error: KaasqError) -> None:
        sent, self._sent = list(self._sent), {}
        proving, self._proving = self._proving, False
        self._blocked = self._doubtful = False
        self._publisher.detach(error)
        if proving and error.detail.get("reply_code") == INTERNAL_ERROR:
            self._blame(sent[0], error)
            return
        for each in reversed(sent):  # one of them may have cost it, or none
            self._proven.pop(each.channel, None)
            self._suspects.add_first(each)

    def _blame(self, reply: _Reply, error: KaasqError) -> None:
        """Its address cost the connection, and so would the others of that channel."""
        bad, many = self._suspects.blame(reply)
        for each in (reply, *bad):
            self._end(each, error)
        for each in many:
            self._end(each, self._crowded())

    # sending

    def _no_room(self, reply: _Reply) -> KaasqError | None:
        limits = self._limits
        waiting = len(self._waiting) + len(self._suspects)
        if waiting >= limits.waiting or self._bytes + reply.size > limits.waiting_bytes:
            return self._lost(reply, f"{waiting} direct replies ({self._bytes} bytes) wait already{self._why}")
        if not self._suspects.alerted(reply.tenant):
            return None
        if reply.channel not in self._proven:
            return self._crowded() if self._suspects.crowded(reply.tenant, reply.size) else None
        theirs = [each.size for each in self._waiting if each.tenant == reply.tenant]
        if len(theirs) >= limits.waiting // SHARES or sum(theirs) + reply.size > limits.waiting_bytes // SHARES:
            return self._crowded()
        return None

    def _lost(self, reply: _Reply, why: str) -> BrokerLost:
        """It was not sent, and may be published again: while there is a connection, and not for one who forges.

        Repeats take up what a worker may hold.
        """
        return BrokerLost(why, unconfirmed=not self._why and not self._suspects.alerted(reply.tenant))

    def _crowded(self) -> BrokerLost:
        return BrokerLost(
            "a direct reply-to address of this tenant's that is none cost the connection a moment ago, and as many of "
            "its replies as may then wait already"
        )

    def _queue(self, reply: _Reply) -> None:
        if reply.channel in self._proven:
            self._waiting.append(reply)
        else:
            self._suspects.add(reply)

    def _pump(self) -> None:
        if self._pumping:
            return  # called back from what it sends
        self._pumping = True
        try:
            while (reply := self._next()) is not None:
                self._send(reply)
        finally:
            self._pumping = False
        if self._sent and not self._proving:
            self._suspects_turn = True

    def _next(self) -> _Reply | None:
        """What may be sent now. Suspects and the others take turns: neither is to wait for the other for long."""
        if not self._publisher.ready or self._blocked or self._proving or self._doubtful:
            return None
        if self._suspects and not self._sent and (self._suspects_turn or not self._waiting):
            self._suspects_turn = False
            self._proving = True
            return self._suspects.next()
        if self._suspects and self._suspects_turn:
            return None  # what was sent ends first
        return self._waiting.popleft() if self._waiting and len(self._sent) < self._limits.unconfirmed else None

    def _send(self, reply: _Reply) -> None:
        item = reply.item
        self._sent[reply] = None
        self._publisher.publish(
            Publish(item.message, item.exchange, item.routing_key, item.mandatory, partial(self._told, reply))
        )

    def _told(self, reply: _Reply, error: KaasqError | None) -> None:
        if reply not in self._sent:
            return  # it went with the connection
        del self._sent[reply]
        proving, self._proving = self._proving, False
        if isinstance(error, BrokerLost) and not proving:
            self._suspects.add(reply)  # with the channel, over another one perhaps
        elif isinstance(error, BrokerLost) and error.detail.get("unconfirmed"):
            self._doubtful = True
            self._end(reply, self._lost(reply, error.message))
        else:
            if error is None:
                self._prove(reply.channel)
            self._end(reply, error)
        self._pump()

    def _prove(self, channel: str) -> None:
        known = channel in self._proven
        self._proven.pop(channel, None)
        self._proven[channel] = None
        if len(self._proven) > PROVEN:
            del self._proven[next(iter(self._proven))]
        if not known:
            self._waiting.extend(self._suspects.remove(lambda each: each.channel == channel))

    def _end(self, reply: _Reply, error: KaasqError | None) -> None:
        self._bytes -= reply.size
        tell(reply.item, error)
