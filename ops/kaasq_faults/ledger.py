"""The ledger: what clients asked for and what they were told, in append-only files that outlive any kill.

Each client has a file of its own and writes a line, in one system call, before it publishes a request and after it has
heard of it. Nothing of kaasq is involved, so what the ledger says can be held against kaasq.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

OK = "ok"


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A process of this client began. What earlier ones had not heard of by now, they never will (see ``resumes``)."""

    pid: int
    resumes: bool
    """Whether this process goes on asking for what earlier ones asked for, under the same ids."""


class Asked(msgspec.Struct, frozen=True, tag="asked", kw_only=True):
    """A request is about to be published."""

    key: str
    want: float
    """The first element of what it must give."""
    name: str | None = None
    """Where its output is kept; None: it comes with the reply."""
    shared: bool = False
    """Whether others keep theirs under the same name."""
    steps: dict[str, float] = {}
    """Of a workflow: of each step, the name that it keeps its output under, and the first element of that."""
    code: str | None = None
    """The error that it must end with instead."""
    id: str | None = None
    at: float


class Known(msgspec.Struct, frozen=True, tag="known"):
    """The id of a request, where it is not known before it is published."""

    key: str
    id: str


class Ended(msgspec.Struct, frozen=True, tag="ended", kw_only=True):
    """What the client was told: ``ok``, or an error's code. ``right``: whether the output was what it must be."""

    key: str
    end: str
    right: bool = True
    detail: str = ""
    at: float


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The client was told to stop, has heard of everything it asked for, and ends."""

    pid: int


Entry = Started | Asked | Known | Ended | Finished


def now() -> float:
    """Seconds on a clock that all processes of this machine share and that nobody sets."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class Book:
    """One client's file, for writing."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, entry: Entry) -> None:
        """Append a line. It is in the kernel's hands then: only the machine's own end can lose it."""
        os.write(self._fd, msgspec.json.encode(entry) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def read(path: Path) -> Iterator[Entry]:
    """The entries of a file, in order."""
    decoder = msgspec.json.Decoder(Entry)
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):  # else its client is just writing it
                yield decoder.decode(line)
