"""The processes of a node, found by who started whom. Linux only, like all of kaasq's workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Those that it started, and those that these did."""
    children: dict[int, list[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs still."""
    return any(other == pid and state != "Z" for other, _, state in _processes())


def _processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, state) of every process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            yield int(path.parent.name), int(parent), state
