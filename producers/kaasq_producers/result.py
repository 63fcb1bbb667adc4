"""A request's result: a mapping from outputs to NumPy arrays, made when they are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kaasq.errors import BufferMissing, KaasqError, NameNotFound, WorkerFailed
from kaasq.messages import CacheUse, Output, Reply, Timings, WorkerInfo
from kaasq.model import GraphSpec
from kaasq_producers.buffers import Array, Buffers, missing, owned
from kaasq_producers.references import BufferRef
from kaasq_producers.steps import NONE, Steps

NOBODY = WorkerInfo(host="?", pid=0, device="?")


class Refs(dict[str, BufferRef]):
    """The outputs of a reply that lie in the store. Of others it says where they are."""

    def __init__(self, reply: Reply) -> None:
        self._outputs = list(reply.outputs)
        super().__init__({name: reference(each) for name, each in reply.outputs.items() if each.ref is not None})

    def __missing__(self, name: str) -> BufferRef:
        if name not in self._outputs:
            raise KeyError(absent(name, self._outputs))
        raise KeyError(
            f"output {name!r} is not in the store: outputs up to inline_limit come with the reply. Bind "
            f"result[{name!r}] itself, or have it kept under a name: {name}=Keep('...')"
        )


class Result(Mapping[str, Array]):
    """What a request produced: ``result["out"]`` is a NumPy array with the declared dtype and shape.

    Small outputs came with the reply; large and kept ones are read from the store at first access. Arrays are
    writable and own their memory. Pickling (or copying) reads all of them first. What an AsyncClient gives was read
    already and never does I/O; see its ``fetch``.
    """

    __slots__ = ("_arrays", "_buffers", "_graph", "_reply", "_sealed", "elapsed", "then")

    elapsed: float
    """Seconds from submitting to the reply, as this client saw it."""

    then: Steps[Any]
    """What follows: the futures of its continuations, by name or place. A pickled result has none."""

    def __init__(
        self,
        reply: Reply,
        graph: GraphSpec,
        buffers: Buffers | None = None,
        elapsed: float = 0.0,
        then: Steps[Any] = NONE,
    ) -> None:
        self._reply = reply
        self._graph = graph
        self._buffers = buffers
        self._arrays: dict[str, Array] = {}
        self._sealed = False
        self.elapsed = elapsed
        self.then = then

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._reply.id

    @property
    def timings(self) -> Timings:
        """Where the worker's time went, in microseconds."""
        return self._reply.timings

    @property
    def cache(self) -> CacheUse:
        """How many inputs and modules were on the device already."""
        return self._reply.cache

    @property
    def worker(self) -> WorkerInfo:
        """Who ran it: host, pid, device, store."""
        return self._reply.worker or NOBODY

    @property
    def runs(self) -> int:
        """How often its graph ran: once, but for a loop."""
        return 1 if self._reply.repeat is None else self._reply.repeat.runs

    @property
    def held(self) -> bool:
        """Whether the condition of its loop held in the end, and not only ``most`` was reached. True without a loop."""
        return self._reply.repeat is None or self._reply.repeat.held

    @property
    def refs(self) -> dict[str, BufferRef]:
        """The outputs that lie in the store, to be bound to the next graph without reading them here: those that are
        large (``inline_limit``) or kept under a name. The others came with the reply.
        """
        return Refs(self._reply)

    @property
    def unread(self) -> list[str]:
        """The outputs that lie in the store, but for those that were kept there under a name, and were not read."""
        return [
            name
            for name, each in self._reply.outputs.items()
            if each.inline is None and each.name is None and name not in self._arrays
        ]

    def read(self, names: Iterable[str] | None = None) -> None:
        """Read those outputs from the store now, or all of them. Raises NameNotFound, StoreUnavailable."""
        for name in self._reply.outputs if names is None else names:
            if name not in self._arrays:
                self._arrays[name] = self._array(name, self._reply.outputs[name], reading=True)

    def seal(self) -> None:
        """From now on looking at an output does no I/O: what lies in the store and was not read is an error."""
        self._sealed = True

    def __getitem__(self, name: str) -> Array:
        array = self._arrays.get(name)
        if array is None:
            output = self._reply.outputs.get(name)
            if output is None:
                raise KeyError(absent(name, self._reply.outputs))
            array = self._arrays[name] = self._array(name, output, reading=not self._sealed)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._reply.outputs)

    def __len__(self) -> int:
        return len(self._reply.outputs)

    def __eq__(self, other: object) -> bool:  # a mapping's would compare arrays, which have no single answer
        return self is other

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        # Everything is read now, since neither store nor graph come along; the graph only says dtypes and shapes.
        return _restored, (self._reply.without_inline(), self._graph.name, self.elapsed, dict(self))

    def __repr__(self) -> str:
        worker = self.worker
        return (
            f"<Result {self.request_id} {self._outputs()}; kernel {self.timings.kernel} us of {self.timings.total} us "
            f"on {worker.host} {worker.device}>"
        )

    def _outputs(self) -> str:
        return f"{{{', '.join(f'{name}: {_described(each)}' for name, each in self._reply.outputs.items())}}}"

    def _array(self, name: str, output: Output, *, reading: bool) -> Array:
        buffer = self._graph.buffer(name)
        dtype = output.dtype or (buffer.dtype if buffer else None)
        shape = output.shape if output.shape is not None else (buffer.shape if buffer else None)
        try:
            if output.inline is not None:
                return owned(output.inline, dtype, shape)
            if not reading:
                raise BufferMissing(
                    f"output {name!r} lies in the store, and looking at it does not read it in an event loop: "
                    f"`await client.fetch(result)` first, or bind result.refs[{name!r}] to another graph",
                    buffer=name,
                    ref=output.ref,
                )
            return self._stored(name, output, dtype, shape)
        except ValueError as error:
            raise WorkerFailed(
                f"output {name!r} came with bytes that are not {dtype} {shape}: {error}", buffer=name
            ) from None

    def _stored(self, name: str, output: Output, dtype: str | None, shape: tuple[int, ...] | None) -> Array:
        if output.ref is None:
            raise WorkerFailed(f"the reply has neither bytes nor a ref for output {name!r}", buffer=name)
        if self._buffers is None:
            raise BufferMissing(
                f"output {name!r} lies in the worker's store (ref {output.ref}), and this client has no store",
                buffer=name,
                ref=output.ref,
            )
        try:
            return self._buffers.read(output.ref, dtype, shape)
        except NameNotFound as error:
            raise missing(error, self._buffers, self.worker.store) from None


def absent(name: object, outputs: Iterable[str]) -> str:
    """What is said of an output that there is not."""
    return f"no output {name!r}; there are {', '.join(map(repr, outputs)) or 'none'}"


def _restored(reply: Reply, graph: str, elapsed: float, arrays: dict[str, Array]) -> Result:
    """A pickled result: all its outputs are at hand, so it needs neither store nor graph."""
    result = Result(reply, GraphSpec(name=graph), None, elapsed)
    result._arrays.update(arrays)
    return result


def failure(reply: Reply, buffers: Buffers | None = None) -> KaasqError:
    """The exception for a reply that is not ok, with the request's id among its fields."""
    if reply.error is None:
        error = KaasqError(f"request {reply.id} ended as {reply.status}, without a reason")
    else:
        error = reply.error.exception()
    if isinstance(error, BufferMissing) and buffers is not None and reply.worker is not None:
        error = missing(error, buffers, reply.worker.store)
    error.detail.setdefault("request_id", reply.id)
    return error


def reference(output: Output) -> BufferRef:
    """An output that lies in the store, as a user holds it."""
    assert output.ref is not None
    return BufferRef(
        ref=output.ref,
        nbytes=output.nbytes,
        dtype=output.dtype,
        shape=output.shape,
        name=output.name,
        version=output.version,
    )


def _described(output: Output) -> str:
    if output.dtype is None:
        return f"{output.nbytes} bytes"
    return output.dtype if output.shape is None else f"{output.dtype} {output.shape}"
