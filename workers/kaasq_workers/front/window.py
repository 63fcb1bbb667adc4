"""Publishes many messages a few at a time: what others have to say goes out between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from kaasq.log import get_logger

UNDER_WAY = 256  # of one window, unconfirmed

log = get_logger()

T = TypeVar("T")


class Window(Generic[T]):
    """``send`` has each sent, in order; ``settled`` is to be called for each then. ``over`` is called after the last.

    What there is to send is made when its turn comes. If one cannot be made or sent, that is logged and none is sent
    after it; ``over`` is told so.
    """

    def __init__(self, messages: Iterable[T], send: Callable[[T], None], over: Callable[[bool], None]) -> None:
        """``over``: given whether nothing broke."""
        self._messages = iter(messages)
        self._send = send
        self._over = over
        self._under_way = 0
        self._filling = self._all_sent = self._broken = False

    def fill(self) -> None:
        """Send as many as may be under way."""
        if self._filling:  # one was settled while it was sent
            return
        self._filling = True
        try:
            while self._under_way < UNDER_WAY and not self._all_sent:
                message = next(self._messages, None)
                if message is None:
                    self._all_sent = True
                else:
                    self.send(message)
        except Exception:
            log.exception("answer.broke")
            self._all_sent = self._broken = True
        finally:
            self._filling = False
        if not self._under_way:
            self._over(not self._broken)

    def send(self, message: T) -> None:
        """One more, before its turn."""
        self._under_way += 1
        try:
            self._send(message)
        except BaseException:
            self._under_way -= 1
            raise

    def stop(self) -> None:
        """Send none after those that are under way."""
        self._all_sent = True

    def settled(self) -> None:
        """One of them has ended, well or not."""
        self._under_way -= 1
        if not (self._under_way and self._all_sent):
            self.fill()
