"""Brings what a request left on the device to the host after all: into the reply, or into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kaasq.messages import Request
from kaasq.model import Buffer, GraphSpec
from kaasq_storage import BufferStore
from kaasq_workers.executor.flight import Produced
from kaasq_workers.executor.resident import Resident


def bring(
    store: BufferStore,
    tenant: str,
    request: Request,
    there: Sequence[Produced],
    held: Mapping[str, Resident],
    room: int,
) -> list[Produced]:
    """All outputs of a request: ``there`` and ``held``. What is kept or does not fit ``room`` is staged in the store.

    Raises KernelFailed, and what the store raises; nothing is staged then.
    """
    assert isinstance(request.graph, GraphSpec)
    given = {each.buffer.name: each for each in there}
    outputs: dict[str, Produced] = {}
    returned = [each for each in request.graph.buffers if each.returned]
    try:
        for buffer in sorted(returned, key=_size):
            inline = buffer.name not in request.keep and buffer.nbytes <= room
            room -= buffer.nbytes if inline else 0
            known = given.get(buffer.name)
            if known is not None and isinstance(known.data, bytearray) == inline:
                outputs[buffer.name] = known
                continue
            made = outputs[buffer.name] = Produced(
                buffer, bytearray(buffer.nbytes) if inline else store.stage(tenant, buffer.nbytes)
            )
            data = memoryview(made.data) if isinstance(made.data, bytearray) else made.data.data
            if known is None:
                held[buffer.name].read(0, data)
            else:
                data[:] = known.data if isinstance(known.data, bytearray) else known.data.data
            if not isinstance(made.data, bytearray):
                del data
                made.data.seal()
    except BaseException:
        for each in outputs.values():
            if not isinstance(each.data, bytearray):
                each.data.discard()
        raise
    return [outputs[each.name] for each in returned]


def _size(buffer: Buffer) -> int:
    return buffer.nbytes
