"""A photo's contrast, evened out tile by tile: cut into tiles, a table of tones for each, and joined. See README.md.

The method is CLAHE (K. Zuiderveld, Graphics Gems IV, 1994): histogram equalisation of each tile with a limit on how
steep it may get, and bilinear interpolation between the four tiles nearest to a pixel, so that no seams show.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

import kaasq

TONES = 256
KERNELS = kaasq.Module.from_file(Path(__file__).with_name("kernels.cu"))


@lru_cache(maxsize=16)
def pipeline(height: int, width: int, tile: int) -> kaasq.Workflow:
    """``photo`` (height, width, 3) uint8 and ``clip`` to ``out``, as large: tiles of ``tile`` pixels a side.

    ``clip``: how many times the average a tone may count at most. A tile whose step fails keeps its tones.
    """
    down, across = -(-height // tile), -(-width // tile)
    flow = kaasq.Workflow("contrast")
    photo = flow.input("photo", shape=(height, width, 3), dtype="uint8")
    clip = flow.scalar("clip", "float32", default=2.0)
    cut = flow.step("cut", cut_graph(height, width, tile), photo=photo)
    tones = flow.map(
        "tones", tones_graph(tile), count=down * across, tile=cut["tiles"].each, clip=clip, retries=2, timeout=30
    )
    join = flow.step(
        "join", join_graph(height, width, tile), photo=photo, tables=tones["table"], there=tones.mask, tolerate=True
    )
    flow.output("out", join["out"])
    return flow


def cut_graph(height: int, width: int, tile: int) -> kaasq.Graph:
    """``photo`` to ``tiles`` (count, tile, tile), their brightness; the photo is mirrored at its edges."""
    down, across = -(-height // tile), -(-width // tile)
    graph = kaasq.Graph("contrast.cut")
    photo = graph.input("photo", shape=(height, width, 3), dtype="uint8", const=True)
    tiles = graph.output("tiles", shape=(down * across, tile, tile), dtype="uint8")
    sizes = [np.int32(each) for each in (height, width, tile, across)]
    graph.launch(
        KERNELS.kernel("cut"), grid=(-(-tile // 32), tile, down * across), block=32, args=[photo, tiles, *sizes]
    )
    return graph


def tones_graph(tile: int) -> kaasq.Graph:
    """``tile`` to ``table``: what becomes of each of its 256 tones."""
    graph = kaasq.Graph("contrast.tones")
    pixels = graph.input("tile", shape=(tile, tile), dtype="uint8", const=True)
    table = graph.output("table", shape=TONES, dtype="uint8")
    clip = graph.scalar("clip", "float32")
    graph.launch(KERNELS.kernel("tones"), grid=1, block=TONES, args=[pixels, table, clip, np.int32(tile * tile)])
    return graph


def join_graph(height: int, width: int, tile: int) -> kaasq.Graph:
    """``photo`` to ``out``, brighter or darker as the ``tables`` around a pixel say. ``there``: which tables are."""
    down, across = -(-height // tile), -(-width // tile)
    graph = kaasq.Graph("contrast.join")
    photo = graph.input("photo", shape=(height, width, 3), dtype="uint8", const=True)
    tables = graph.input("tables", shape=(down * across, TONES), dtype="uint8", const=True)
    there = graph.input("there", shape=down * across, dtype="uint8", const=True)
    out = graph.output("out", shape=(height, width, 3), dtype="uint8")
    sizes = [np.int32(each) for each in (height, width, tile, down, across)]
    graph.launch(
        KERNELS.kernel("join"), grid=(-(-width // 128), height), block=128, args=[photo, tables, there, out, *sizes]
    )
    return graph
