"""What the command line prints: tables and summaries for people, plain values for programs."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from kaasq.flows.model import FlowLine
from kaasq.units import age, counted, duration, moment, size
from kaasq_producers.flows.display.tree import STYLES
from kaasq_producers.flows.display.words import plainly
from kaasq_producers.result import Result
from kaasq_storage.protocol import Named, Object, Usage

PIPE_COLUMNS = 200  # when nobody's terminal says how wide the output may be

MOST_COLUMNS = 100_000

_STEPS = ("queued", "load", "h2d", "kernel", "d2h", "commit")


def console() -> Console:
    """Standard output."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def show(made: Table) -> None:
    """Print a table. No cell is ever broken or cut: where the terminal is too narrow, it goes on in its next line."""
    out = console()
    out.width = max(out.width, Measurement.get(out, out.options.update(width=MOST_COLUMNS), made).maximum)
    with out.capture() as captured:
        out.print(made)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def names_table(names: list[Named]) -> Table:
    """What ``kaasq ls`` shows."""
    now = time.time()
    made = table("NAME", "REF", ">VERSION", "DTYPE", "SHAPE", ">SIZE", ">AGE")
    for each in names:
        made.add_row(
            Text(each.name), each.object.ref[:12], str(each.version), *_array(each.object), age(now - each.updated)
        )
    return made


def objects_table(objects: list[Object]) -> Table:
    """What ``kaasq ls --objects`` shows."""
    now = time.time()
    made = table("REF", "DTYPE", "SHAPE", ">SIZE", ">AGE", ">EXPIRES IN")
    for each in objects:
        expires = "named" if each.expires is None else age(each.expires - now)
        made.add_row(each.ref, *_array(each), age(now - each.created), expires)
    return made


def flows_table(flows: Sequence[FlowLine]) -> Table:
    """What ``kaasq flow ls`` shows."""
    now_ms = time.time_ns() // 1_000_000
    made = table("ID", "NAME", "STATE", ">STEPS", "STARTED", ">TOOK")
    for each in flows:
        took_ms = max(0, (now_ms if each.ended_ms is None else each.ended_ms) - each.started_ms)
        state = Text(each.state, STYLES[each.state])
        steps = f"{each.ended}/{each.steps}"
        made.add_row(
            *(Text(plainly(each.id)), Text(plainly(each.name)), state, steps, moment(each.started_ms)),
            duration(took_ms * 1000),
        )
    return made


def usage_line(usage: Usage) -> str:
    """How full the store is."""
    return (
        f"{size(usage.used)} of {size(usage.capacity)} used by {counted(usage.objects, 'object')}; "
        f"{counted(usage.names, 'name')}, {counted(usage.outcomes, 'outcome')}"
    )


def output_lines(result: Result, written: dict[str, str]) -> list[str]:
    """Its outputs: values, where they lie, which files they were written to."""
    refs = result.refs
    lines: list[str] = []
    for name in result:
        if name in refs and name not in written:
            kept = refs[name]
            where = f"kept as {kept.name!r} version {kept.version}" if kept.name else f"in the store as {kept.ref}"
            what = f"{kept.dtype or 'bytes'}{'' if kept.shape is None else f' {kept.shape}'}"
            lines.append(f"  {name}: {what} {size(kept.nbytes)}, {where}")
            continue
        array = result[name]
        values = np.array2string(array.reshape(-1), threshold=6, edgeitems=3, precision=4)
        where = f" -> {written[name]}" if name in written else ""
        lines.append(f"  {name}: {array.dtype} {array.shape} {values}{where}")
    return lines


def result_lines(result: Result, written: dict[str, str]) -> list[str]:
    """What ``kaasq run`` prints: outputs, then where the time went."""
    timings = result.timings
    steps = ", ".join(f"{step} {duration(getattr(timings, step))}" for step in _STEPS)
    worker = result.worker
    there_and_back = duration(result.elapsed * 1e6)
    ran_in = f"{duration(timings.total)} ({there_and_back} with the way there and back)"
    return [
        f"request {result.request_id} ran on {worker.device} of {worker.host} in {ran_in}",
        *output_lines(result, written),
        f"  {steps}",
        f"  device cache: hits {result.cache.hits}, misses {result.cache.misses}",
    ]


def outputs_json(result: Result, written: dict[str, str]) -> dict[str, Any]:
    """The same for programs; array contents are in the files that were asked for."""
    outputs: dict[str, Any] = {}
    refs = result.refs
    for name in result:
        if name in refs:
            outputs[name] = plain(refs[name])
        else:
            array = result[name]
            outputs[name] = {"nbytes": array.nbytes, "dtype": array.dtype.name, "shape": list(array.shape)}
        if name in written:
            outputs[name]["file"] = written[name]
    return outputs


def result_json(result: Result, written: dict[str, str]) -> dict[str, Any]:
    """The same for programs. Times in microseconds."""
    return {
        "id": result.request_id,
        "outputs": outputs_json(result, written),
        "timings": plain(result.timings),
        "elapsed": round(result.elapsed * 1e6),
        "cache": plain(result.cache),
        "worker": plain(result.worker),
    }


def plain(value: Any) -> Any:
    """A message as plain builtins, for ``--json``: bytes become their length, and what JSON lacks (times, decimals and
    what is no number, in headers) becomes text.
    """
    if isinstance(value, msgspec.Struct):
        value = {field: getattr(value, field) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (bytes, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Decimal) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def table(*headers: str) -> Table:
    """An empty one; a column whose header starts with ">" is aligned to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        made.add_column(header.removeprefix(">"), justify="right" if header[0] == ">" else "left", no_wrap=True)
    return made


def _array(made: Object) -> tuple[str, str, str]:
    return made.dtype or "-", "-" if made.shape is None else "x".join(map(str, made.shape)) or "()", size(made.nbytes)
