"""Whether a worker lives: what it says of itself in a file, and what follows from that.

A process that is there, and even connected, may take nothing any more. So each slot says when it was last *well*: every
one of its consumers is one that the broker delivers to, and what it holds has an executor to run on. An idle worker is
well without a request; one that drains is, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from kaasq.errors import BadRequest
from kaasq.log import get_logger
from kaasq.settings import Settings
from kaasq.units import age

WITHIN_S = 30.0
BEAT_S = 1.0

log = get_logger()


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How a slot is now. ``wrong``: why it is not well; empty if it is. ``held``: requests that it has."""

    slot: str
    device: str
    wrong: str = ""
    held: int = 0


class SlotHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A slot in the file. Times in seconds since the epoch."""

    slot: str
    device: str
    well_at: float
    wrong: str = ""
    held: int = 0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says."""

    pool: str
    pid: int
    written_at: float
    slots: tuple[SlotHealth, ...]

    @property
    def well_at(self) -> float:
        """When all slots were well last."""
        return min([each.well_at for each in self.slots], default=0.0)


class Slot(Protocol):
    """One whose condition can be asked for."""

    def condition(self) -> Condition: ...


class HealthFile:
    """Keeps the file up to date. Its time of modification is when all was well last."""

    def __init__(self, path: Path, pool: str, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._pool = pool
        self._clock = clock
        self._since = clock()
        self._well_at: dict[str, float] = {}

    def update(self, conditions: list[Condition]) -> Health:
        """Write how the slots are now. Raises BadRequest if the file cannot be written."""
        now = self._clock()
        for each in conditions:
            if not each.wrong:
                self._well_at[each.slot] = now
        health = Health(
            pool=self._pool,
            pid=os.getpid(),
            written_at=now,
            slots=tuple(
                SlotHealth(
                    slot=each.slot,
                    device=each.device,
                    well_at=self._well_at.get(each.slot, self._since),
                    wrong=each.wrong,
                    held=each.held,
                )
                for each in conditions
            ),
        )
        unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(msgspec.json.encode(health))
            os.utime(unfinished, (health.well_at, health.well_at))
            unfinished.replace(self._path)  # whoever reads sees the one or the other
        except OSError as error:
            raise BadRequest(f"cannot write it: {error.strerror}", at=f"health_file: {self._path}") from None
        return health

    def remove(self) -> None:
        """The worker has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink()


@contextlib.contextmanager
def beating(settings: Settings, slots: Sequence[Slot]) -> Iterator[None]:
    """Keep the settings' health file up to date inside the block, also while it waits; none is kept if none is set.

    Raises BadRequest if it cannot be written.
    """
    if not settings.health_file:
        yield
        return
    file = HealthFile(Path(settings.health_file).expanduser(), settings.pool)
    file.update([each.condition() for each in slots])
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                file.update([each.condition() for each in slots])
            except BadRequest as error:  # a full disk: the file grows old, and says so
                log.warning("health.failed", error=error.message)

    thread = threading.Thread(target=beat, name="kaasq-health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        file.remove()


def read_health(path: Path) -> Health:
    """What the file says. Raises BadRequest for none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Health)
    except FileNotFoundError:
        raise BadRequest("is not there: no worker writes it, or it has not started yet", at=str(path)) from None
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(path)) from None
    except msgspec.DecodeError:
        raise BadRequest("is no health file of a worker", at=str(path)) from None


def troubles(health: Health, now: float, within_s: float) -> list[str]:
    """Why the worker does not count as alive; empty if it does."""
    if now - health.written_at > within_s:
        return [f"the file was written {age(now - health.written_at)} ago: the worker hangs, or has ended"]
    return [
        f"slot {each.slot} was well {age(now - each.well_at)} ago: {each.wrong or 'it was not looked at since'}"
        for each in health.slots
        if now - each.well_at > within_s
    ]
