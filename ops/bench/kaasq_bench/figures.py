"""What a measurement says: figures of kaasq and of a peer from the same rounds, their ratio, and the bar. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Median, least and greatest of some repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """What a row's median ratio (or kaasq's own figure, with ``of="value"``) is wanted to be."""

    limit: float
    sense: Literal["at most", "at least"]
    of: Literal["ratio", "value"] = "ratio"

    def met(self, row: Row) -> bool:
        """Whether the row meets it. Raises ValueError for a bar on a ratio that the row does not have."""
        figure = row.ratio if self.of == "ratio" else row.kaasq
        if figure is None:
            raise ValueError(f"{row.what!r} has a bar on its ratio, but no peer to have a ratio to")
        return figure.median <= self.limit if self.sense == "at most" else figure.median >= self.limit


def at_most(limit: float, of: Literal["ratio", "value"] = "ratio") -> Bar:
    """A bar for what is better the smaller it is."""
    return Bar(limit=limit, sense="at most", of=of)


def at_least(limit: float, of: Literal["ratio", "value"] = "ratio") -> Bar:
    """A bar for what is better the greater it is."""
    return Bar(limit=limit, sense="at least", of=of)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. ``ratio`` is kaasq's figure by the peer's, round by round; None where there is no peer."""

    what: str
    unit: str
    kaasq: Spread
    peer: str | None = None
    beside: Spread | None = None
    ratio: Spread | None = None
    bar: Bar | None = None


def compare(
    what: str, unit: str, kaasq: Sequence[float], peer: str, beside: Sequence[float], bar: Bar | None = None
) -> Row:
    """A row from the rounds of both sides, in the same order. Raises ValueError if one side has more than the other."""
    ratios = [ours / theirs for ours, theirs in zip(kaasq, beside, strict=True)]
    return Row(
        what=what,
        unit=unit,
        kaasq=Spread.of(kaasq),
        peer=peer,
        beside=Spread.of(beside),
        ratio=Spread.of(ratios),
        bar=bar,
    )


def alone(what: str, unit: str, kaasq: Sequence[float], bar: Bar | None = None) -> Row:
    """A row of a figure that has a meaning by itself."""
    return Row(what=what, unit=unit, kaasq=Spread.of(kaasq), bar=bar)
