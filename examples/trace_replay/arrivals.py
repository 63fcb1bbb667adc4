"""A trace, what arrives when: CSV with a header, or a JSON object per line. See README.md."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.trace_replay.jobs import KINDS, MOST

FIELDS = ("arrival_s", "kind", "size")


class TraceError(ValueError):
    """A trace that cannot be replayed, and in which line."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job: seconds after the start, what it is, and of how many numbers."""

    at_s: float
    kind: str
    size: int


def read(path: Path) -> list[Arrival]:
    """The arrivals of a ``.csv`` or ``.jsonl`` file in the order of their times. Raises TraceError and OSError."""
    rows = _csv(path) if path.suffix == ".csv" else _lines(path)
    found = [_arrival(row, f"{path}:{line}") for line, row in rows]
    if not found:
        raise TraceError(f"{path}: has no arrivals; expected the fields {', '.join(FIELDS)}")
    return sorted(found, key=lambda each: each.at_s)


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(line for line in file if not line.startswith("#"))
        if missing := [name for name in FIELDS if name not in (reader.fieldnames or ())]:
            raise TraceError(f"{path}: its header lacks {', '.join(missing)}; expected {','.join(FIELDS)}")
        yield from enumerate(reader, 2)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise TraceError(f"{path}:{number}: is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise TraceError(f"{path}:{number}: expected an object, given {line[:40]!r}")
            yield number, row


def _arrival(row: dict[str, Any], at: str) -> Arrival:
    try:
        at_s, kind, size = float(row["arrival_s"]), str(row["kind"]), int(row["size"])
    except (KeyError, TypeError, ValueError):
        raise TraceError(f"{at}: expected a number of seconds, a kind and a whole number, given {row}") from None
    if not (math.isfinite(at_s) and at_s >= 0):
        raise TraceError(f"{at}: expected seconds from 0 on, given {at_s}")
    if kind not in KINDS:
        raise TraceError(f"{at}: expected {' or '.join(KINDS)}, given {kind!r:.60}")
    if not 1 <= size <= MOST:
        raise TraceError(f"{at}: expected a size from 1 to {MOST}, given {size}")
    return Arrival(at_s, kind, size)
