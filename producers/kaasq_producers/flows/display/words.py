"""What tree, timeline and trace call things, and text of others made harmless."""

from __future__ import annotations

from kaasq.flows.model import ENDED, FAILED, FlowStatus, ItemStatus, State, StepStatus
from kaasq.messages import ErrorBody

LONGEST = 300  # characters of a message: hover texts and lines, not documents

QUEUED = "queued"
BETWEEN = "between"
PARTS: dict[str, str] = {
    "load": "load",
    "h2d": "copy in",
    "kernel": "kernel",
    "d2h": "copy out",
    BETWEEN: "between",  # on the worker, at none of the others
    "commit": "commit",
}
"""The parts of an item's time on its worker, in the order in which they are drawn, and what they are called."""


def plainly(text: str, longest: int = LONGEST) -> str:
    """Text of others on one line: what does not print is written as an escape (terminals obey control characters)."""
    if not text.isprintable():
        text = "".join([each if each.isprintable() else _escape(each) for each in text[: longest + 1]])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def error_words(error: ErrorBody) -> str:
    """``code: message``, on one line."""
    return f"{plainly(error.code)}: {plainly(error.message)}"


def item_words(item: ItemStatus, step: StepStatus | None) -> str:
    """``blur[17]``, or ``blur`` if it is in no map."""
    name = plainly(item.step)
    return f"{name}[{item.item}]" if step is None or step.map is not None else name


def count_words(step: StepStatus) -> str:
    """How far a map is: ``17/100 (2 failed)``; nothing of a step that runs once."""
    if step.map is None:
        return ""
    of = "?" if step.items is None else str(step.items)
    return f"{step.completed}/{of}" + (f" ({step.failed} failed)" if step.failed else "")


def tally(status: FlowStatus) -> str:
    """How many steps are in which state: ``steps: 3 completed, 1 running``."""
    states: list[State] = [each.state for each in status.steps]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states, key=_RANK.index)))
    return f"steps: {counts or 'none'}"


_RANK: list[State] = ["failed", "expired", "cancelled", "running", "waiting", "completed", "skipped"]
assert {*_RANK} == ENDED | FAILED | {"waiting", "running"}


def _escape(character: str) -> str:
    return " " if character in "\n\r\t" else character.encode("unicode_escape").decode("ascii")
