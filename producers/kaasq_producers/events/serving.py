"""Runs a service's handlers in a loop: takes events, calls, retries, acks once what they published is confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from kaasq.broker import Delivery
from kaasq.dead_letter import bury
from kaasq.errors import KaasqError
from kaasq.events import EventMessage
from kaasq.log import get_logger
from kaasq.settings import Settings
from kaasq.topology import dead_event_key, register
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.event import heard
from kaasq_producers.events.retrying import pause_after
from kaasq_producers.events.service import Handler, Service
from kaasq_producers.events.step import AsyncStep, Step
from kaasq_producers.events.subscription import Subscription, Wanted
from kaasq_producers.loop_inbox import LoopInbox
from kaasq_producers.prepare import Preparer
from kaasq_producers.side_threads import SideThreads

DRAIN_TIMEOUT_S = 30.0
HANDLER_FAILED = "handler_failed"
"""The code of an event's dead letter."""

log = get_logger()


class Serving:
    """A service that runs, in one event loop. Its methods are called there."""

    def __init__(
        self,
        service: Service,
        core: ClientCore,
        preparer: Preparer,
        settings: Settings,
        inbox: LoopInbox,
        threads: SideThreads,
    ) -> None:
        self.inbox = inbox
        self.core = core
        self.over: asyncio.Future[None] = inbox.loop.create_future()
        """Ends with the error that ended the service, if one does."""
        self._pool = ThreadPoolExecutor(
            service.concurrency * max(1, sum(not each.is_async for each in service)), thread_name_prefix="kaasq-step"
        )
        self._parts = [_Part(self, service, each, preparer, settings, self._pool, threads) for each in service]
        self._stopped: asyncio.Future[bool] | None = None

    async def start(self) -> None:
        """Subscribe all. Raises BrokerRefused, BadRequest; nothing is left behind then."""
        try:
            for each in self._parts:
                await each.start()
        except BaseException:
            await self.stop(0.0)
            raise

    async def stop(self, timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
        """Take no more events, and wait for the handlers that run. Whether all ended in time; idempotent.

        Events of the others go back to their queues: tasks are cancelled, threads go on without effect on them.
        """
        if self._stopped is None:
            self._stopped = asyncio.ensure_future(self._stop(timeout_s))
        return await asyncio.shield(self._stopped)

    async def _stop(self, timeout_s: float) -> bool:
        released = [each.release() for each in self._parts]
        if not self.over.done():  # else there is no connection over which anything could go back
            await asyncio.wait(released)
        tasks = [run.task for each in self._parts for run in each.running.values() if run.task is not None]
        pending = set(tasks)
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not pending

    def fail(self, error: KaasqError) -> None:
        """The connection ended for good."""
        if not self.over.done():
            self.over.set_exception(error)
            self.over.exception()  # somebody may look at it, nobody has to


class _Run:
    """A handler at work on one event. ``deliveries``: the event may come again meanwhile, after a lost connection."""

    def __init__(self, event: EventMessage, delivery: Delivery) -> None:
        self.event = event
        self.deliveries = [delivery]
        self.task: asyncio.Task[None] | None = None


class _Part:
    """One handler with its subscription."""

    def __init__(
        self,
        serving: Serving,
        service: Service,
        handler: Handler,
        preparer: Preparer,
        settings: Settings,
        pool: ThreadPoolExecutor,
        threads: SideThreads,
    ) -> None:
        self._serving = serving
        self._service = service
        self._handler = handler
        self._name = service.subscription(handler)
        self._preparer = preparer
        self._pool = pool
        self._threads = threads
        self.running: dict[str, _Run] = {}
        self._late: list[Delivery] | None = None
        self._released: asyncio.Future[None] = serving.inbox.loop.create_future()
        core, post = serving.core, serving.inbox.post
        self.subscription = Subscription(
            core,
            Wanted(handler.patterns, core.route.tenant, self._name, service.concurrency),
            settings,
            on_event=partial(post, self._take),
            on_lost=lambda: None,  # what runs goes on: its requests have their ids, whoever repeats them
            on_over=partial(post, serving.fail),
        )

    async def start(self) -> None:
        started: asyncio.Future[KaasqError | None] = self._serving.inbox.loop.create_future()
        self.subscription.start(partial(self._serving.inbox.post, _set, started))
        error = await started
        if error is not None:
            raise error
        log.info("handler.started", subscription=self._name, patterns=self._handler.patterns)

    def release(self) -> asyncio.Future[None]:
        """Begin no more handlers. Done once what had come but was not begun has gone back."""
        self._late = []
        self.subscription.stop(partial(self._serving.inbox.post, self._give_back))
        return self._released

    def _give_back(self) -> None:
        late, self._late = self._late or [], []
        for delivery in late:
            delivery.requeue()
        if not self._released.done():
            self._released.set_result(None)

    def _take(self, event: EventMessage, delivery: Delivery) -> None:
        if self._released.done():
            delivery.requeue()
            return
        if self._late is not None:  # not before the subscription is cancelled, or it would come here again
            self._late.append(delivery)
            return
        run = self.running.get(event.id)
        if run is not None:
            run.deliveries.append(delivery)
            return
        run = self.running[event.id] = _Run(event, delivery)
        run.task = asyncio.ensure_future(self._handle(run))

    async def _handle(self, run: _Run) -> None:
        settle: Callable[[Delivery], None] = _requeue
        try:
            settle = await self._attempts(run)
        finally:
            del self.running[run.event.id]
            for delivery in run.deliveries:
                settle(delivery)

    async def _attempts(self, run: _Run) -> Callable[[Delivery], None]:
        """Call the handler until it succeeds or there is no attempt left; how to settle the event then."""
        failures = 0
        while True:
            error = await self._attempt(run.event)
            if error is None:
                return _ack
            failures += 1
            pause_s = pause_after(failures, self._handler.retries or self._service.retries)
            log.warning(
                "handler.failed",
                subscription=self._name,
                event_id=run.event.id,
                error=_told(error),
                failures=failures,
                again_in_s=pause_s,
                exc_info=None if isinstance(error, KaasqError) else error,
            )
            if pause_s is None:
                return await self._bury(run, error, failures)
            await asyncio.sleep(pause_s)

    async def _attempt(self, message: EventMessage) -> Exception | None:
        core, handler = self._serving.core, self._handler
        event = heard(message, core.buffers, sealed=handler.is_async, settle=None)
        step: Step | AsyncStep
        try:
            if handler.is_async:
                step = AsyncStep(
                    event, self._name, self._service.timeout_s, core, self._preparer, self._serving.inbox, self._threads
                )
                await handler.function(event, step)
            else:
                step = Step(event, self._name, self._service.timeout_s, core, self._preparer)
                await self._serving.inbox.loop.run_in_executor(self._pool, handler.function, event, step)
            await step.confirmed()
        except SystemExit as error:  # would end the loop, and with it all handlers
            return RuntimeError(f"it called sys.exit({error.code!r})")
        except Exception as error:  # noqa: BLE001  # whatever a user's function raises
            return error
        return None

    async def _bury(self, run: _Run, error: Exception, failures: int) -> Callable[[Delivery], None]:
        """The event as a dead letter, with the reason; the broker makes one itself if it does not take ours."""
        reason = f"handler {self._name!r} failed {failures} times, at last with {_told(error)}"
        code = error.code if isinstance(error, KaasqError) else HANDLER_FAILED
        letter, _, _ = bury(run.deliveries[-1], run.event.tenant, code, reason)
        buried: asyncio.Future[KaasqError | None] = self._serving.inbox.loop.create_future()
        self._serving.core.broker.publish(
            letter,
            exchange=register(run.event.tenant),
            routing_key=dead_event_key(self._name),
            mandatory=True,
            done=partial(self._serving.inbox.post, _set, buried),
        )
        refused = await buried
        log.error(
            "event.dead",
            subscription=self._name,
            event_id=run.event.id,
            error=_told(error),
            refused=None if refused is None else refused.message,
        )
        return _ack if refused is None else _reject


def _told(error: Exception) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, KaasqError) else f"{type(error).__name__}: {error}"


def _set(future: asyncio.Future[KaasqError | None], error: KaasqError | None) -> None:
    if not future.done():
        future.set_result(error)


def _ack(delivery: Delivery) -> None:
    delivery.ack()


def _requeue(delivery: Delivery) -> None:
    delivery.requeue()


def _reject(delivery: Delivery) -> None:
    delivery.reject()
