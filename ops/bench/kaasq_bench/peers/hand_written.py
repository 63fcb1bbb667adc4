"""A worker as one writes it by hand: a blocking pika consumer that computes, replies and acks.

``python -m kaasq_bench.peers.hand_written URL QUEUE noop|saxpy DEVICE [confirms]``. With confirms it waits for the
broker to take the reply before it acks, which is what kaasq does, too; without, a reply may be lost.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pika

from kaasq_bench.sources import SAXPY

PREFETCH = 64
Work = Callable[[bytes], bytes]


def serve(url: str, queue: str, work: Work, *, confirms: bool) -> None:
    """Until killed."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    if confirms:
        channel.confirm_delivery()

    def on_message(ch: Any, method: Any, properties: Any, body: bytes) -> None:
        answer = pika.BasicProperties(correlation_id=properties.correlation_id, delivery_mode=2)
        ch.basic_publish("", properties.reply_to, work(body), answer)
        ch.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, on_message)
    channel.start_consuming()


def noop(body: bytes) -> bytes:
    """What an empty kernel computes."""
    return body


def saxpy_on(device: str) -> Work:
    """2 x + y, where the body is x and y, both of float32: NumPy on the cpu, else CuPy, copies included."""
    return _saxpy_numpy if device == "cpu" else _saxpy_cupy(int(device.partition(":")[2] or 0))


def _saxpy_numpy(body: bytes) -> bytes:
    x, y = np.frombuffer(body, np.float32).reshape(2, -1)
    return (np.float32(2) * x + y).tobytes()


def _saxpy_cupy(index: int) -> Work:
    import cupy

    cupy.cuda.Device(index).use()
    kernel = cupy.RawKernel(SAXPY, "saxpy")
    arrays: dict[int, Any] = {}

    def work(body: bytes) -> bytes:
        given = np.frombuffer(body, np.float32).reshape(2, -1)
        n = given.shape[1]
        if n not in arrays:  # memory is kept from request to request, as one does
            arrays[n] = (cupy.empty(n, np.float32), cupy.empty(n, np.float32), cupy.empty(n, np.float32))
        x, y, out = arrays[n]
        x.set(given[0])
        y.set(given[1])
        kernel((-(-n // 256),), (256,), (np.float32(2), x, y, out, np.int32(n)))
        result: bytes = out.get().tobytes()
        return result

    return work


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the suite's, which then ends this
    _, where, name, what, device_name, *options = sys.argv
    serve(where, name, noop if what == "noop" else saxpy_on(device_name), confirms="confirms" in options)
