"""``kaasq doctor``: checks whatever a request passes on its way, and says how to mend what is broken."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kaasq.broker import Broker, Delivery, Done, Message, wait_for
from kaasq.cli import settings_options
from kaasq.errors import BrokerLost, KaasqError, ReplyTimeout, SlotTaken
from kaasq.graph import Graph
from kaasq.ids import new_id
from kaasq.log import configure
from kaasq.messages import Request
from kaasq.model import Module
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings, load_settings
from kaasq.topology import REPLIES, Topology, pool_topology, reply_key, reply_queue, reply_topology, slot_lock
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.gpus import count_gpus
from kaasq_workers.devices.opening import default_slot, device_names, open_device
from kaasq_workers.executor.engine import Engine

CHECK_TIMEOUT_S = 10.0
LOW_DISK_BYTES = 1 << 30

_PROBE = 'extern "C" __global__ void probe(int* out) { out[threadIdx.x] = threadIdx.x + 1; }'


class Finding(msgspec.Struct, frozen=True):
    """What one check found. ``mend`` says what to do, where something is to be done."""

    check: str
    state: Literal["ok", "warning", "broken"]
    found: str
    mend: str = ""


@click.command()
@settings_options("broker_url", "store", "pool")
@click.option("--device", metavar="NAME", help="Check this device only (default: the CPU and every GPU).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool, **flags: Any) -> None:
    """Check broker, permissions, topology, store, compiler and devices, and say how to mend each.

    Exits 1 if something is broken. Changes nothing but what a worker or client would declare anyway.
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
    yield from check_broker(settings)
    try:
        store = open_store(settings.store_path, capacity=settings.store_capacity, sync=settings.store_sync)
    except KaasqError as error:
        yield Finding("store", "broken", error.message, "Name another folder with --store or KAASQ_STORE.")
        return
    try:
        yield from check_store(store)
        gpus = count_gpus()
        names = ["cpu", *(f"cuda:{index}" for index in range(gpus))]
        for name in device_names(device) if device else names:
            yield check_device(settings, store, name)
        if not gpus and not device:
            yield Finding("gpu", "warning", "none that kaasq can use", _gpu_hint())
    finally:
        store.close()


def check_broker(settings: Settings) -> Iterator[Finding]:
    """Connection, permissions, the pool's topology, whether somebody serves the pool, a round trip."""
    broker = RabbitBroker(settings.broker_url, connection_name="kaasq doctor")
    try:
        broker.open(settings.connect_timeout)
    except KaasqError as error:
        hint = (
            "Start one (docker run -p 5672:5672 rabbitmq:4, or apt-get install rabbitmq-server), or name yours with "
            "--broker or KAASQ_BROKER_URL."
            if isinstance(error, BrokerLost)
            else "Correct user, password and virtual host in the URL, or have the user given access."
        )
        yield Finding("broker", "broken", error.message, hint)
        return
    try:
        yield Finding("broker", "ok", f"connected as {broker.tenant}")
        yield _permissions(broker)
        yield from _topology(broker, settings)
        yield _round_trip(broker)
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
        f"{store.path}: {_size(usage.used)} of {_size(usage.capacity)} in {usage.objects} objects, "
        f"written in {took_ms:.1f} ms"
    )
    if free < LOW_DISK_BYTES:
        yield Finding("store", "warning", f"{found}; only {_size(free)} left on the disk", "Make room on that disk.")
    elif free < usage.capacity - usage.used:
        yield Finding(
            "store",
            "warning",
            f"{found}; the disk has {_size(free)} left, less than the store may take",
            "Lower store_capacity, or use a larger disk, so that the store and not the disk is the limit.",
        )
    else:
        yield Finding("store", "ok", found)


def check_device(settings: Settings, store: BufferStore, name: str) -> Finding:
    """Compile a kernel, run it, compare."""
    graph = Graph("doctor")
    out = graph.output("out", shape=32, dtype="int32")
    graph.launch(Module.from_source(_PROBE).kernel("probe"), grid=1, block=32, args=[out])
    spec = graph.freeze()
    try:
        device = open_device(msgspec.structs.replace(settings, device=name))
        try:
            started = time.perf_counter()
            engine = Engine(device, store, inline_limit=settings.inline_limit)
            executed = engine.run("doctor", spec, Request(graph=spec))
            took_ms = (time.perf_counter() - started) * 1e3
            data = executed.outputs[0].data
            right = isinstance(data, bytearray) and np.frombuffer(data, np.int32).tolist() == list(range(1, 33))
            description = f"{device.description}, {_size(device.limits.memory)}"
        finally:
            device.close()
    except KaasqError as error:
        hint = (
            "Install a C++ compiler (apt-get install g++, or pip install ziglang)."
            if name == "cpu"
            else "Compare the driver (nvidia-smi) with the installed extra: kaasq[cuda12] or kaasq[cuda13]."
        )
        return Finding(name, "broken", error.message.splitlines()[0], hint)
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


def _topology(broker: Broker, settings: Settings) -> Iterator[Finding]:
    wanted = pool_topology(settings.pool, "doctor", settings.queue_type)
    shared = Topology(exchanges=wanted.exchanges, queues=wanted.queues[:2], bindings=wanted.bindings[:2])
    try:
        _wait(lambda done: broker.declare(shared, done))
    except KaasqError as error:
        yield Finding(
            "topology", "broken", error.message, "Use the queue_type it was made with, or delete the queue if empty."
        )
        return
    yield Finding("topology", "ok", f"exchanges, dead-letter queue and the queue of pool {settings.pool!r} stand")
    slot = settings.slot or default_slot(device_names(settings.device)[0])
    try:
        _wait(lambda done: broker.lock(slot_lock(settings.pool, slot), done))
    except SlotTaken:
        yield Finding("worker", "ok", f"a worker serves slot {slot!r} of pool {settings.pool!r}")
    except KaasqError as error:
        yield Finding("worker", "broken", error.message)
    else:
        yield Finding(
            "worker",
            "warning",
            f"nobody serves slot {slot!r} of pool {settings.pool!r}",
            f"Start one: kaasq worker --pool {settings.pool}",
        )


def _round_trip(broker: Broker) -> Finding:
    """A message to ourselves, over the exchange that replies take."""
    reply_id = new_id()
    arrived = threading.Event()

    def on_delivery(delivery: Delivery) -> None:
        delivery.ack()
        arrived.set()

    try:
        _wait(lambda done: broker.declare(reply_topology(broker.tenant, reply_id), done))
        consumer = broker.consume(reply_queue(broker.tenant, reply_id), on_delivery, prefetch=1)
        started = time.perf_counter()
        message = Message(body=b"", user_id=broker.tenant)
        _wait(
            lambda done: broker.publish(
                message, exchange=REPLIES, routing_key=reply_key(broker.tenant, reply_id), mandatory=True, done=done
            )
        )
        if not arrived.wait(CHECK_TIMEOUT_S):
            raise ReplyTimeout("a message to ourselves did not arrive")
        took_ms = (time.perf_counter() - started) * 1e3
        consumer.cancel()
    except KaasqError as error:
        return Finding("round trip", "broken", error.message, "Check the user's topic permissions.")
    return Finding("round trip", "ok", f"{took_ms:.1f} ms")


def _wait(operation: Callable[[Done], object]) -> None:
    try:
        wait_for(operation, CHECK_TIMEOUT_S)
    except TimeoutError:
        raise ReplyTimeout(f"the broker did not answer within {CHECK_TIMEOUT_S:.0f} s") from None


def _table(findings: list[Finding]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]look[/]", "broken": "[bold red]broken[/]"}
    for each in findings:
        table.add_row(marks[each.state], f"[bold]{each.check}[/]", escape(each.found))
        if each.mend:
            table.add_row("", "", f"[dim]→ {escape(each.mend)}[/]")
    return table


def _gpu_hint() -> str:
    return "With an NVIDIA GPU and driver: pip install 'kaasq[cuda13]' (or cuda12, by the driver's version)."


def _size(nbytes: int) -> str:
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
