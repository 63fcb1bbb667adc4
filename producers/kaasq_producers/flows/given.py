"""What a workflow's steps can be given: its inputs and scalars, outputs of other steps, how many items there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kaasq.errors import BadRequest
from kaasq.flows.model import From, StepCondition, Value
from kaasq.messages import Operator
from kaasq.model import Number
from kaasq_producers.later import Later, whole

if TYPE_CHECKING:
    from kaasq_producers.flows.workflow import Workflow


class Given(Later[StepCondition]):
    """Something of one workflow that its steps can be given. ``Workflow`` and its steps make these.

    An input takes it as data, a scalar as a number; compared with a number it is a condition for ``when``.
    """

    __slots__ = ("data", "flow", "number", "what")

    misplaced = "only a step of its workflow takes it"

    def __init__(self, flow: Workflow, what: str, data: From | None = None, number: Value | None = None) -> None:
        self.flow = flow
        self.what = what
        self.data = data
        self.number = number

    @property
    def each(self) -> Given:
        """The own one of each item, for a step that ``Workflow.map`` adds.

        Of a list of inputs the one with the item's number; of a step over the same items what that gave for the same
        item; of anything else the part with the item's number, where a part has the size of the buffer that takes it.
        """
        if self.data is None or self.data.each or self.data.mask is not None:
            raise BadRequest(f"{self.what} has no parts for items", at="each")
        return Given(
            self.flow, f"{self.what}, of each item", msgspec.structs.replace(self.data, each=True), self.number
        )

    def at(self, *, offset: int | None = None, index: int | None = None) -> Given:
        """A part of it: for an input from ``offset`` (bytes) on, for a scalar or a condition the element at ``index``.

        Elements are counted through all axes.
        """
        if (offset is None) == (index is None):
            raise BadRequest("expected an offset (for an input) or an index (for a scalar)", at="at")
        if offset is not None:
            if self.data is None:
                raise BadRequest(f"{self.what} is a number and has no parts", at="at.offset")
            part = msgspec.structs.replace(self.data, offset=whole(offset, "at.offset"))
            return Given(self.flow, f"{self.what}, from byte {offset} on", part)
        if self.number is None or self.number.output is None:
            raise BadRequest(f"{self.what} has no elements to take: an output has", at="at.index")
        element = msgspec.structs.replace(self.number, index=whole(index, "at.index"))
        return Given(self.flow, f"element {index} of {self.what}", None, element)

    def source(self, at: str) -> From:
        """It as what an input takes. Raises BadRequest."""
        if self.data is None:
            raise BadRequest(f"{self.what} is a number, which a scalar takes and an input does not", at=at)
        return self.data

    def element(self, at: str) -> Value:
        """It as what a scalar takes. Raises BadRequest."""
        if self.number is None:
            raise BadRequest(f"{self.what} is no number, which a scalar takes", at=at)
        return self.number

    def compared(self, op: Operator, value: Number) -> StepCondition:
        """The condition on its number. Raises BadRequest."""
        return condition(self.element("when"), op, value)

    def __repr__(self) -> str:
        return f"<{self.what} of workflow {self.flow.name!r}>"


def condition(number: Value, op: Operator, value: Number) -> StepCondition:
    """Whether that number compares so."""
    return StepCondition(
        scalar=number.scalar,
        step=number.step,
        output=number.output,
        index=number.index,
        count=number.count,
        item=number.item,
        op=op,
        value=value,
    )
