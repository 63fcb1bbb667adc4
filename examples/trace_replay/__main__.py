"""Replay a trace of jobs: python -m examples.trace_replay. See README.md."""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import kaasq
from examples.trace_replay.arrivals import TraceError, read
from examples.trace_replay.generate import FILE
from examples.trace_replay.replay import Outcome, replay, report


def main(argv: list[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    try:
        arrivals = read(given.trace)
    except (TraceError, OSError) as error:
        print(error, file=sys.stderr)
        return 2

    async def run() -> list[Outcome]:
        async with client_of(given) as client:
            return await replay(client, arrivals, speed=given.speed, timeout_s=given.timeout)

    try:
        outcomes = asyncio.run(run())
    except kaasq.KaasqError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    print(report(outcomes, given.speed))
    if given.output:
        write(given.output, outcomes)
    return int(any(each.word != "ok" for each in outcomes))


def client_of(given: argparse.Namespace) -> AbstractAsyncContextManager[kaasq.AsyncClient]:
    if given.broker is None:
        return kaasq.local_async(device=given.device)
    return kaasq.AsyncClient(given.broker or None, store=given.store)


def write(path: Path, outcomes: list[Outcome]) -> None:
    """A line for each job, for plots of one's own."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["due_s", "kind", "size", "late_ms", "latency_ms", "outcome"])
        for each in outcomes:
            late_ms, latency_ms = 1e3 * (each.published_s - each.due_s), 1e3 * each.latency_s
            kind, size = each.arrival.kind, each.arrival.size
            rows.writerow([f"{each.due_s:.4f}", kind, size, f"{late_ms:.3f}", f"{latency_ms:.3f}", each.word])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.trace_replay", description=__doc__.splitlines()[0])
    parser.add_argument("trace", nargs="?", type=Path, default=FILE, help="a .csv or .jsonl file (default: mixed.csv)")
    parser.add_argument("--speed", type=positive, default=1.0, help="2 publishes twice as fast (default: 1)")
    parser.add_argument("--timeout", type=positive, default=60.0, help="seconds for each job (default: 60)")
    parser.add_argument("--device", default="auto", help="of the worker in this process: cpu, cuda:0 or auto")
    parser.add_argument(
        "--broker", nargs="?", const="", help="workers behind this broker instead; without URL, as kaasq is configured"
    )
    parser.add_argument("--store", help="the store of those workers, if not the default one")
    parser.add_argument("--output", type=Path, help="write a line for each job into this CSV file")
    return parser


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, given {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
