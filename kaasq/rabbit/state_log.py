"""What the log says about a broker that comes and goes: a line per change of state, and one now and then while it is
away. What single connections and attempts do is there at level debug.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from kaasq.broker import State
from kaasq.errors import KaasqError
from kaasq.log import get_logger

log = get_logger()

SETTLE_S = 1.0
REPEAT_S = 30.0


class Seldom:
    """Whether to say again what was said before: at most every ``REPEAT_S``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0.0

    def __call__(self) -> bool:
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + REPEAT_S
        return True


class StateLog:
    """Told of every change and of every attempt that failed; ``tick`` has to be called every few seconds.

    What may be over in a moment (a first attempt that failed, a publishing connection that went, perhaps with the other
    one right behind it) is told once it has lasted for ``SETTLE_S``; what is not told when it comes is not told when it
    goes. News that somebody was told of are warnings also when they are good: who only sees warnings sees the end.
    """

    def __init__(self, broker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._clock = clock
        self._event = ""  # what is wrong; empty: nothing
        self._error: KaasqError | None = None
        self._since = 0.0
        self._due = 0.0
        self._told = False
        self._attempts: Counter[str] = Counter()

    def changed(self, state: State, error: KaasqError | None) -> None:
        match state:
            case State.LOST:
                self._wrong("broker.lost", error, settle_s=0)
            case State.BLOCKED:
                self._wrong("broker.blocked", error, settle_s=SETTLE_S if error else 0)
            case State.FAILED:
                self.end()
                log.warning("broker.failed", broker=self._broker, error=_text(error))
            case State.CONNECTED | State.UNBLOCKED:
                self._right(f"broker.{state.value}")

    def attempt_failed(self, role: str, error: KaasqError) -> None:
        """An attempt to connect, of one of the connections."""
        if not self._event:
            self._wrong("broker.unreachable", error, settle_s=SETTLE_S)
        self._attempts[role] += 1
        self._error = error

    def tick(self) -> None:
        """Say what is wrong, if it is time to."""
        now = self._clock()
        if not self._event or now < self._due:
            return
        fields: dict[str, object] = {"broker": self._broker, "error": _text(self._error)}
        if self._attempts:
            fields |= {"attempts": max(self._attempts.values()), "for_s": round(now - self._since, 1)}
        log.warning(self._event, **{key: value for key, value in fields.items() if value})
        self._told = True
        self._due = now + REPEAT_S

    def end(self) -> None:
        """Nobody waits for it any more."""
        self._event = ""

    def _wrong(self, event: str, error: KaasqError | None, settle_s: float) -> None:
        if not self._event:
            self._since = self._clock()
            self._told = False
            self._attempts.clear()
        self._event, self._error = event, error
        self._due = self._clock() + settle_s
        self.tick()

    def _right(self, event: str) -> None:
        if self._event and self._told:
            log.warning(event, broker=self._broker, after_s=round(self._clock() - self._since, 1))
        elif event == "broker.connected":
            log.info(event, broker=self._broker)
        self._event = ""


def _text(error: KaasqError | None) -> str | None:
    return None if error is None else error.message
