"""An executor that serves in a thread, and its front's end, which a test plays."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kaasq.messages import WorkerInfo
from kaasq.settings import Settings
from kaasq_storage import BufferStore
from kaasq_workers.channel import BlockingChannel, FrameReader, frame
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.serving import Executor
from kaasq_workers.link import Answer, FromExecutor, Job
from kaasq_workers.vitals import Vitals


class Serving:
    """An executor that serves, and its front's end."""

    def __init__(self, sock: socket.socket, vitals: Vitals) -> None:
        self._sock = sock
        self.vitals = vitals
        self._reader = FrameReader(FromExecutor)
        self._answers: list[Answer] = []

    def send(self, *jobs: Job) -> None:
        self._sock.sendall(frame(jobs))

    @property
    def silent(self) -> bool:
        """Whether nothing has been told since."""
        return not self._answers and not select.select([self._sock], [], [], 0)[0]

    def answers(self, count: int) -> list[Answer]:
        """The next ones."""
        while len(self._answers) < count:
            self._answers += self._reader.feed(self._sock.recv(1 << 20))
        answers, self._answers = self._answers[:count], self._answers[count:]
        return answers


@contextmanager
def serving(store: BufferStore, device: Device, **changes) -> Iterator[Serving]:
    worker = WorkerInfo(host="h", pid=1, device="cpu", store=store.id)
    executor = Executor(device, store, Settings(**{"pool": "p", "chain_spill": 10.0, **changes}), worker)
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    vitals = Vitals.create()[0]
    thread = threading.Thread(target=lambda: executor.serve(BlockingChannel(theirs), vitals))
    thread.start()
    try:
        yield Serving(ours, vitals)
    finally:
        ours.close()
        thread.join(20)
        theirs.close()
        executor.close()
