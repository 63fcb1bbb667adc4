"""What every part of the suite is given: device, broker, folders, how long to measure, where to say how far it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kaasq.settings import Settings
from kaasq.topology import QueueType
from kaasq_bench.rabbitmq.api import Management

T = TypeVar("T")


class NotHere(Exception):
    """Raised by a case that this machine cannot measure; the report says why it is left out."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """``seconds`` is the length of one window of load, and of other figures as far as they can choose."""

    device: str
    quick: bool
    rounds: int
    seconds: float
    broker: Callable[[], BenchBroker]
    """Starts it when it is first asked for: not every part needs one."""
    disk: Path
    memory: Path | None
    """A folder in shared memory, if there is one."""
    say: Callable[[str], None]
    brief: bool = False
    """A quick run of the rows that have bars, and of few others."""
    pool: Pool | None = None
    """A pool that is served already, and to be measured as it is."""
    embedded: bool = False
    """There is no broker: workers run in this process, behind one in memory."""

    @property
    def gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def gpu_index(self) -> int:
        """Raises NotHere where the device is no GPU."""
        kind, _, index = self.device.partition(":")
        if kind != "cuda":
            raise NotHere(f"needs a GPU, and the device is {self.device}")
        return int(index or 0)

    def place_for(self, nbytes: int) -> Path:
        """Shared memory where so much is free there, else the disk."""
        roomy = self.memory is not None and shutil.disk_usage(self.memory).free >= nbytes
        return self.memory if roomy and self.memory is not None else self.disk

    def pick(self, quick: T, full: T) -> T:
        """The first for a quick run, the second for a full one."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Pool:
    """A pool of somebody's own, and how he reaches it."""

    settings: Settings
    queue_type: QueueType
    here: bool
    """Its worker runs on this machine, with the store that the settings name."""


@dataclass(frozen=True)
class BenchBroker:
    """The RabbitMQ that both sides use. ``management`` None: its API does not answer, or is not ours to use."""

    url: str
    version: str
    management: Management | None
