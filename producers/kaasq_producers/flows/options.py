"""How a step is to run, beside what it takes: when, how often, how long. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from kaasq.errors import BadRequest
from kaasq.flows.model import On, StepCondition
from kaasq.messages import Repeat
from kaasq_producers.flows.placed import PlacedStep, check_own
from kaasq_producers.later import whole
from kaasq_producers.storing import checked_timeout

if TYPE_CHECKING:
    from kaasq_producers.flows.workflow import Workflow

After = PlacedStep | Iterable[PlacedStep]


class Options(NamedTuple):
    """What ``Workflow.step`` and ``map`` were given, checked."""

    on: On
    after: tuple[str, ...]
    condition: StepCondition | None
    tolerate: bool
    retries: int
    timeout_ms: int | None
    repeat: Repeat | None

    @classmethod
    def of(
        cls,
        flow: Workflow,
        *,
        on: On,
        after: After,
        when: StepCondition | None,
        tolerate: bool,
        retries: int,
        timeout: float | None,
        repeat: Repeat | None,
    ) -> Options:
        """Raises BadRequest."""
        given: dict[str, Any] = {"on": on, "when": when, "tolerate": tolerate, "repeat": repeat}
        if given["on"] not in get_args(On):
            raise BadRequest(f"expected 'completed', 'failed' or 'always', given {on!r:.60}", at="on")
        if given["when"] is not None and not isinstance(given["when"], StepCondition):
            raise BadRequest(
                f"expected a comparison of an output of a step with a number, step['n'] > 3, given {when!r:.60}",
                at="when",
            )
        if not isinstance(given["tolerate"], bool):
            raise BadRequest(f"expected True or False, given {tolerate!r:.60}", at="tolerate")
        if given["repeat"] is not None and not isinstance(given["repeat"], Repeat):
            raise BadRequest(f"expected what kaasq.repeat() gives, given a {type(repeat).__name__}", at="repeat")
        return cls(
            on=on,
            after=_names(flow, after),
            condition=when,
            tolerate=tolerate,
            retries=whole(retries, "retries") or 0,
            timeout_ms=None if timeout is None else max(1, round(checked_timeout(timeout) * 1000)),
            repeat=repeat,
        )

    def refuse_for_workflow(self) -> None:
        """What a sub-workflow's own steps have to say. Raises BadRequest."""
        for name, given in (
            ("retries", bool(self.retries)),
            ("timeout", self.timeout_ms is not None),
            ("repeat", self.repeat is not None),
        ):
            if given:
                raise BadRequest("is for a step that is a graph; a workflow's own steps have theirs", at=name)


def _names(flow: Workflow, after: After) -> tuple[str, ...]:
    listed: list[Any] = [after] if isinstance(after, PlacedStep) or not hasattr(after, "__iter__") else list(after)
    for each in listed:
        if not isinstance(each, PlacedStep):
            raise BadRequest(f"expected steps of the workflow, given a {type(each).__name__}", at="after")
        check_own(flow, each, "after")
    return tuple(dict.fromkeys(name for each in listed for name in each.steps))
