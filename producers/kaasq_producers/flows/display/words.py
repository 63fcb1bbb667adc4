"""What tree, timeline and trace call things, and text of others made harmless."""

from __future__ import annotations

from kaasq.flows.model import ENDED, FAILED, FlowStatus, ItemStatus, StepStatus
from kaasq.messages import ErrorBody, Repeated
from kaasq.plain_text import escape

LONGEST = 300  # characters of a message: hover texts and lines, not documents

NOT_RUN = "not run"
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


def cause_of(step: StepStatus) -> str | None:
    """The step for whose failure this one failed without having run, if that is why."""
    if step.state not in FAILED or step.completed or step.error is None:
        return None
    cause = step.error.detail.get("step")
    return cause if isinstance(cause, str) and cause != step.name else None


def state_word(step: StepStatus) -> str:
    """Its state; ``not run`` where it failed only because another one had."""
    return step.state if cause_of(step) is None else NOT_RUN


def repeat_words(repeat: Repeated | None) -> str:
    """How often a loop ran, and whether it ended because it had run as often as it may."""
    return "" if repeat is None else f"{repeat.runs}" if repeat.held else f"{repeat.runs} (most)"


def tally(status: FlowStatus) -> str:
    """How many steps are in which state: ``steps: 3 completed, 1 running``."""
    states = [state_word(each) for each in status.steps]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states, key=_RANK.index)))
    return f"steps: {counts or 'none'}"


_RANK: list[str] = ["failed", "expired", "cancelled", NOT_RUN, "running", "waiting", "completed", "skipped"]
assert {*_RANK} == ENDED | FAILED | {"waiting", "running", NOT_RUN}


def _escape(character: str) -> str:
    return " " if character in "\n\r\t" else escape(character)
