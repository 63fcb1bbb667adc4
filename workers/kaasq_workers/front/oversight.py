"""What of an executor takes too long: itself, if it is stuck, or a request past its deadline, or cancelled."""

from __future__ import annotations

import time

from kaasq.log import get_logger
from kaasq_workers.front.backlog import Backlog
from kaasq_workers.front.handles import Handle
from kaasq_workers.front.silence import StartPatience, Vigil
from kaasq_workers.front.stopping import Stopped, to_stop

CANCEL_GRACE_S = 1.0  # for a withdrawn request to end between two launches, before its executor is killed

log = get_logger()


class Oversight:
    """Of a supervisor's executors, one after the other."""

    def __init__(self, start: StartPatience, *, timeout_s: float) -> None:
        """``start``: that of all executors of the front."""
        self._start = start
        self._timeout_s = timeout_s
        self._withdrawn: dict[int, float] = {}  # tags of requests with the executor, and when they are to be killed
        self._stuck: str | None = None  # why it was killed, though no request was to be stopped
        self._stopped: Stopped | None = None  # the request for whose sake it was killed
        self.begin()

    def begin(self) -> None:
        """An executor has been started."""
        self._vigil = Vigil(start_timeout_s=self._start.seconds, timeout_s=self._timeout_s)

    def ready(self, took_s: float) -> None:
        """It was ready after so long."""
        self._start.ready(took_s)

    def withdraw(self, tag: int) -> None:
        """A request that it has is not to go on; for a moment it may end by itself."""
        self._withdrawn[tag] = time.monotonic() + CANCEL_GRACE_S

    def goes_on(self, tag: int, onward: int) -> None:
        """In the place of a request runs what follows it, which sees that it is withdrawn, too."""
        if tag in self._withdrawn:
            self._withdrawn[onward] = self._withdrawn[tag]

    def forget(self, tag: int) -> None:
        """A request has ended."""
        self._withdrawn.pop(tag, None)

    def look(self, handle: Handle, backlog: Backlog, *, up: bool) -> None:
        """Kill it if something takes too long. A kernel cannot be stopped in any other way."""
        if not handle.killable or self._stopped is not None or self._stuck is not None:
            return
        vitals, now_s = handle.link.vitals, time.monotonic()
        running = vitals.running
        known = any(tag in backlog.jobs for tag in running)  # of what goes on, its deadline only counts from then on
        self._stuck = self._vigil.look(up=up, turns=vitals.turns, pulse=vitals.pulse, running=known, now_s=now_s)
        if self._stuck is not None:
            if not up:
                self._start.late()
            log.error("executor.stuck", why=self._stuck, in_flight=len(backlog.sent), running=len(running))
            handle.kill()
            return
        self._stopped = to_stop(backlog.jobs, running, self._withdrawn, time.time() * 1000, now_s)
        if self._stopped is not None:
            event = "request.overdue" if self._stopped.status == "expired" else "request.stopped"
            log.warning(event, request=self._stopped.job.id, tenant=self._stopped.job.tenant)
            handle.kill()

    def ended(self) -> tuple[Stopped | None, str | None]:
        """It has ended: for which request's sake it was killed, or why it was, if it was."""
        self._withdrawn.clear()  # the next executor finds their outcomes
        why = self._stopped, self._stuck
        self._stopped = self._stuck = None
        return why
