"""The executor process: its end of the socket and the page of vitals by number, and the device it will be for.

It loads everything first, then waits for its orders, as JSON on standard input: until then it is a spare.
"""

from __future__ import annotations

import signal
import socket
import sys

import msgspec

from kaasq.log import configure
from kaasq_workers.devices.opening import load_device
from kaasq_workers.executor.heart import Heart
from kaasq_workers.executor.opening import serve
from kaasq_workers.link import GAVE_UP, Orders
from kaasq_workers.parent import die_with_parent
from kaasq_workers.vitals import Vitals

EXIT_UNANSWERED = 3  # the front then sees to who is to blame


def main(socket_fd: int, vitals_fd: int, device: str) -> int:
    """The exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the front, which then closes the socket
    load_device(device)
    text = sys.stdin.buffer.read()
    if not text:  # the front has ended, or wants no spare any more
        return 0
    orders = msgspec.json.decode(text, type=Orders)
    configure(orders.settings.log_level, orders.settings.log_format)
    vitals = Vitals(vitals_fd)
    with Heart(vitals):
        answered = serve(socket.socket(fileno=socket_fd), vitals, orders)
    return GAVE_UP if answered else EXIT_UNANSWERED


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
