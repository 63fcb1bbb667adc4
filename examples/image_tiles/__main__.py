"""Even out a photo's contrast, tile by tile: python -m examples.image_tiles photo.jpg. See README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console

import kaasq
from examples.image_tiles.pipeline import pipeline
from kaasq_producers.flows.display.timeline import html
from kaasq_producers.flows.display.tree import tree

# An official portrait by the US Navy (James S. Davis, 1984), in the public domain; Matplotlib ships it.
SHIPPED = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
LONGEST_SIDE = 4096  # pixels; a larger photo is reduced


def main(argv: list[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    try:
        with Image.open(given.photo) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            photo = np.asarray(upright)
    except (OSError, UnidentifiedImageError) as error:
        print(f"{given.photo} cannot be read as an image: {error}", file=sys.stderr)
        return 2
    flow = pipeline(*photo.shape[:2], given.tile)
    try:
        with client_of(given) as client:
            run = client.start(flow, photo=photo, clip=given.clip)
            out = run.wait(timeout=given.timeout)["out"]
            status = run.status(items=True)
    except kaasq.KaasqError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    Image.fromarray(out).save(given.output)
    if given.timeline:
        given.timeline.write_text(html(status), encoding="utf-8")
    Console(highlight=False).print(tree(status))
    print(f"{given.output}: {out.shape[1]} x {out.shape[0]} pixels")
    return 0


def client_of(given: argparse.Namespace) -> kaasq.Client:
    if given.broker is None:
        return kaasq.local(device=given.device)
    return kaasq.Client(given.broker or None, store=given.store)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.image_tiles", description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", type=Path, default=SHIPPED, help="any image (default: a portrait)")
    parser.add_argument("--output", type=Path, default=Path("contrast.png"), help="default: contrast.png")
    parser.add_argument("--tile", type=int, choices=(16, 32, 64, 128, 256), default=64, help="pixels (default: 64)")
    parser.add_argument("--clip", type=float, default=2.0, help="how strong: 1 is hardly, 4 is much (default: 2)")
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
