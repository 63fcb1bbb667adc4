"""``kaasq worker``: serve a pool until told to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

import click
import msgspec

from kaasq.cli import Sectioned, settings_options
from kaasq.errors import KaasqError
from kaasq.interrupts import asking_to_stop
from kaasq.log import configure, get_logger
from kaasq.processors import busy_poll_s
from kaasq.rabbit import PublishLimits, RabbitBroker
from kaasq.setting_values import flag_of
from kaasq.settings import Settings, load_settings
from kaasq_workers.devices.opening import default_slot, device_names
from kaasq_workers.front.sealing import seal
from kaasq_workers.health import beating
from kaasq_workers.worker import DRAIN_TIMEOUT_S, Worker

log = get_logger()


SECTIONS = {
    "Where": ("broker_url", "store", "pool", "slot"),
    "The device, and what runs on it": (
        "device",
        "device_memory",
        "modules",
        "compiler",
        "guard",
        "guard_band",
        "isolation",
        "isolation_executors",
        "isolation_idle",
        "isolation_turn",
    ),
    "Queue and store": ("queue_type", "prefetch", "store_capacity", "store_sync"),
    "When something goes wrong": (
        "spare",
        "most_attempts",
        "longest_run",
        "executor_timeout",
        "start_timeout",
        "health_file",
        "drain",
    ),
}


@click.command(cls=Sectioned, sections=SECTIONS)
@settings_options("broker_url", "store", "pool", "log_format", "log_level")
@click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda:0, ..., all (a worker for each GPU) or auto (a GPU if there is one; the default).",
)
@click.option("--slot", metavar="NAME", help="This worker's place in the pool (default: named after the device).")
@click.option(
    "--queue-type",
    type=click.Choice(["quorum", "classic"]),
    help="quorum: durable, the default; classic: least latency.",
)
@click.option("--prefetch", type=click.IntRange(1, 65535), help="Requests held at a time (default: 64).")
@click.option(
    "--store-capacity",
    metavar="SIZE",
    help="Most that the store may hold, such as 10GiB, for all who use it (default: what it has; a new one takes half "
    "of what the disk has free).",
)
@click.option(
    "--store-sync/--no-store-sync",
    default=None,
    help="Whether outcomes survive a power cut, not only a crash (default: yes).",
)
@click.option("--device-memory", metavar="SIZE", help="Most device memory to use, such as 10GiB (default: all).")
@click.option("--modules", metavar="DIR[:DIR]", help="Folders with modules that requests may name (default: none).")
@click.option("--compiler", metavar="PATH", help="C++ compiler of the CPU device (default: g++, clang++ or ziglang).")
@click.option(
    "--guard/--no-guard",
    default=None,
    help="Find kernels that write outside of their buffers or to const inputs (slow; default: no).",
)
@click.option(
    "--guard-band",
    metavar="SIZE",
    help="What --guard watches around a buffer (default: 64KiB).",
)
@click.option(
    "--isolation",
    type=click.Choice(["shared", "tenant"]),
    help="One executor for all tenants, or one for each: they cannot reach each other's memory (default: shared).",
)
@click.option(
    "--isolation-executors",
    type=click.IntRange(1, 64),
    metavar="N",
    help="With tenant: executors at once (default: 4).",
)
@click.option(
    "--isolation-idle",
    type=float,
    metavar="S",
    help="With tenant: seconds until an idle one is stopped (default: 300).",
)
@click.option(
    "--isolation-turn",
    type=float,
    metavar="S",
    help="With tenant: seconds for which a busy executor stays its tenant's while others wait (default: 5).",
)
@click.option(
    "--spare",
    type=click.Choice(["none", "imported", "opened"]),
    help="What stands by to replace an executor: a process that has loaded everything (imported, the default), one "
    "that has opened the device too, or nothing.",
)
@click.option(
    "--most-attempts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Deliveries of a request begun and never ended, after which it is given up (default: 5).",
)
@click.option("--longest-run", type=float, metavar="S", help="Most seconds a request may run (default: 3600).")
@click.option(
    "--executor-timeout",
    type=float,
    metavar="S",
    help="Seconds without a sign of life after which the executor is replaced (default: 60).",
)
@click.option("--start-timeout", type=float, metavar="S", help="Seconds for the executor to start in (default: 120).")
@click.option(
    "--health-file",
    metavar="FILE",
    help="File in which the worker says that it lives, for kaasq health (default: none).",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=DRAIN_TIMEOUT_S,
    show_default=True,
    help="Seconds to finish in when told to stop.",
)
def worker(drain: float, **flags: Any) -> None:
    r"""Take kernel-graph requests from RabbitMQ and run them on a device.

    SIGTERM, SIGHUP or Ctrl-C drains: it takes no more, finishes what it took, and exits 0; a second one stops at once
    (what was not finished goes back to the queue).

    \b
    kaasq worker                                    # local broker, GPU if there is one, pool "default"
    kaasq worker --device cpu --pool images
    kaasq worker --device all --broker amqps://me:secret@rabbit.example/
    """
    configure()  # for what is said of the settings
    settings = load_settings(flags, called=flag_of)
    configure(settings.log_level, settings.log_format)
    if not settings.traceable:
        seal()
    stop, serving = threading.Event(), threading.Event()
    stops = 0

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal stops
        stops += 1
        stop.set()
        if stops > 1 or not serving.is_set():
            raise KeyboardInterrupt

    for number in asking_to_stop():
        signal.signal(number, on_signal)
    sys.exit(serve(settings, stop, serving, drain))


def serve(settings: Settings, stop: threading.Event, serving: threading.Event, drain_s: float) -> int:
    """Run a worker for each device until ``stop`` or a failure; the exit code. Sets ``serving`` once all are up."""
    names = device_names(settings.device)
    settings = msgspec.structs.replace(settings, busy_poll=busy_poll_s(settings.busy_poll, workers=len(names)))
    started: list[Worker] = []
    try:
        for name in names:
            slot = settings.slot if len(names) == 1 or not settings.slot else f"{settings.slot}-{default_slot(name)}"
            each = Worker(
                msgspec.structs.replace(settings, device=name, slot=slot),
                RabbitBroker(
                    settings.connection_url,
                    connection_name=f"kaasq worker {settings.pool}/{slot or name}",
                    # As a client does: a continuation that is lost with a cluster's node waits for nothing else.
                    limits=PublishLimits(patience_s=settings.confirm_patience),
                    busy_poll_s=busy_poll_s(settings.busy_poll),
                    impersonates=True,  # continuations are published for whoever sent what they follow
                ),
            )
            each.start()
            started.append(each)
        serving.set()
        with beating(settings, started):
            while not stop.wait(0.5):
                failure = next((each.failure for each in started if each.failure), None)
                if failure is not None:
                    raise failure
            log.info("worker.draining", at_most_s=drain_s, hint="stop again to stop at once")
            for each in started:
                each.pause()
            until = time.monotonic() + drain_s
            drained = [each.stop(max(0.0, until - time.monotonic())) for each in started]
    except KaasqError as error:
        log.error("worker.failed", code=error.code, error=error.message)
        for each in started:
            each.stop(0.0)
        return 1
    except KeyboardInterrupt:
        for each in started:
            each.stop(0.0)
        return 130
    return 0 if all(drained) else 3
