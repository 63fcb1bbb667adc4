"""Steps of a workflow that one executor runs in a row, as one job: what only the next step takes stays on the device.

All of them are recorded in one transaction when the last has ended. If the executor dies before, the first one's
message comes again, and its steps are run one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from kaasq.messages import Request
from kaasq_workers.executor.flight import Executed, Produced
from kaasq_workers.executor.resident import Resident, Taken
from kaasq_workers.flows.row import Row


class Ran(msgspec.Struct):
    """A step that has run in a stretch."""

    step: int
    request: Request
    executed: Executed
    ended_ms: int

    def discard(self) -> None:
        """Forget it; staged outputs give their space back."""
        for each in self.executed.outputs:
            if not isinstance(each.data, bytearray):
                each.data.discard()


class Stretch:
    """Where one stretch stands. ``ran``: its steps that have ended, the job's own first."""

    def __init__(self, row: Row, step: int, let_go: Callable[[Resident], None]) -> None:
        """It begins with that step. ``let_go`` is told of what nobody needs any more."""
        self._row = row
        self._let_go = let_go
        self.ran: list[Ran] = []
        self._held: Mapping[str, Resident] = {}  # what the last of them left on the device
        self._step = step  # that runs now
        self._onto = row.after(step)

    @property
    def hold(self) -> frozenset[str]:
        """What the step that runs now is to leave on the device."""
        return frozenset() if self._onto is None else self._onto.hold

    @property
    def held(self) -> Mapping[str, Resident]:
        """What the last step that has ended left there."""
        return self._held

    def end(self, request: Request, executed: Executed) -> int | None:
        """The step that runs now has ended: which is the next one, if any."""
        self.close()
        self._held = executed.held
        self.ran.append(Ran(self._step, request, executed, time.time_ns() // 1_000_000))
        return None if self._onto is None else self._onto.step

    def taken(self) -> dict[str, Taken]:
        """What the next step takes of what the last one left. That stays until the next one has ended."""
        assert self._onto is not None
        return {
            name: Taken(self._held[each.output], each.offset or 0)
            for name, each in self._row.taken(self._onto.step, self._step).items()
            if each.output is not None
        }

    def go_on(self) -> None:
        """The next step is to begin."""
        assert self._onto is not None
        self._step = self._onto.step
        self._onto = self._row.after(self._step)

    def stop(self, outputs: list[Produced]) -> None:
        """No other step follows: the last one that has ended has these outputs, on the host."""
        last = self.ran[-1]
        last.executed = last.executed._replace(outputs=outputs, held={})
        self._onto = None

    def discard(self) -> None:
        """Forget all that has run."""
        for each in self.ran:
            each.discard()
        self.ran.clear()

    def close(self) -> None:
        """Nothing on the device is needed any more."""
        for each in self._held.values():
            self._let_go(each)
        self._held = {}
