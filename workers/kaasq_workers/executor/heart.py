"""The executor's pulse: a thread that beats through any kernel, so that only a process that stands still is silent."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from kaasq_workers.vitals import Vitals

BEAT_S = 0.5


class Heart:
    """Beats from its making until it is closed."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        vitals.beat()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kaasq-heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._vitals.beat()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
