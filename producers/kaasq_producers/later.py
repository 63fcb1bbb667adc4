"""What is bound in place of data, or compared, before it is there: an output of what runs earlier."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from kaasq.errors import BadRequest
from kaasq.messages import Operator, Stored, undecided
from kaasq.model import Number

C = TypeVar("C")


class Later(Generic[C]):
    """It is bound to an input or a scalar; compared with a number it gives a condition, a ``C``."""

    misplaced: ClassVar[str]
    """Why it cannot be bound where others of its kind can."""

    def source(self, at: str) -> Stored:
        """It as what an input takes. Raises BadRequest."""
        raise NotImplementedError

    def element(self, at: str) -> Any:
        """It as what a scalar takes. Raises BadRequest."""
        raise NotImplementedError

    def compared(self, op: Operator, value: Number) -> C:
        """The condition. Raises BadRequest."""
        raise NotImplementedError

    def __lt__(self, value: Number) -> C:
        return self._compared("<", value)

    def __le__(self, value: Number) -> C:
        return self._compared("<=", value)

    def __gt__(self, value: Number) -> C:
        return self._compared(">", value)

    def __ge__(self, value: Number) -> C:
        return self._compared(">=", value)

    def __eq__(self, value: object) -> C:  # type: ignore[override]  # it is a comparison for later
        return self._compared("==", value)

    def __ne__(self, value: object) -> C:  # type: ignore[override]
        return self._compared("!=", value)

    __hash__ = object.__hash__

    def __bool__(self) -> NoReturn:
        """Raises BadRequest: ``Output("y") and Output("z") > 3`` would be about one of them."""
        raise undecided(f"{self!r} is true")

    def _compared(self, op: Operator, value: object) -> C:
        plain = value.item() if hasattr(value, "item") else value
        if not isinstance(plain, (bool, int, float)):
            raise BadRequest(f"an output is compared with a number, given a {type(value).__name__}", at="when")
        return self.compared(op, plain)


def whole(value: object, at: str) -> int | None:
    """An offset or index, or None where there is none. Raises BadRequest."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise BadRequest(f"expected a whole number from 0 on, given {value!r:.60}", at=at)
