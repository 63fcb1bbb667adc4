"""Which step stands where when steps are written below one another: what follows what, with few levels. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from kaasq.flows.model import StepStatus

GOES_ON = "↓ "


@dataclass(frozen=True, slots=True)
class Line:
    """A step, what is drawn before its name, what before lines that belong to it, and which steps it waits for, where
    the drawing does not say so by itself.
    """

    step: StepStatus
    before: str
    below: str
    after: tuple[str, ...]


def outline(steps: Sequence[StepStatus]) -> list[Line]:
    """Each step once. It stands under the nearest step that everything it waits for comes from; a join so under the
    fork. With ``↓`` it goes on from the step above it on its own level: so a chain is no staircase, and n steps have
    no more than log2(n) levels.
    """
    return list(_Outline(steps).lines())


class _Outline:
    def __init__(self, steps: Sequence[StepStatus]) -> None:
        self._steps = steps
        numbers = {each.name: number for number, each in enumerate(steps)}
        self._waits = [{numbers[name] for name in each.waits_for if name in numbers} for each in steps]
        try:
            order = list(TopologicalSorter(dict(enumerate(self._waits))).static_order())
        except CycleError:  # no workflow that was checked: all that can be shown is the steps
            self._waits = [set() for _ in steps]
            order = list(range(len(steps)))
        self._reduce(order)
        self._top = len(steps)
        self._above = [self._top] * len(steps)
        self._levels = [0] * (len(steps) + 1)
        for number in order:
            self._above[number] = above = self._common(self._waits[number])
            self._levels[number] = self._levels[above] + 1
        self._sizes = [1] * (len(steps) + 1)
        for number in reversed(order):
            self._sizes[self._above[number]] += self._sizes[number]
        self._below: list[list[int]] = [[] for _ in range(len(steps) + 1)]
        for number, above in enumerate(self._above):
            self._below[above].append(number)

    def lines(self) -> Iterator[Line]:
        yield from self._level(self._below[self._top], "", top=True)

    def _reduce(self, order: list[int]) -> None:
        """Leave out what a step waits for anyhow, because another one that it waits for does."""
        earlier = [0] * len(self._steps)  # of each step, a bit for each that comes before it
        for number in order:
            waits = self._waits[number]
            beyond = 0
            for each in waits:
                beyond |= earlier[each]
            self._waits[number] = {each for each in waits if not beyond >> each & 1}
            earlier[number] = beyond | sum(1 << each for each in waits)

    def _common(self, numbers: set[int]) -> int:
        """The nearest step through which every way to all of them leads: their immediate dominator."""
        found: int | None = None
        for number in sorted(numbers):
            other = number
            while found is not None and found != other:
                if self._levels[found] > self._levels[other]:
                    found = self._above[found]
                else:
                    other = self._above[other]
            found = other
        return self._top if found is None else found

    def _level(self, heads: list[int], prefix: str, *, top: bool = False) -> Iterator[Line]:
        level: list[tuple[int, bool]] = []
        for head in heads:
            level.append((head, False))
            while (following := self._goes_on(level[-1][0])) is not None:
                level.append((following, True))
        for place, (number, follows) in enumerate(level):
            last = place == len(level) - 1
            guide, rest = ("", "") if top else ("└─ ", "   ") if last else ("├─ ", "│  ")
            waits = self._waits[number]
            said = not waits or waits == {self._above[number]}
            yield Line(
                step=self._steps[number],
                before=prefix + guide + (GOES_ON if follows else ""),
                below=prefix + rest,
                after=() if said else tuple(self._steps[each].name for each in sorted(waits)),
            )
            beside = [each for each in self._below[number] if each != self._goes_on(number)]
            yield from self._level(beside, prefix + rest)

    def _goes_on(self, number: int) -> int | None:
        """What follows a step on its own level: the branch with the most steps, of equal ones the join."""
        below = self._below[number]
        most = max((self._sizes[each] for each in below), default=0)
        largest = [each for each in below if self._sizes[each] == most]
        if len(largest) > 1:
            largest = [each for each in largest if len(self._waits[each]) > 1]
        return largest[0] if len(largest) == 1 else None
