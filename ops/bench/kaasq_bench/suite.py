"""Runs parts and their cases: what one of them breaks with is told, and the others go on."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import NamedTuple

import msgspec

from kaasq.interrupts import stop_before
from kaasq_bench.figures import Row
from kaasq_bench.setting import NotHere, Setting

PARTS = {
    "messaging": "a no-op graph and a small saxpy beside a bare echo, workers written by hand, and Celery",
    "chains": "a step of a chain beside a client's round trip, and beside Celery's chain",
    "workflows": "steps in a row, a fan-out and its join, large buffers, beside a client's requests and Celery",
    "overhead": "graphs of many launches, a solver and a chain of products beside the same kernels by hand",
    "engine": "the engine by itself, without broker and processes, beside the same kernels by hand",
    "copies": "inputs and outputs between store and device beside the memory's own speed",
    "sharing": "many tenants, small kernels, and more data than the device holds",
    "cold": "the first request of a module and of a worker beside a fresh process for each",
    "cpu": "kernels on the cpu device beside NumPy",
    "device": "launches, copies and modules of the cuda device beside CuPy and cuda.core",
    "builtins": "built-ins of the cuda device beside PyTorch and CuPy",
    "store": "commits, objects and lookups of the buffer store beside LMDB, files and memcpy",
}


class Case(NamedTuple):
    """Something that can be measured by itself. ``measure`` raises NotHere where this machine cannot."""

    name: str
    measure: Callable[[Setting], Iterable[Row]]


class PartReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a part gave. ``left_out`` and ``broken`` say for each such case why."""

    part: str
    rows: list[Row]
    left_out: dict[str, str]
    broken: dict[str, str]
    took_s: float


def cases_of(part: str) -> tuple[Case, ...]:
    """What a part consists of. It is loaded only now, so that no part needs what others import."""
    cases: tuple[Case, ...] = import_module(f"kaasq_bench.parts.{part}").CASES
    return cases


def run_cases(
    part: str, cases: Iterable[Case], setting: Setting, *, ending: tuple[type[Exception], ...] = ()
) -> PartReport:
    """All of them. What a case gave before it broke is kept. Errors of the classes in ``ending`` are raised."""
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    broken: dict[str, str] = {}
    started = time.perf_counter()
    for case in cases:
        setting.say(f"{part}: {case.name}")
        try:
            for row in case.measure(setting):
                rows.append(row)  # noqa: PERF402 - what it gave before it raised is to be kept
        except Exception as error:
            stop = stop_before(error)
            if stop is not None:
                raise stop from error
            if isinstance(error, ending):
                raise
            if isinstance(error, NotHere):
                left_out[case.name] = str(error)
                setting.say(f"  left out: {error}")
                continue
            # Whatever a part breaks with, the others' figures are wanted.
            broken[case.name] = f"{type(error).__name__}: {error}".partition("\n")[0]
            setting.say(traceback.format_exc())
    took = time.perf_counter() - started
    return PartReport(part=part, rows=rows, left_out=left_out, broken=broken, took_s=took)
