"""Has executors started for tenants who have none, while a workflow of theirs stands still.

Each executor looks after its own tenant's workflows. Who has no executor gets one for a request, so it is asked, in the
tenant's name, how that workflow stands: whichever worker takes the question has the tenant's executor started.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping

from kaasq import codec
from kaasq.broker import Broker
from kaasq.flows.model import Asked, FlowCall
from kaasq.ids import new_id
from kaasq.log import get_logger
from kaasq_workers.front.answers import Answers
from kaasq_workers.link import Driven, Following

FIRST_S = 1.0  # after the worker's start
LEAST_S = 5.0  # between two looks, which take a process each
SPREAD = 0.25  # of the time between two looks: workers of a pool do not look all at once
MOST_AT_ONCE = 16  # tenants

log = get_logger()

Find = Callable[[], Mapping[str, str]]
"""By tenants, a workflow of theirs that stands still. Called on a thread; may raise anything."""


class Overlooked:
    """Looks again and again, each ``patience_s``, until the loop ends. ``served``: who has an executor here."""

    def __init__(
        self,
        broker: Broker,
        answers: Answers,
        served: Callable[[], Collection[str]],
        find: Find,
        *,
        pool: str,
        patience_s: float,
    ) -> None:
        self._broker = broker
        self._answers = answers
        self._served = served
        self._find = find
        self._pool = pool
        self._patience_s = patience_s

    def start(self) -> None:
        """On the I/O thread."""
        self._broker.call_later(FIRST_S, self._look)

    def _look(self) -> None:
        threading.Thread(target=self._run, name="kaasq-overlooked", daemon=True).start()

    def _run(self) -> None:
        """On a thread of its own: it waits for a process."""
        found: Mapping[str, str] = {}
        try:
            found = self._find()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next look is as good
            log.warning("workflows.not_looked_for", error=str(error))
        self._broker.call_soon(lambda: self._ask(found))

    def _ask(self, found: Mapping[str, str]) -> None:
        pause_s = max(LEAST_S, self._patience_s) * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - no secret
        self._broker.call_later(pause_s, self._look)
        served = self._served()
        for tenant, flow in [(name, found[name]) for name in found if name not in served][:MOST_AT_ONCE]:
            body = codec.encode(FlowCall(flow=Asked(id=flow, do="status")))
            log.info("workflow.overlooked", workflow=flow, tenant=tenant)
            self._answers.drive(Driven(tenant, [Following(new_id(), self._pool, body, quiet=True)]))
