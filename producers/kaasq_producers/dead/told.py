"""Dead letters as the command line prints them: for people, and as plain values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from kaasq import codec
from kaasq.checks import GraphLimits
from kaasq.dead_letter import DeadLetter
from kaasq.errors import KaasqError
from kaasq.flows.model import FlowCall, FlowsCall, FlowStart, StepCall
from kaasq.messages import Binding, Request, Stored
from kaasq.plain_text import harmless
from kaasq.units import age, moment, size
from kaasq_producers.commands import display
from kaasq_producers.dead.selection import age_of
from kaasq_producers.flows.display.words import plainly

REASON_LENGTH = 60
EVIDENCE = {
    "how": "how executors died of it",
    "kills": "executors that died of it",
    "attempts": "deliveries begun and never ended",
    "worker": "the last worker",
}


def without_body(letter: DeadLetter) -> DeadLetter:
    """The same letter without what may be large; thousands of them are at hand at once."""
    return msgspec.structs.replace(letter, request=msgspec.structs.replace(letter.request, body=b""))


def table(letters: list[DeadLetter]) -> Table:
    """What ``kaasq dead list`` shows."""
    made = display.table("ID", "TENANT", "POOL", "CODE", ">SIZE", ">AGE", "REASON")
    for each in letters:
        made.add_row(
            Text(plainly(each.id)),
            each.tenant or "-",
            each.pool or "-",
            Text(plainly(each.code)),
            size(each.nbytes),
            as_age(each),
            shortened(each.reason),
        )
    return made


def shortened(reason: str) -> Text:
    """As much of it as a table has room for."""
    text = plainly(reason)
    return Text(text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 3] + "...")


def summary(codes: Counter[str], shown: int, count: int, most: int) -> str:
    """How many there are."""
    total = codes.total()
    kinds = ", ".join(f"{number} {code}" for code, number in codes.most_common())
    text = f"{total} of {count} dead letters" + (f": {kinds}" if total else "")
    if shown < total:
        text += f"; the oldest {shown} are shown (--limit)"
    if count > most:
        text += f"; only the oldest {most} were read"
    return text


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """For programs; times in milliseconds since the epoch."""
    return {
        "id": letter.id,
        "tenant": letter.tenant,
        "pool": letter.pool,
        "code": letter.code,
        "reason": letter.reason,
        "by": letter.by,
        "evidence": {name: display.plain(value) for name, value in letter.evidence.items()},
        "buried_ms": letter.buried_ms,
        "published_ms": letter.request.timestamp_ms,
        "routing_key": letter.routing_key,
        "correlation_id": letter.request.correlation_id,
        "reply_to": letter.request.reply_to,
        "nbytes": letter.nbytes,
        "content_type": letter.request.content_type,
        "headers": {name: display.plain(value) for name, value in letter.request.headers.items()},
    }


def in_full(letter: DeadLetter, limits: GraphLimits) -> list[str]:
    """What ``kaasq dead show`` prints: nothing of it obeyed by a terminal, whatever stands in the letter."""
    request = letter.request
    by = "buried by a worker" if letter.by == "worker" else "given up by RabbitMQ"
    lines = [
        f"request {letter.id} of tenant {letter.tenant or 'nobody'}, pool {letter.pool or 'none'}",
        f"  {letter.code}: {letter.reason}",
        f"  {by} {moment(letter.buried_ms)} ({as_age(letter)} ago), published {moment(request.timestamp_ms)}",
        *(f"  {EVIDENCE[name]}: {value}" for name, value in letter.evidence.items()),
        f"  came with key {letter.routing_key!r}; its reply goes to {request.reply_to or 'nobody'}",
        f"  body: {size(letter.nbytes)} of {request.content_type or 'no content type'}",
    ]
    lines += [f"  header {name}: {value}" for name, value in request.headers.items()]
    try:
        lines += _asked(codec.RequestDecoder(limits).read(request.body, request.content_type))
    except KaasqError as error:
        lines.append(f"  it cannot be read: {error.message}")
    return [harmless(each) for each in lines]


def _asked(received: codec.Received) -> Iterator[str]:
    match received:
        case FlowStart(workflow=flow, bind=bind, keep=keep):
            yield f"  workflow {flow.name!r}: {len(flow.steps)} steps"
            for name, bound in bind.items():
                yield f"  input {name}: {f'a list of {len(bound)}' if isinstance(bound, tuple) else _bound(bound)}"
            yield from _kept(keep)
        case FlowCall(flow=asked):
            yield f"  asks for workflow {asked.id!r}: {asked.do}"
        case FlowsCall(flows=sought):
            yield f"  asks which workflows there are{'' if sought.state is None else f': those {sought.state}'}"
        case StepCall(step=due):
            what = "the end" if due.step is None else f"step {due.step!r}, item {due.item},"
            yield f"  {what} of workflow {due.flow!r}"
        case codec.Decoded(request=request):
            yield from _of_graph(request)


def _of_graph(request: Request) -> Iterator[str]:
    graph = request.graph
    if isinstance(graph, str):
        yield f"  graph: by its hash only, {graph[:64]}"
    else:
        kernels = ", ".join(dict.fromkeys(each.kernel for each in graph.launches))
        yield f"  graph {graph.name!r}: {len(graph.launches)} launches of {kernels}"
    for name, bound in request.bind.items():
        yield f"  input {name}: {_bound(bound)}"
    yield from _kept(request.keep)


def _bound(bound: Binding) -> str:
    if isinstance(bound, Stored):
        part = f" from byte {bound.offset} on" if bound.offset else ""
        return f"in the store, {bound.name or bound.ref}{part}"
    return f"{size(len(bound))} in the message"


def _kept(keep: Mapping[str, str]) -> Iterator[str]:
    for name, kept in keep.items():
        yield f"  output {name}: to be kept as {kept!r}"


def as_age(letter: DeadLetter) -> str:
    """For how long it has been dead."""
    seconds = age_of(letter)
    return "-" if seconds is None else age(seconds)
