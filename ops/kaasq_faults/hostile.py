"""Hostile messages: bytes at random, and valid requests with something changed, in the body or in the properties.

Every one is to be answered or dead-lettered, no process of the worker is to end or to grow, and what comes after them
is to be served. The valid ones call built-ins, which check everything: a changed kernel of one's own is no malformed
message but a kernel that crashes, and each would be compiled.
"""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pika

import kaasq
from kaasq import codec
from kaasq.messages import Request, Stored
from kaasq.topology import DEAD, EVENTS, REPLIES, REQUESTS, reply_key, request_key
from kaasq_faults.members import executors
from kaasq_faults.memory import own_bytes, pss_bytes
from kaasq_faults.rig import Rig

WINDOW = 300  # unanswered at a time
QUIET_S = 60.0
GROWTH_BYTES = 32 << 20  # in the second half: a leak of a kilobyte per message would exceed this
STORE = ", with what it has mapped of the store"  # which grows: every outcome is kept
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**53, 2**64 - 1, 1e308, -0.5, float("nan"), "", "x", "\x00", "../../etc/passwd",
    "a" * 5000, b"", b"\xff" * 64, [], {}, [[]], {"": {}}, [None] * 100, {"name": "guest"}, "\ud7ff", "0" * 64,
)  # fmt: skip
DEEP = 200
NOWHERE = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA0MDgyMjYyOAAAAy8AAAAAawgeGg==.HL7HC5s/CvfarEFKwagXrA=="
"""An answer goes where a request says, so one to this is heard by nobody: it is of another broker."""
KAAS = {
    "kernels": [
        {
            "library": "a/b.cubin",
            "kernel": "k",
            "gridDim": [1, 1, 1],
            "blockDim": [64, 1, 1],
            "sharedSize": 0,
            "literals": [{"type": "i", "val": 64}],
            "arguments": [[{"name": "x", "size": 256, "key": "x", "ephemeral": False, "const": True}, "i"]],
            "nIter": 1,
        }
    ]
}


@dataclass
class HostileReport:
    """What sending them gave."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """Codes of the replies; ``dead`` for dead letters."""
    growth_bytes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def layer() -> kaasq.Graph:
    """Out = relu(a x y^T), one element, and a buffer that nobody has stored."""
    made = kaasq.Graph("faults.hostile")
    x = made.input("x", shape=(1, 64), dtype="float32", const=True)
    y = made.input("y", shape=(1, 64), dtype="float32", const=True)
    z = made.input("z", shape=(1, 1), dtype="float32", const=True)
    t = made.temp("t", shape=(1, 1), dtype="float32")
    out = made.output("out", shape=(1, 1), dtype="float32")
    a = made.scalar("a", "float32", default=2.0)
    made.call("gemm", x, y, t, a, transpose_b=True)
    made.call("add", t, z, out)
    made.iterations = 2
    return made


def bodies(draw: random.Random) -> Iterator[tuple[bytes, str]]:
    """Bodies without end, with their content type."""
    vector = np.ones(64, np.float32).tobytes()
    valid = Request(
        graph=layer().freeze(),
        bind={"x": vector, "y": vector, "z": Stored(name="hostile/none", offset=0)},
        scalars={"a": 1.0},
        keep={"out": "hostile/out"},
        timeout_ms=60_000,
    )
    foreign = {codec.MSGPACK: msgspec.msgpack.encode(KAAS), codec.JSON: msgspec.json.encode(KAAS)}
    own = {codec.MSGPACK: codec.encode(valid), codec.JSON: codec.encode(valid, codec.JSON)}
    while True:
        encoded, plain = (own, msgspec.msgpack.decode(own[codec.MSGPACK])) if draw.random() < 0.7 else (foreign, KAAS)
        content_type = draw.choice((codec.MSGPACK, codec.JSON))
        kind = draw.random()
        if kind < 0.1:
            yield draw.randbytes(draw.randrange(400)), content_type
        elif kind < 0.5:
            yield _scrambled(draw, encoded[content_type]), content_type
        elif kind < 0.52:
            yield _nested(draw, content_type), content_type
        else:
            changed = plain
            for _ in range(draw.choice((1, 1, 1, 2, 3))):
                changed = _changed(draw, changed)
            yield _encoded(changed, content_type), content_type


def properties(draw: random.Random, user: str, reply_id: str, content_type: str) -> pika.BasicProperties:
    """Mostly as they should be."""
    made = pika.BasicProperties(
        user_id=user, message_id=uuid.UUID(int=draw.getrandbits(128)).hex, reply_to=reply_id, content_type=content_type
    )
    match draw.randrange(40):
        case 0:
            made.content_type = draw.choice(("text/html", "", "application/x-msgpack", "\x00" * 20))
        case 1:
            made.message_id = draw.choice((None, "", "x" * 255, "a\nb", "../x"))
        case 2:
            made.headers = {"x-death": [{"count": 10**6}], "traceparent": "z" * 600, "n" * 120: -1}
        case 3:
            made.expiration = draw.choice(("0", "1", "100000"))
        case 4:
            made.timestamp = draw.choice((0, 2**62, 1))
        case 5:
            made.reply_to = draw.choice((None, "UPPER CASE", "a.b.#", "amq.rabbitmq.reply-to.a.b", NOWHERE, "x" * 200))
        case 6:
            made.priority, made.content_encoding, made.type = 255, "gzip", "kaasq.cancel"
        case _:
            pass
    made.correlation_id = uuid.UUID(int=draw.getrandbits(128)).hex  # what it is recognised by, alive or dead
    return made


def run(rig: Rig, count: int) -> HostileReport:
    """Send so many while the rig's clients go on."""
    report = HostileReport()
    draw = random.Random(rig.seed)
    before = _sizes(rig)
    pids = {worker.name: worker.pid for worker in rig.workers}
    warm = count // 2  # a worker remembers the last 1024 graphs, 256 MiB of them at most: it fills that first
    sender = _Sender(rig, report)
    made = bodies(draw)
    for number in range(count):
        if number == warm:
            sender.wait()
            before = _sizes(rig)
        body, content_type = next(made)
        sender.send(body, properties(draw, sender.user, sender.reply_id, content_type))
    sender.wait()
    missing = sender.close()
    if missing:
        some = "\n".join(missing[:10])
        report.problems.append(f"{len(missing)} of {count} were neither answered nor dead-lettered:\n{some}")
    for name, size in _sizes(rig).items():
        report.growth_bytes[name] = size - before.get(name, 0)
        if report.growth_bytes[name] > GROWTH_BYTES and not name.endswith(STORE):
            report.problems.append(f"{name} grew by {report.growth_bytes[name] >> 20} MiB")
    for worker in rig.workers:
        deaths = [each for each in worker.events() if each["event"] in {"executor.died", "request.broke"}]
        if deaths or worker.pid != pids[worker.name]:
            report.problems.append(f"{worker.name} lost a process: {deaths[:3]}")
    return report


class _Sender:
    """Publishes, and takes replies and dead letters."""

    def __init__(self, rig: Rig, report: HostileReport) -> None:
        self.user = urlsplit(rig.node.url).username or "guest"
        self.reply_id = f"hostile-{rig.pool}"
        self._report = report
        self._key = request_key(self.user, rig.pool)
        self._open: dict[str, tuple[pika.BasicProperties, bytes]] = {}
        self._connection = pika.BlockingConnection(pika.URLParameters(rig.node.url))
        self._channel: Any = self._connection.channel()
        wanted = ((REPLIES, reply_key(self.user, self.reply_id)), (DEAD, "#"), (EVENTS, f"{self.user}.#"))
        for exchange, pattern in wanted:
            queue = f"hostile.{exchange}.{rig.pool}"
            self._channel.queue_declare(queue, exclusive=True)
            self._channel.queue_bind(queue, exchange, pattern)
            self._channel.basic_consume(queue, self._heard, auto_ack=True)

    def send(self, body: bytes, sent: pika.BasicProperties) -> None:
        """Publish one; wait for others to be answered first if there are many."""
        if sent.reply_to != NOWHERE:
            self._open[sent.correlation_id or ""] = (sent, body)
        else:
            self._report.answers["nowhere"] += 1
        self._channel.basic_publish(REQUESTS, self._key, body, sent)
        self._report.sent += 1
        if len(self._open) >= WINDOW:
            self._until(WINDOW // 2)

    def wait(self) -> None:
        """Until all are answered, or nothing has come for long."""
        self._until(0)

    def close(self) -> list[str]:
        """Those that were never heard of."""
        self._connection.close()
        return [f"{sent} {body[:200]!r}" for sent, body in self._open.values()]

    def _until(self, most: int) -> None:
        count, since = len(self._open), time.monotonic()
        while len(self._open) > most and time.monotonic() - since < QUIET_S:
            self._connection.process_data_events(time_limit=0.2)
            if len(self._open) < count:
                count, since = len(self._open), time.monotonic()

    def _heard(self, _channel: Any, method: Any, given: Any, body: bytes) -> None:
        key = given.correlation_id or ""
        if key not in self._open:
            return
        if method.exchange == EVENTS and self._open[key][0].reply_to is not None:
            return
        del self._open[key]
        if method.exchange != REPLIES:
            self._report.answers["dead" if method.exchange == DEAD else "event"] += 1
            return
        reply = codec.decode_reply(body, given.content_type)
        self._report.answers["ok" if reply.error is None else reply.error.code] += 1


def _sizes(rig: Rig) -> dict[str, int]:
    found: dict[str, int] = {}
    for worker in rig.workers:
        found[f"{worker.name} front"] = own_bytes(worker.pid)
        for number, pid in enumerate(executors(worker.pid)):
            found[f"{worker.name} executor {number}"] = own_bytes(pid)
            found[f"{worker.name} executor {number}{STORE}"] = pss_bytes(pid)
    return found


def _scrambled(draw: random.Random, body: bytes) -> bytes:
    """Bytes changed, cut out, doubled, or the rest missing."""
    made = bytearray(body)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(made))
        match draw.randrange(4):
            case 0:
                made[at] = draw.randrange(256)
            case 1:
                made[at:at] = made[at : at + draw.randrange(40)]
            case 2:
                del made[at : at + draw.randrange(1, 40)]
            case _:
                made[at] ^= 1 << draw.randrange(8)
        if not made:
            break
    return bytes(made[: draw.randrange(len(made) + 1)] if draw.random() < 0.1 else made)


def _changed(draw: random.Random, value: Any) -> Any:
    """The same with something odd at one place, at any depth."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        match draw.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, draw.choice(("", "x", "graph", "name", "nbytes", "\x00")): draw.choice(ODD)}
            case _:
                return {**value, key: _changed(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        match draw.randrange(12):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value + value[at : at + 1] * draw.choice((1, 3, 2000))
            case _:
                return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]
    return draw.choice(ODD)


def _nested(draw: random.Random, content_type: str) -> bytes:
    depth = draw.choice((DEEP, 20_000))
    if content_type == codec.JSON:
        return draw.choice((b"[", b'{"graph":')) * depth
    return draw.choice((b"\x91", b"\x81\xa1g")) * depth


def _encoded(value: Any, content_type: str) -> bytes:
    try:
        if content_type == codec.MSGPACK:
            return msgspec.msgpack.encode(value)
        return msgspec.json.encode(value)
    except (OverflowError, ValueError, TypeError):
        return np.random.default_rng(0).bytes(16)
