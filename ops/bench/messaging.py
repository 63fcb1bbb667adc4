"""What kaasq costs on top of the broker: its no-op graph beside a bare pika echo, same broker, same queue type.

``python ops/bench/messaging.py`` starts a private RabbitMQ unless --broker or KAASQ_BROKER_URL names one. Both sides
run in turn, several times; figures are medians over the rounds, ratios are per round (machines are noisy).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from pika_echo import EchoClient

from kaasq import Client, Graph, Module
from kaasq.settings import Settings

HERE = Path(__file__).parent
OUTSTANDING = 64
BODY = bytes(256)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one side. Latencies in milliseconds, throughput in requests per second."""

    p50: float
    p99: float
    throughput: float


@click.command()
@click.option("--broker", envvar="KAASQ_BROKER_URL", help="Broker to use (default: a private RabbitMQ).")
@click.option("--queue-type", type=click.Choice(["quorum", "classic", "both"]), default="both", show_default=True)
@click.option(
    "--durable/--no-durable", "durable", default=None, help="Outcomes that survive a power cut (default: both)."
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--requests", default=1500, show_default=True, help="Sequential requests a round.")
@click.option("--seconds", default=3.0, show_default=True, help="Seconds of load a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there.")
def main(
    broker: str | None,
    queue_type: str,
    durable: bool | None,
    device: str,
    requests: int,
    seconds: float,
    rounds: int,
    out: Path | None,
) -> None:
    """Compare kaasq's no-op graph with a bare pika echo."""
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "device": device},
        "setup": {"requests": requests, "seconds": seconds, "rounds": rounds, "outstanding": OUTSTANDING},
        "runs": [],
    }
    with ExitStack() as stack:
        url = broker or stack.enter_context(_private_broker())
        for kind in ["classic", "quorum"] if queue_type == "both" else [queue_type]:
            for sync in [True, False] if durable is None else [durable]:
                run = _compare(url, kind, device, requests, seconds, rounds, sync=sync)
                results["runs"].append(run)
                _show(run)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")


def _compare(
    url: str, queue_type: str, device: str, requests: int, seconds: float, rounds: int, *, sync: bool
) -> dict[str, Any]:
    floor: list[Figures] = []
    ours: list[Figures] = []
    with _echo(url, queue_type) as echo, _kaasq(url, queue_type, device, sync=sync) as (client, graph):
        echo.latency(100, BODY)
        for _ in range(100):
            client.run(graph)
        for _ in range(rounds):
            floor.append(_figures(echo.latency(requests, BODY), echo.throughput(seconds, OUTSTANDING, BODY)))
            ours.append(_figures(_latency(client, graph, requests), _throughput(client, graph, seconds)))
    return {
        "queue_type": queue_type,
        "durable": sync,
        "pika_echo": _median(floor),
        "kaasq": _median(ours),
        "p50_ratio": _ratios([b.p50 / a.p50 for a, b in zip(floor, ours, strict=True)]),
        "throughput_ratio": _ratios([b.throughput / a.throughput for a, b in zip(floor, ours, strict=True)]),
    }


def _latency(client: Client, graph: Graph, count: int) -> list[float]:
    took: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        client.run(graph)
        took.append(time.perf_counter() - started)
    return took


def _throughput(client: Client, graph: Graph, seconds: float) -> float:
    window = threading.Semaphore(OUTSTANDING)
    done = 0

    def finished(future: Any) -> None:
        nonlocal done
        future.result()
        done += 1
        window.release()

    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        window.acquire()
        client.submit(graph).add_done_callback(finished)
    rate = done / (time.perf_counter() - started)
    for _ in range(OUTSTANDING):
        window.acquire()
    return rate


@contextmanager
def _echo(url: str, queue_type: str) -> Iterator[EchoClient]:
    queue = f"bench.echo.{uuid.uuid4().hex}"
    client = EchoClient(url, queue, queue_type)
    server = subprocess.Popen([sys.executable, str(HERE / "pika_echo.py"), url, queue])
    try:
        yield client
    finally:
        server.kill()
        server.wait()
        client.close()


@contextmanager
def _kaasq(url: str, queue_type: str, device: str, *, sync: bool) -> Iterator[tuple[Client, Graph]]:
    pool = f"bench-{uuid.uuid4().hex[:8]}"
    graph = Graph("noop")
    module = Module.from_source('extern "C" __global__ void noop() {}')
    graph.launch(module.kernel("noop"), grid=1, block=1, args=[])
    with tempfile.TemporaryDirectory() as store:
        command = ["worker", "--broker", url, "--store", store, "--pool", pool, "--device", device]
        command += ["--queue-type", queue_type, "--store-sync" if sync else "--no-store-sync", "--log-level", "warning"]
        worker = subprocess.Popen([sys.executable, "-m", "kaasq", *command])
        settings = Settings(broker_url=url, store=store, pool=pool, store_sync=sync)
        try:
            with Client(settings=settings) as client:
                _await_worker(client, graph)
                yield client, graph
        finally:
            worker.terminate()
            worker.wait(30)


def _await_worker(client: Client, graph: Graph) -> None:
    from kaasq import ReplyTimeout, Unroutable

    deadline = time.monotonic() + 60
    while True:
        try:
            client.run(graph, timeout=30)
        except (Unroutable, ReplyTimeout):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


@contextmanager
def _private_broker() -> Iterator[str]:
    sys.path.insert(0, str(HERE.parent))
    from rabbitmq_node import RabbitNode

    with RabbitNode() as node:
        yield node.url


def _figures(latencies: list[float], throughput: float) -> Figures:
    ordered = sorted(latencies)
    return Figures(
        p50=statistics.median(ordered) * 1e3, p99=ordered[int(len(ordered) * 0.99)] * 1e3, throughput=throughput
    )


def _median(rounds: list[Figures]) -> dict[str, float]:
    return {
        name: round(statistics.median(getattr(each, name) for each in rounds), 3) for name in Figures.__struct_fields__
    }


def _ratios(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _show(run: dict[str, Any]) -> None:
    kind = f"{run['queue_type']}, outcomes {'synced to disk' if run['durable'] else 'not synced'}"
    click.echo(f"\n{kind}")
    for side in ("pika_echo", "kaasq"):
        each = run[side]
        click.echo(f"  {side:10} p50 {each['p50']:.2f} ms   p99 {each['p99']:.2f} ms   {each['throughput']:.0f} per s")
    for name in ("p50_ratio", "throughput_ratio"):
        each = run[name]
        click.echo(f"  {name.replace('_', ' ')}: {each['median']:.2f}x ({each['min']:.2f} to {each['max']:.2f})")


if __name__ == "__main__":
    main()
