"""How a thread waits for what the core calls back with: at once (run), or through a future (submit)."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from kaasq.errors import BrokerLost, KaasqError
from kaasq_producers.calls import Awaited
from kaasq_producers.client_core import ClientCore
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.insisting import insist
from kaasq_producers.result import Result
from kaasq_producers.steps import NONE, Steps
from kaasq_producers.then import Then, named

T = TypeVar("T")


class Waiter(Generic[T]):
    """One value from another thread. A Future costs several times as much, and run() needs nothing of it."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._value: T | KaasqError | None = None

    def set(self, value: T | KaasqError) -> None:
        """Give the value, once."""
        self._value = value
        self._lock.release()

    def wait(self, timeout_s: float = -1) -> T:
        """The value; raised if it is an error. Raises BrokerLost after the timeout, if one is given."""
        if not self._lock.acquire(timeout=timeout_s):
            raise BrokerLost(f"the broker did not answer within {timeout_s:g} s")
        value = self._value
        if isinstance(value, KaasqError):
            raise value
        assert value is not None
        return value


def or_abandon(act: Callable[[], T], abandon: Callable[[], None]) -> T:
    """What ``act`` gives, or raises. Where it is interrupted, by Ctrl-C among others, ``abandon`` comes first.

    Once or twice: Ctrl-C may come again in a moment, and raises in the middle of anything.
    """
    try:
        try:
            return act()
        except KaasqError:
            raise
        except BaseException:
            insist(abandon)
            raise
    except KaasqError:
        raise
    except BaseException:  # a second one, perhaps, before the first one's abandoning was done
        insist(abandon)
        raise


class ResultFuture(concurrent.futures.Future[Result]):
    """A future whose cancelling cancels the request: it does not run, or not any further, and nothing follows it."""

    def __init__(self) -> None:
        super().__init__()
        self._core: ClientCore | None = None
        self._call: Awaited | None = None
        self.then: Steps[ResultFuture] = NONE
        """What follows: the futures of its continuations, by name or place. Those have none."""

    def attach(self, core: ClientCore, call: Awaited) -> None:
        """The request that it stands for."""
        self._core, self._call = core, call
        for future, each in zip(self.then, call.chain(), strict=False):
            future.attach(core, each)

    @property
    def request_id(self) -> str | None:
        """The request's id."""
        return self._call.id if self._call else None

    def settle(self, result: Result | KaasqError) -> None:
        """The core's callback."""
        try:
            if isinstance(result, KaasqError):
                self.set_exception(result)
            else:
                self.set_result(result)
        except concurrent.futures.InvalidStateError:
            self.set_running_or_notify_cancel()  # cancelled a moment ago: tell those who wait for that

    def cancel(self) -> bool:
        """Cancel the request. False if the result is there already."""
        if not super().cancel():
            return False
        if self._core is not None and self._call is not None and self._core.cancel(self._call):
            self.set_running_or_notify_cancel()  # or else concurrent.futures.wait() would go on waiting
        return True


class FlowFuture(ResultFuture):
    """A workflow's: what it gives is a FlowResult."""

    if TYPE_CHECKING:

        def result(self, timeout: float | None = None) -> FlowResult:
            """As a future's; the same one as a request's, but for the type."""


def futures_of(then: Sequence[Then]) -> Steps[ResultFuture]:
    """A future for each continuation."""
    names = named(then)
    return Steps([ResultFuture() for _ in names], names) if names else NONE
