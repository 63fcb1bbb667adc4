"""``kaasq doctor``: checks whatever a request passes on its way, and says how to mend what is broken."""

from __future__ import annotations

import json
import queue
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kaasq import codec
from kaasq.broker import Broker, Delivery, Done, Message, wait_for
from kaasq.cli import settings_options
from kaasq.errors import (
    BadRequest,
    BrokerLost,
    DeviceUnavailable,
    KaasqError,
    ModuleRejected,
    ReplyTimeout,
    Unroutable,
)
from kaasq.graph import Graph
from kaasq.ids import new_id
from kaasq.log import configure
from kaasq.messages import Request
from kaasq.model import GraphSpec, Module
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings, load_settings
from kaasq.topology import REQUESTS, reply_queue, reply_topology, request_key
from kaasq.units import size
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.gpus import count_gpus
from kaasq_workers.devices.opening import open_device
from kaasq_workers.executor.engine import Engine

CHECK_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
LOW_DISK_BYTES = 1 << 30

_GPU_HINT = "With an NVIDIA GPU and driver: install the extra cuda13 (or cuda12, by the driver's version)."
_PROBE = 'extern "C" __global__ void probe(int* out) { out[threadIdx.x] = threadIdx.x + 1; }'


class Finding(msgspec.Struct, frozen=True):
    """What one check found. ``mend`` says what to do, where something is to be done."""

    check: str
    state: Literal["ok", "warning", "broken"]
    found: str
    mend: str = ""


@click.command(short_help="Check broker, store, worker, compiler and devices.")
@settings_options("broker_url", "store", "pool")
@click.option("--device", metavar="NAME", help="Check this device only (default: the CPU and every GPU).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool, **flags: Any) -> None:
    """Check store, broker, permissions, workers, compiler and devices, and say how to mend each.

    Exits 1 if something is broken. It sends one tiny request to the pool and makes the store's folder if there is none.
    """
    settings = load_settings(flags)
    configure("error", "console")  # what is found is told in the table
    findings: list[Finding] = []
    console = Console(stderr=as_json)
    with console.status("checking ..."):
        findings.extend(examine(settings, flags.get("device")))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings), indent=2))
    else:
        console.print(_table(findings))
    sys.exit(any(each.state == "broken" for each in findings))


def examine(settings: Settings, device: str | None = None) -> Iterator[Finding]:
    """Run every check."""
    store: BufferStore | None = None
    try:
        store = open_store(settings.store_path, capacity=settings.store_capacity, sync=settings.store_sync)
        yield from check_store(store)
    except KaasqError as error:
        yield Finding("store", "broken", error.message, "Name another folder with --store or KAASQ_STORE.")
    yield from check_broker(settings, store.id if store else None)
    if store is None:
        return
    try:
        gpus = count_gpus()
        for name in [device] if device else ["cpu", *(f"cuda:{index}" for index in range(gpus))]:
            yield check_device(settings, store, name)
        if not gpus and not device:
            yield Finding("gpu", "warning", "none that kaasq can use", _GPU_HINT)
    finally:
        store.close()


def check_broker(settings: Settings, store_id: str | None) -> Iterator[Finding]:
    """Connection, permissions, and whether a worker of the pool answers."""
    try:
        broker = RabbitBroker(settings.broker_url, connection_name="kaasq doctor")
        broker.open(min(settings.connect_timeout, CONNECT_TIMEOUT_S))
    except KaasqError as error:
        hint = (
            "Start one (docker run -p 5672:5672 rabbitmq:4, or apt-get install rabbitmq-server), or name yours with "
            "--broker or KAASQ_BROKER_URL."
            if isinstance(error, BrokerLost)
            else "Correct form, user, password and virtual host of the URL, or have the user given access."
        )
        yield Finding("broker", "broken", error.message, hint)
        return
    try:
        yield Finding("broker", "ok", f"connected as {broker.tenant}")
        permissions = _permissions(broker)
        yield permissions
        if permissions.state == "ok":
            yield from _request(broker, settings, store_id)
    finally:
        broker.close()


def check_store(store: BufferStore) -> Iterator[Finding]:
    """Write, read, room."""
    try:
        started = time.perf_counter()
        stored, _ = store.put("doctor", new_id().encode(), ttl_s=1.0)
        store.delete("doctor", ref=stored.ref)
        took_ms = (time.perf_counter() - started) * 1e3
    except KaasqError as error:
        yield Finding("store", "broken", error.message, "See --store; 'kaasq gc' and 'kaasq rm' make room.")
        return
    usage = store.usage()
    free = shutil.disk_usage(store.path).free
    found = (
        f"{store.path}: {size(usage.used)} of {size(usage.capacity)} in {usage.objects} objects, "
        f"written in {took_ms:.1f} ms"
    )
    if free < LOW_DISK_BYTES:
        yield Finding("store", "warning", f"{found}; only {size(free)} left on the disk", "Make room on that disk.")
    elif free < usage.capacity - usage.used:
        yield Finding(
            "store",
            "warning",
            f"{found}; the disk has {size(free)} left, less than the store may take",
            "Lower store_capacity, or use a larger disk, so that the store and not the disk is the limit.",
        )
    else:
        yield Finding("store", "ok", found)


def check_device(settings: Settings, store: BufferStore, name: str) -> Finding:
    """Compile a kernel, run it, compare."""
    spec = _probe()
    try:
        device = open_device(msgspec.structs.replace(settings, device=name))
        try:
            started = time.perf_counter()
            engine = Engine(device, store, inline_limit=settings.inline_limit)
            executed = engine.run("doctor", spec, Request(graph=spec))
            took_ms = (time.perf_counter() - started) * 1e3
            data = executed.outputs[0].data
            right = isinstance(data, bytearray) and np.frombuffer(data, np.int32).tolist() == list(range(1, 33))
            description = f"{device.description}, {size(device.limits.memory)}"
        finally:
            device.close()
    except KaasqError as error:
        return Finding(name, "broken", error.message.splitlines()[0], _mend(error))
    if not right:
        return Finding(name, "broken", f"{description}: a kernel gave a wrong answer", "Do not use this device.")
    return Finding(name, "ok", f"{description}; compiled and ran a kernel in {took_ms:.0f} ms")


def _permissions(broker: Broker) -> Finding:
    reply_id = new_id()
    try:
        _wait(lambda done: broker.declare(reply_topology(broker.tenant, reply_id), done))
    except KaasqError as error:
        return Finding(
            "permissions",
            "broken",
            error.message,
            f"rabbitmqctl set_permissions {broker.tenant} '^kaasq\\.' '^kaasq\\.' '^kaasq\\.'",
        )
    return Finding("permissions", "ok", "may declare exchanges and reply queues")


def _request(broker: Broker, settings: Settings, store_id: str | None) -> Iterator[Finding]:
    """The whole way: a request of one tiny kernel to the pool."""
    reply_id = new_id()
    replies: queue.Queue[Message] = queue.Queue()

    def on_delivery(delivery: Delivery) -> None:
        delivery.ack()
        replies.put(delivery.message)

    start = f"Start one: kaasq worker --pool {settings.pool}"
    started = time.perf_counter()
    try:
        _wait(lambda done: broker.declare(reply_topology(broker.tenant, reply_id), done))
        broker.consume(reply_queue(broker.tenant, reply_id), on_delivery, prefetch=1)
        message = Message(
            body=codec.encode(Request(graph=_probe())),
            content_type=codec.MSGPACK,
            message_id=new_id(),
            user_id=broker.tenant,
            reply_to=reply_id,
            expiration_ms=int(ANSWER_TIMEOUT_S * 1000),
            timestamp_ms=int(time.time() * 1000),
        )
        key = request_key(broker.tenant, settings.pool)
        _wait(lambda done: broker.publish(message, exchange=REQUESTS, routing_key=key, mandatory=True, done=done))
        answer = replies.get(timeout=ANSWER_TIMEOUT_S)
        reply = codec.decode_reply(answer.body, answer.content_type)
    except Unroutable:
        yield Finding("worker", "warning", f"no worker ever served pool {settings.pool!r}", start)
        return
    except queue.Empty:
        found = f"pool {settings.pool!r} has a queue, but no worker answered within {ANSWER_TIMEOUT_S:.0f} s"
        yield Finding("worker", "warning", found, f"They are busy, or gone. {start}")
        return
    except KaasqError as error:
        yield Finding("worker", "broken", error.message)
        return
    took_ms = (time.perf_counter() - started) * 1e3
    if reply.error is not None or reply.worker is None:
        yield Finding("worker", "broken", reply.error.message if reply.error else "it sent an empty answer")
        return
    yield Finding("worker", "ok", f"{reply.worker.device} on {reply.worker.host} answered in {took_ms:.0f} ms")
    if store_id is not None and reply.worker.store != store_id:
        yield Finding(
            "store",
            "warning",
            "the worker uses another store than the one named here: large inputs and names will not be found",
            "Give both the same --store (or KAASQ_STORE), on one host.",
        )


def _probe() -> GraphSpec:
    graph = Graph("doctor")
    out = graph.output("out", shape=32, dtype="int32")
    graph.launch(Module.from_source(_PROBE).kernel("probe"), grid=1, block=32, args=[out])
    return graph.freeze()


def _wait(operation: Callable[[Done], object]) -> None:
    try:
        wait_for(operation, CHECK_TIMEOUT_S)
    except TimeoutError:
        raise ReplyTimeout(f"the broker did not answer within {CHECK_TIMEOUT_S:.0f} s") from None


def _table(findings: list[Finding]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "broken": "[bold red]broken[/]"}
    for each in findings:
        table.add_row(marks[each.state], f"[bold]{each.check}[/]", escape(each.found))
        if each.mend:
            table.add_row("", "", f"[dim]→ {escape(each.mend)}[/]")
    return table


def _mend(error: KaasqError) -> str:
    match error:
        case BadRequest():
            return ""  # the message says which devices there are
        case DeviceUnavailable() if "pip install" in error.message:
            return ""
        case DeviceUnavailable():
            return "Compare the driver (nvidia-smi) with the installed extra: kaasq[cuda12] or kaasq[cuda13]."
        case ModuleRejected():
            return "Install a C++ compiler: apt-get install g++, or pip install ziglang."
    return "See the setting cache_dir (KAASQ_CACHE_DIR) and the log of 'kaasq worker --log-level debug'."
