"""How requests end for a client: with the result in a reply, or with an error; and what becomes of what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kaasq import codec
from kaasq.broker import Delivery
from kaasq.errors import BadRequest, KaasqError
from kaasq.messages import Reply
from kaasq_producers.buffers import Buffers
from kaasq_producers.calls import Awaited, Call
from kaasq_producers.pending import Pending
from kaasq_producers.result import Result


class Endings:
    """Of those that are pending; each is called back once. ``publish``: publishes a request again, whole this time."""

    def __init__(self, pending: Pending, buffers: Buffers | None, publish: Callable[[Call], None]) -> None:
        self._pending = pending
        self._buffers = buffers
        self._publish = publish

    def end(self, call: Awaited, result: Result | KaasqError) -> None:
        """Call back, unless it has ended before."""
        if self._pending.forget(call):
            call.finish(result)

    def fail(self, call: Awaited, error: KaasqError) -> None:
        """It ended without a result, so nothing follows it."""
        self.end(call, error)
        for each in call.chain():
            self.end(each, each.not_reached(f"request {call.id} before it ended with {error.code}: {error}", error))

    def replied(self, delivery: Delivery) -> None:
        """A reply has come."""
        message = delivery.message
        call = self._pending.find(message.correlation_id or "")
        if call is not None:  # else a duplicate, or its request was given up
            try:
                reply = codec.decode_reply(message.body, message.content_type)
            except BadRequest as error:
                self.end(call, KaasqError(f"the reply to {call.what} cannot be read: {error.message}"))
            else:
                self._settle(call, reply)

    def _settle(self, call: Awaited, reply: Reply) -> None:
        if reply.status == "ok":
            self.end(call, call.result(reply, self._buffers))
            if call.following:
                self._skip(call, {each.id: each.skipped for each in reply.then})
        elif isinstance(call, Call) and call.forgotten(reply):
            pass
        elif isinstance(call, Call) and call.wants_whole(reply):
            if call.make_whole():
                self._publish(call)
        else:
            self.fail(call, call.failure(reply, self._buffers))

    def _skip(self, call: Awaited, skipped: Mapping[str, str | None]) -> None:
        """Tell those whose condition did not hold, and what was to follow them."""
        for step in call.following:
            why = skipped.get(step.id)
            if why is not None:
                for each in (step, *step.chain()):
                    self.end(each, each.not_reached(why))
