"""Answers questions about workflows in the executor's place: a process of its own, for the front of a worker.

It only reads the store, and runs nobody's code. What an executor broke in the store ends this process, not the front.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from kaasq import codec
from kaasq.errors import KaasqError
from kaasq.messages import WorkerInfo
from kaasq_storage import open_store
from kaasq_workers.channel import RECEIVE_BYTES, FrameReader, frame
from kaasq_workers.flows.asked import Informed
from kaasq_workers.link import ANSWER_BYTES, Job, Said
from kaasq_workers.parent import die_with_parent


def said(informed: Informed, job: Job) -> Said:
    """The reply, encoded. Empty: the executor is to answer, of what has not ended, cannot be read, or is too large."""
    try:
        reply = informed.reply(job)
    except (KaasqError, msgspec.MsgspecError, ValueError, KeyError, IndexError, OSError):
        return Said(job.tag)
    encoded = b"" if reply is None else codec.encode(reply, codec.reply_type(job.body, job.content_type))
    return Said(job.tag, encoded if len(encoded) <= ANSWER_BYTES else b"")


def main(socket_fd: int, path: Path, device: str) -> int:
    """The exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the front, which then closes the socket
    if not path.is_dir():
        return 1  # no executor has made it yet: then there is nothing to tell
    sock, frames = socket.socket(fileno=socket_fd), FrameReader(Job)
    try:
        with open_store(path) as store:
            worker = WorkerInfo(host=socket.gethostname(), pid=os.getpid(), device=device, store=store.id)
            informed = Informed(store, worker)
            while data := sock.recv(RECEIVE_BYTES):
                for job in frames.feed(data):
                    sock.sendall(frame([said(informed, job)]))
    except (KaasqError, OSError) as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
