"""What a due step is bound to: inputs of its workflow and outputs of steps that have ended, whole or in parts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from kaasq import codec
from kaasq.dtypes import itemsize, unpack_number
from kaasq.errors import BadRequest, BufferMissing, BufferSize, NameNotFound, WorkerFailed
from kaasq.flows.model import FlowSpec, FlowStart, FlowStep, From, Value
from kaasq.ids import following_id
from kaasq.messages import Binding, Output, Reply, Stored
from kaasq.model import Buffer, Number
from kaasq_storage import BufferStore, Outcome
from kaasq_workers.flows.records import Book, Head

REPLIES = 256  # kept decoded: all items of a map take the output of the step before it
REPLY_BYTES = 1 << 20  # no larger ones

Find = Callable[[str, str], Outcome | None]
Fresh = Mapping[str, memoryview]
"""Contents by hash of objects that are being published, and cannot be read from the store yet."""


class Piece(NamedTuple):
    """So many bytes of what a source holds: given, from ``offset`` on in a stored object, or zeros."""

    nbytes: int
    data: bytes | None = None
    stored: Stored | None = None
    offset: int = 0


class Replies:
    """The replies of steps that have completed, from their outcomes. For any thread.

    Of each run of a workflow by itself: once one is forgotten, another may have its id, and its steps theirs.
    """

    def __init__(self, store: BufferStore) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str, int, str], Reply] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, tenant: str, head: Head, request_id: str, find: Find | None = None) -> Reply:
        """Raises BufferMissing if the outcome is gone. ``find``: where else than in the store to look for it."""
        key = (tenant, request_id, head.started_ms, head.digest)
        with self._lock:
            reply = self._kept.get(key)
            if reply is not None:
                self._kept.move_to_end(key)
        if reply is None:
            outcome = (find or self._store.outcome)(tenant, request_id)
            if outcome is None:
                raise BufferMissing(
                    f"the outcome of {request_id}, an earlier step, is gone: outcomes are kept for result_ttl",
                    buffer=request_id,
                )
            reply = codec.decode_reply(outcome.reply, codec.MSGPACK)
            if find is None and len(outcome.reply) <= REPLY_BYTES:
                with self._lock:
                    self._kept[key] = reply
                    if len(self._kept) > REPLIES:
                        self._kept.popitem(last=False)
        return reply


class Sources:
    """Of one workflow, as its records are now. ``find``: where to look for outcomes, if not in the store."""

    def __init__(
        self, replies: Replies, store: BufferStore, tenant: str, flow: str, start: FlowStart, book: Book,
        find: Find | None = None, fresh: Fresh | None = None,
    ) -> None:  # fmt: skip
        self._replies = replies
        self._store = store
        self._tenant = tenant
        self._flow = flow
        self._start = start
        self._spec: FlowSpec = start.workflow
        self._book = book
        self._find = find
        self._fresh = fresh or {}

    def number(self, value: Value, item: int) -> Number:
        """A number: of the workflow, of an output, of a map. Raises BufferMissing, BadRequest."""
        if value.item:
            return item
        if value.count is not None:
            return self._book.head.counts[value.count]
        if value.scalar is not None:
            given = self._start.scalars.get(value.scalar)
            if given is None:
                given = next(each.default for each in self._spec.scalars if each.name == value.scalar)
            assert given is not None
            return given
        assert value.step is not None
        assert value.output is not None
        output = self._output(value.step, value.output, item)
        if output is None:
            raise BadRequest(f"step {value.step!r} has not completed, so its output {value.output!r} has no number")
        assert output.dtype is not None
        size = itemsize(output.dtype)
        at = (value.index or 0) * size
        return unpack_number(output.dtype, self._bytes([_of(output)], at, size))

    def binding(self, spec: FlowStep, source: bytes | From, buffer: Buffer, item: int) -> Binding:
        """What an input of a step is bound to. Raises BufferMissing, BufferSize and what the store raises."""
        if isinstance(source, bytes):
            return source
        if source.ref is not None or source.name is not None:
            at = (source.offset or 0) + item * buffer.nbytes if source.each else source.offset
            return Stored(ref=source.ref, name=source.name, offset=at)
        if source.input is not None and source.offset is None:
            given = self._start.bind[source.input]
            if isinstance(given, tuple) and source.each:
                return given[item]
            if not isinstance(given, tuple) and not source.each:
                return given
        same_item = source.each and source.step is not None and self._in_map(spec, source.step)
        pieces = list(self._pieces(spec, source, item))
        at = (source.offset or 0) + (item * buffer.nbytes if source.each and not same_item else 0)
        held = sum([each.nbytes for each in pieces])
        if at == 0 and len(pieces) == 1 and held == buffer.nbytes:
            return self._whole(pieces[0])
        gathered = self._is_gathered(spec, source)
        if held > buffer.nbytes and gathered and not source.each and source.offset is None:
            raise BufferSize(
                f"buffer {buffer.name!r} is declared with {buffer.nbytes} bytes, but all items together have {held}",
                buffer=buffer.name,
                expected=buffer.nbytes,
                given=held,
            )
        if at + buffer.nbytes > held and not (gathered and not source.each):
            raise BufferSize(
                f"buffer {buffer.name!r} takes {buffer.nbytes} bytes from offset {at} on, but there are {held}",
                buffer=buffer.name,
                expected=at + buffer.nbytes,
                given=held,
            )
        return self._part(pieces, at, buffer.nbytes)

    def brought(self, binding: Binding, nbytes: int) -> Binding:
        """The bytes themselves of what lies in the store under its hash, if they are there."""
        if not isinstance(binding, Stored) or binding.ref is None:
            return binding
        at = binding.offset or 0
        try:
            with self._store.open(self._tenant, binding.ref) as reading:
                if not at + nbytes <= reading.data.nbytes or (binding.offset is None and reading.data.nbytes != nbytes):
                    return binding  # who places it says what is wrong
                with reading.data[at : at + nbytes] as part:
                    return bytes(part)
        except NameNotFound:
            return binding

    def gathered(self, source: From) -> tuple[list[Piece], Buffer | None, int | None]:
        """What an output of the workflow consists of; its buffer; of a step in a map, how many items there are."""
        if source.step is None:
            return list(self._given(source)), None, None
        step = self._spec.step(source.step)
        assert step is not None
        buffer = None if source.output is None else self._spec.graph_of(step).buffer(source.output)
        pieces = list(self._pieces(step, source, 0)) if step.map is None else list(self._all(source))
        return pieces, buffer, None if step.map is None else len(pieces)

    def fill(self, pieces: Sequence[Piece], data: memoryview) -> None:
        """Write the pieces one after the other, and zeros behind them."""
        at = 0
        for each in pieces:
            self._copy(each, 0, data[at : at + each.nbytes])
            at += each.nbytes
        data[at:] = bytes(len(data) - at)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _pieces(self, spec: FlowStep, source: From, item: int) -> Iterable[Piece]:
        if source.mask is not None:
            number = self._spec.number_of(source.mask)
            states = [record.state == "completed" for _, record in self._book.items(number)]
            mask = bytes(states)
            return [Piece(len(mask), mask)]
        if source.step is None:
            return self._given(source)
        taken = self._spec.step(source.step)
        assert taken is not None
        if taken.map is not None and not (source.each and self._in_map(spec, source.step)):
            return self._all(source)
        assert source.output is not None
        output = self._output(source.step, source.output, item)
        if output is None:
            declared = self._spec.graph_of(taken).buffer(source.output)
            assert declared is not None
            return [Piece(declared.nbytes)]
        return [_of(output)]

    def _given(self, source: From) -> Iterator[Piece]:
        """An input of the workflow, or of a list all items."""
        assert source.input is not None
        given = self._start.bind[source.input]
        declared = self._spec.input(source.input)
        assert declared is not None
        for each in given if isinstance(given, tuple) else (given,):
            if isinstance(each, bytes):
                yield Piece(len(each), each)
            else:
                yield Piece(declared.nbytes, stored=each, offset=each.offset or 0)

    def _all(self, source: From) -> Iterator[Piece]:
        """All items' outputs of a step in a map."""
        assert source.step is not None
        assert source.output is not None
        number = self._spec.number_of(source.step)
        declared = self._spec.graph_of(self._spec.steps[number]).buffer(source.output)
        assert declared is not None
        for item, _ in self._book.items(number):
            output = self._output(source.step, source.output, item)
            yield Piece(declared.nbytes) if output is None else _of(output)

    def _output(self, step: str, output: str, item: int) -> Output | None:
        """An output of a step that has ended; None if it has not completed."""
        number = self._spec.number_of(step)
        spec = self._spec.steps[number]
        if self._book.step(number).items is None:
            return None
        record = self._book.item(number, item if spec.map is not None else 0)
        if record.state != "completed":
            return None
        reply = self._replies.of(self._tenant, self._book.head, following_id(self._flow, record.number), self._find)
        found = reply.outputs.get(output)
        if found is None:
            raise WorkerFailed(f"the outcome of step {step!r} lacks its output {output!r}")
        return found

    def _in_map(self, spec: FlowStep, other: str) -> bool:
        taken = self._spec.step(other)
        return taken is not None and spec.map is not None and taken.map == spec.map

    def _is_gathered(self, spec: FlowStep, source: From) -> bool:
        """Whether it is as long as a map has items."""
        if source.mask is not None:
            return True
        if source.input is not None:
            return isinstance(self._start.bind[source.input], tuple)
        taken = None if source.step is None else self._spec.step(source.step)
        return taken is not None and taken.map is not None and not (source.each and self._in_map(spec, taken.name))

    def _whole(self, piece: Piece) -> Binding:
        if piece.data is not None:
            return piece.data
        if piece.stored is not None:
            return piece.stored
        return bytes(piece.nbytes)

    def _part(self, pieces: Sequence[Piece], at: int, nbytes: int) -> Binding:
        """That part of the pieces: where it lies, if that is in one stored object, else its bytes."""
        start = 0
        for each in pieces:
            if each.stored is not None and start <= at and at + nbytes <= start + each.nbytes:
                return msgspec.structs.replace(each.stored, offset=each.offset + at - start)
            start += each.nbytes
        return self._bytes(pieces, at, nbytes)

    def _bytes(self, pieces: Sequence[Piece], at: int, nbytes: int) -> bytes:
        """That part of the pieces, and zeros behind them."""
        data = bytearray(nbytes)
        view, done = memoryview(data), 0
        for each in pieces:
            if at >= each.nbytes:
                at -= each.nbytes
                continue
            take = min(each.nbytes - at, nbytes - done)
            self._copy(each, at, view[done : done + take])
            at, done = 0, done + take
            if done == nbytes:
                break
        return bytes(data)

    def _copy(self, piece: Piece, at: int, into: memoryview) -> None:
        if piece.data is not None:
            into[:] = piece.data[at : at + into.nbytes]
        elif piece.stored is not None:
            ref = piece.stored.ref
            if ref is None:
                ref = self._store.lookup(self._tenant, name=piece.stored.name).ref
            start = piece.offset + at
            if ref in self._fresh:
                into[:] = self._fresh[ref][start : start + into.nbytes]
                return
            with self._store.open(self._tenant, ref) as reading, reading.data[start : start + into.nbytes] as part:
                into[:] = part


def _of(output: Output) -> Piece:
    if output.inline is not None:
        return Piece(output.nbytes, output.inline)
    return Piece(output.nbytes, stored=Stored(ref=output.ref))
