"""A whole program that serves: until it is told to stop, which drains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable

from kaasq.interrupts import asking_to_stop
from kaasq.log import get_logger
from kaasq_producers.client import Client
from kaasq_producers.events.service import Handler, Service, service_of
from kaasq_producers.events.serving import DRAIN_TIMEOUT_S

WATCH_S = 0.5

log = get_logger()


def serve(
    service: Service | Handler | Iterable[Handler], *, client: Client | None = None, drain: float = DRAIN_TIMEOUT_S
) -> bool:
    """Run a service's handlers until SIGTERM, SIGHUP or Ctrl-C, on the main thread; whether all that ran then ended.

    They have ``drain`` seconds for that; events of those that take longer are delivered again, and a second signal ends
    it at once. Without a ``client`` one is made from environment and ``kaasq.toml``, and closed at the end. Raises
    BadRequest, BrokerLost, BrokerRefused.
    """
    served = service_of(service)
    stop = threading.Event()
    serving = False

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set() or not serving:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in asking_to_stop()}
    mine = Client() if client is None else client
    try:
        with mine.serve(served, drain=drain) as running:
            log.info("service.started", service=served.name, handlers=[each.name for each in served])
            serving = True
            while not stop.wait(WATCH_S):
                running.wait(0)
            log.info("service.draining", at_most_s=drain, hint="stop again to stop at once")
            drained = running.stop()
            log.info("service.stopped", drained=drained)
            return drained
    finally:
        if client is None:
            mine.close()
        for number, handler in before.items():
            signal.signal(number, handler)
