"""Read sheets of scanned digits with a workflow: python -m examples.digit_sheets. See README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

import kaasq
import kaasq.importers.onnx
from examples.digit_sheets.pipeline import pipeline
from examples.digit_sheets.scans import scans
from kaasq.flows.model import FlowStatus
from kaasq.units import duration, size
from kaasq_producers.flows.display.timeline import html
from kaasq_producers.flows.display.tree import tree

DATA = Path(__file__).parents[2] / "tests" / "data" / "digits"
BATCH = 50
LEAST = 0.6  # how probable a digit must be not to be called unsure


def main(argv: list[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    images, labels = scans(DATA / "held_out.npz")
    sheets = len(images) // BATCH
    images, labels = images[: sheets * BATCH], labels[: sheets * BATCH]
    model = kaasq.importers.onnx.load(DATA / "convnet.onnx", batch=BATCH)
    try:
        with client_of(given) as client:
            weights = model.upload(client, "examples/digits")
            flow = pipeline(model, weights, sheets, BATCH)
            run = client.start(flow, scans=images.reshape(sheets, BATCH, *images.shape[1:]), least=LEAST)
            result = run.wait(timeout=given.timeout)
            status = run.status(items=True)
            digits, sure, counts = (result[name] for name in ("digits", "sure", "counts"))
            unsure = int(result["unsure"][0])
    except kaasq.KaasqError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    if given.timeline:
        given.timeline.write_text(html(status), encoding="utf-8")
    Console(highlight=False).print(tree(status))
    right = digits.reshape(-1) == labels
    doubtful = sure.reshape(-1) < np.float32(LEAST)
    print("read", ", ".join(f"{count} times {digit}" for digit, count in enumerate(counts)))
    of_those = right[doubtful].mean() if unsure else 1.0
    print(f"{right.mean():.1%} of {len(labels)} digits right; {unsure} were unsure, of which {of_those:.0%} are right")
    print(weights_line(model.weight_bytes, status))
    return 0


def weights_line(nbytes: int, status: FlowStatus) -> str:
    """What it took to have the weights on the device: for the sheet that came first, and for the others."""
    ended = [each for each in status.items if each.step == "classify" and each.timings is not None]
    ended.sort(key=lambda each: each.ended_ms or 0)
    took = [each.timings.load + each.timings.h2d for each in ended if each.timings is not None]
    return (
        f"{size(nbytes)} of weights: loading and copying in took {duration(took[0])} for the first sheet, "
        f"{duration(float(np.median(took[1:])))} for each other one"
    )


def client_of(given: argparse.Namespace) -> kaasq.Client:
    if given.broker is None:
        return kaasq.local(device=given.device)
    return kaasq.Client(given.broker or None, store=given.store)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.digit_sheets", description=__doc__.splitlines()[0])
    parser.add_argument("--timeline", type=Path, help="also write what ran where and when, as an HTML page")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds (default: 120)")
    parser.add_argument("--device", default="auto", help="of the worker in this process: cpu, cuda:0 or auto")
    parser.add_argument(
        "--broker", nargs="?", const="", help="workers behind this broker instead; without URL, as kaasq is configured"
    )
    parser.add_argument("--store", help="the store of those workers, if not the default one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
