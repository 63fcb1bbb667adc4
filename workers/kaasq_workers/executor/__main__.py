"""The executor process: settings as JSON on standard input, its end of the socket and the page of vitals by number."""

from __future__ import annotations

import ctypes
import signal
import socket
import sys

import msgspec

from kaasq.log import configure
from kaasq.settings import Settings
from kaasq_workers.executor.heart import Heart
from kaasq_workers.executor.opening import serve
from kaasq_workers.link import Vitals

EXIT_UNANSWERED = 3  # the front then sees to who is to blame
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its front dies, even inside an endless kernel. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the front, which then closes the socket
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    configure(settings.log_level, settings.log_format)
    vitals = Vitals(int(sys.argv[2]))
    with Heart(vitals):
        answered = serve(socket.socket(fileno=int(sys.argv[1])), vitals, settings)
    sys.exit(0 if answered else EXIT_UNANSWERED)
