"""The faults: what is done to a running rig, and how it is undone."""

from __future__ import annotations

import contextlib
import random
import signal
from typing import Protocol

from kaasq_bench.rabbitmq.api import ManagementError
from kaasq_bench.rabbitmq.installation import NodeError
from kaasq_faults.members import Member, descendants, executors, send, wait_until
from kaasq_faults.rig import HEARTBEAT_S, Rig

LONG_S = 3.0 * HEARTBEAT_S  # two missed heartbeats, and some
DELAY_S = 0.2
LISTED_S = 8.0  # the broker lists new connections some seconds late


class Fault(Protocol):
    """One kind of fault. ``hold_s``: how long it lasts before it is healed."""

    name: str
    hold_s: float

    def inject(self, rig: Rig, draw: random.Random, /) -> bool:
        """Do it; ``draw`` chooses among equal victims. False if there was nobody to do it to."""

    def heal(self, rig: Rig, /) -> None:
        """Undo what does not end by itself."""


class _Momentary:
    """Over as soon as it is done."""

    hold_s = 0.0

    def heal(self, _rig: Rig, /) -> None:
        """Whoever was killed is started again by who looks after it."""


class KillExecutor(_Momentary):
    """kill -9 of an executor."""

    name = "kill executor"

    def inject(self, rig: Rig, draw: random.Random, /) -> bool:
        found = sorted(pid for worker in rig.workers if worker.pid for pid in executors(worker.pid))
        return bool(found) and send(draw.choice(found), signal.SIGKILL)


class KillFront(_Momentary):
    """kill -9 of a front."""

    name = "kill front"

    def inject(self, rig: Rig, draw: random.Random, /) -> bool:
        return draw.choice(rig.workers).kill()


class KillClient(_Momentary):
    """kill -9 of a client."""

    name = "kill client"

    def inject(self, rig: Rig, draw: random.Random, /) -> bool:
        return draw.choice(rig.clients).kill()


class KillBroker(_Momentary):
    """kill -9 of the broker, which then starts again with its data."""

    name = "kill broker"

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        rig.node.kill()
        return True

    def heal(self, rig: Rig, /) -> None:
        rig.node.start()


class StopWorker:
    """SIGSTOP of a worker and its executors, for longer than the broker waits for a heartbeat."""

    name = "stop worker"
    hold_s = LONG_S

    def __init__(self) -> None:
        self._stopped: list[int] = []

    def inject(self, rig: Rig, draw: random.Random, /) -> bool:
        self._stopped = _stop(draw.choice(rig.workers))
        return bool(self._stopped)

    def heal(self, _rig: Rig, /) -> None:
        for pid in self._stopped:
            send(pid, signal.SIGCONT)


class StopBroker:
    """SIGSTOP of the broker, for longer than anybody waits for a heartbeat."""

    name = "stop broker"
    hold_s = LONG_S

    def __init__(self) -> None:
        self._stopped: list[int] = []

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        self._stopped = rig.node.pids()
        for pid in self._stopped:
            send(pid, signal.SIGSTOP)
        return bool(self._stopped)

    def heal(self, _rig: Rig, /) -> None:
        for pid in self._stopped:
            send(pid, signal.SIGCONT)


class CloseConnections(_Momentary):
    """The broker closes every connection, asked by its management API."""

    name = "close connections"

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        def closed() -> bool:
            try:
                return rig.node.management.close_connections() > 0
            except ManagementError:  # one of them had gone by itself meanwhile
                return True

        return wait_until(closed, LISTED_S)


class ResetConnections(_Momentary):
    """The network resets every connection."""

    name = "proxy resets"

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        rig.proxy.reset()
        return True


class CutStreams:
    """Every stream ends in the middle of a frame, for a while those of new connections, too."""

    name = "proxy truncates"
    hold_s = 1.0

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        rig.proxy.cut()
        return True

    def heal(self, rig: Rig, /) -> None:
        rig.proxy.resume()


class Silence:
    """The network drops everything without a word, for longer than the heartbeat."""

    name = "proxy drops"
    hold_s = LONG_S

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        rig.proxy.silence()
        return True

    def heal(self, rig: Rig, /) -> None:
        rig.proxy.resume()


class Delay:
    """The network holds every piece of a stream for a while."""

    name = "proxy delays"
    hold_s = 3.0

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        rig.proxy.delay(DELAY_S)
        return True

    def heal(self, rig: Rig, /) -> None:
        rig.proxy.resume()


class MemoryAlarm:
    """The broker is out of memory, it thinks: it reads from nobody who publishes."""

    name = "memory alarm"
    hold_s = 5.0

    def inject(self, rig: Rig, _draw: random.Random, /) -> bool:
        rig.node.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        return True

    def heal(self, rig: Rig, /) -> None:
        with contextlib.suppress(NodeError):
            rig.node.ctl("set_vm_memory_high_watermark", "0.4")


KILLS: tuple[type[Fault], ...] = (KillExecutor, KillFront, KillClient, KillBroker)
DISTURBANCES: tuple[type[Fault], ...] = (
    StopWorker,
    StopBroker,
    CloseConnections,
    ResetConnections,
    CutStreams,
    Silence,
    Delay,
)
ALL: tuple[type[Fault], ...] = (*KILLS, *DISTURBANCES, MemoryAlarm)
BY_NAME = {each.name: each for each in ALL}


def _stop(worker: Member) -> list[int]:
    """Parents first, so that none sees its child stand still."""
    if not worker.pid:
        return []
    pids = [worker.pid, *descendants(worker.pid)]
    return [pid for pid in pids if send(pid, signal.SIGSTOP)]
