"""From a workflow and what a user binds to it to what the core can send. May write to the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from kaasq import codec
from kaasq.errors import BadRequest, BufferMissing
from kaasq.flows.model import FlowSpec, FlowStart
from kaasq.flows.start_checks import check_flow_id as check_id
from kaasq.flows.start_checks import check_start
from kaasq.messages import Binding, Stored
from kaasq.model import Buffer, Number
from kaasq.names import check_request_id
from kaasq.settings import Settings
from kaasq_producers.calls import REPLY_GRACE_S
from kaasq_producers.flows.calls import PreparedStart
from kaasq_producers.flows.known import AnyFlow, FlowBook, KnownFlow
from kaasq_producers.inputs import given_groups, too_large
from kaasq_producers.later import Later
from kaasq_producers.references import BufferRef
from kaasq_producers.storing import Storing, checked_timeout
from kaasq_producers.values import Data, InputField, reference

Key = tuple[str, int]
SINGLE = -1  # the index of what is no item of a list


class FlowPreparer:
    """Checks what is bound to workflows, and brings what is too large for a message to the store. Thread-safe."""

    def __init__(self, settings: Settings, storing: Storing) -> None:
        self._settings = settings
        self._storing = storing
        self._book = FlowBook(settings.graph_limits)

    def run(
        self,
        flow: AnyFlow,
        bindings: Mapping[str, Any],
        *,
        timeout: float | None,
        bind: Mapping[str, Any] | None,
        scalars: Mapping[str, Any] | None,
        keep: Mapping[str, str] | None,
    ) -> PreparedStart:
        """A workflow whose end is awaited, ``timeout`` seconds at most. Raises what is wrong."""
        known = self._book.find(flow)
        timeout_s = checked_timeout(self._settings.timeout if timeout is None else timeout)
        groups = given_groups(bindings, bind, scalars)
        body = self._body(known, groups, keep or {}, timeout_s, "ended")
        return PreparedStart(body, known.spec.name, timeout_s, REPLY_GRACE_S + _longer_s(known.spec, timeout_s))

    def start(
        self,
        flow: AnyFlow,
        bindings: Mapping[str, Any],
        *,
        timeout: float | None,
        bind: Mapping[str, Any] | None,
        scalars: Mapping[str, Any] | None,
        keep: Mapping[str, str] | None,
        flow_id: str | None,
    ) -> PreparedStart:
        """A workflow whose beginning is awaited, as long as a request's reply; it has ``timeout`` seconds, or any."""
        if flow_id is not None:
            check_flow_id(flow_id)
        known = self._book.find(flow)
        groups = given_groups(bindings, bind, scalars)
        timeout_s = None if timeout is None else checked_timeout(timeout)
        body = self._body(known, groups, keep or {}, timeout_s, "started")
        return PreparedStart(body, known.spec.name, self._settings.timeout, flow=flow_id, awaits_end=False)

    def _body(
        self,
        known: KnownFlow,
        groups: list[Mapping[str, Any]],
        keep: Mapping[str, str],
        timeout_s: float | None,
        reply: Any,
    ) -> bytes:
        rest = [{name: value for name, value in group.items() if name not in known.lists} for group in groups]
        bound = known.binder.bind(*rest)
        known.binder.keep(bound, keep)
        inline: dict[Key, Data] = {(name, SINGLE): data for name, data in bound.inline.items()}
        stored: dict[Key, Stored] = {(name, SINGLE): each for name, each in bound.stored.items()}
        lasts_s = None if timeout_s is None else timeout_s + _longer_s(known.spec, timeout_s)
        lengths: dict[str, int] = {}
        for name, values in _lists(known, groups):
            for index, value in enumerate(values):
                _bind_item(known.item(name, index), value, (name, index), inline, stored)
            lengths[name] = len(values)
        moved = too_large(inline, self._settings.inline_limit)
        items = sorted(key for key in moved if key[1] != SINGLE)
        singles = [key for key in moved if key[1] == SINGLE]
        for keys, store in ((singles, self._storing.store), (items, self._storing.store_items)):
            put = store([(inline.pop(key), _buffer(known, key)) for key in keys], lasts_s)
            stored.update(zip(keys, put, strict=True))
        given: dict[Key, Any] = {**inline, **stored}
        bind: dict[str, Binding | tuple[Binding, ...]] = {
            name: value for (name, index), value in given.items() if index == SINGLE
        }
        bind |= {name: tuple(given[name, index] for index in range(length)) for name, length in lengths.items()}
        start = FlowStart(
            workflow=known.spec,
            bind=bind,
            scalars=cast(dict[str, Number], bound.scalars),  # nothing that runs earlier is there to be taken
            keep=bound.keep,
            timeout_ms=None if timeout_s is None else max(1, round(timeout_s * 1000)),
            reply=reply,
        )
        check_start(start, known.spec, self._settings.graph_limits)
        return self._encoded(known, start)

    def _encoded(self, known: KnownFlow, start: FlowStart) -> bytes:
        # Encoded once per workflow: a large one takes longer than all else.
        body = codec.encode(_with_encoded(start, known))
        limit = self._settings.message_limit
        if len(body) > limit:
            raise BadRequest(
                f"a message with workflow {known.spec.name!r} has {len(body)} bytes, and may have {limit} "
                f"(message_limit). Its largest steps, in bytes: {known.largest()}. What is bound to an input of the "
                f"workflow goes to the store where it is large; what is bound to a step itself does not",
                at="workflow",
                largest=known.largest(),
            )
        return body


def check_flow_id(flow_id: object) -> str:
    """An id of a workflow. Raises BadRequest for what is none."""
    if not isinstance(flow_id, str):
        raise BadRequest(f"expected the id of a workflow, given a {type(flow_id).__name__}", at="id")
    check_request_id(flow_id)
    check_id(flow_id, "id")
    return flow_id


def _with_encoded(start: FlowStart, known: KnownFlow) -> FlowStart:
    return FlowStart(
        workflow=cast(FlowSpec, known.encoded),
        bind=start.bind,
        scalars=start.scalars,
        keep=start.keep,
        timeout_ms=start.timeout_ms,
        reply=start.reply,
    )


def _lists(known: KnownFlow, groups: list[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What is bound to its list inputs. Raises BadRequest, BufferMissing."""
    for name in known.lists:
        given = [group[name] for group in groups if name in group]
        if len(given) > 1:
            raise BadRequest(f"{name!r} is given twice", at=f"bind.{name}")
        if not given:
            raise BufferMissing(f"nothing is bound to list {name!r}", buffer=name)
        values = given[0]
        if not isinstance(values, (list, tuple)) and not (isinstance(values, np.ndarray) and values.ndim):
            raise BadRequest(
                f"expected a list of what an input takes, or an array with an axis for the items, given a "
                f"{type(values).__name__}",
                at=f"bind.{name}",
            )
        yield name, values


def _bind_item(buffer: Buffer, value: Any, key: Key, inline: dict[Key, Data], stored: dict[Key, Stored]) -> None:
    if isinstance(value, Later):
        raise BadRequest(f"{value!r}: {value.misplaced}", at=f"bind.{buffer.name}")
    if isinstance(value, (BufferRef, Stored)):
        stored[key] = reference(buffer, value)
    else:
        inline[key] = InputField(buffer).data(value)


def _buffer(known: KnownFlow, key: Key) -> Buffer:
    name, index = key
    return known.item(name, index) if index != SINGLE else known.binder.buffer(name)


def _longer_s(spec: FlowSpec, timeout_s: float) -> float:
    """How long after its time a workflow may go on: for steps that mend or run always, which have time of their own."""
    own = [each for each in spec.steps if each.on != "completed"]
    return max((timeout_s if each.timeout_ms is None else each.timeout_ms / 1000 for each in own), default=0.0)
