"""The demo's graph: nine kernels in fourteen launches, which draw the edges of a photograph as light."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kaasq.errors import BadRequest
from kaasq.graph import Graph
from kaasq.model import Module

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

KERNELS = Path(__file__).with_name("kernels.cu")
OPTIONS = ("-fmad=false",)  # every device rounds as NumPy does: see kernels.cu

BLOCK = (32, 8)
BINS = 256
HISTOGRAM_BLOCK = 256
HISTOGRAM_BLOCKS = 64  # each adds its 256 counts to the result: few enough to be cheap, enough to fill a device
GROW_STEPS = 4  # pixels that an edge may grow into the weak ones beside it

SOFTEN_SIGMA = 1.6  # pixels; takes the film's grain out before the slopes are measured
HALO_SIGMA = 4.5  # pixels; how far the light spills

LOW, HIGH = 3.0, 6.5  # levels per pixel: below LOW no edge, from HIGH on always, between them beside an edge
GLOW = 1.0
COLOUR = 0.42


def gaussian(sigma: float) -> Floats:
    """The weights of a Gaussian blur, from -3 sigma to 3 sigma, with sum 1."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def inputs(photo: Bytes) -> dict[str, Bytes | Floats]:
    """What a request binds to the graph's inputs."""
    return {"photo": photo, "soften": gaussian(SOFTEN_SIGMA), "spread": gaussian(HALO_SIGMA)}


def build_graph(height: int, width: int) -> Graph:
    """The graph for photographs of that size, in pixels.

    Inputs ``photo`` (height, width, 3) uint8, ``soften`` and ``spread`` (weights of the two blurs); outputs
    ``after`` like photo, ``edges`` (height, width) uint8 and ``histogram`` (256,) uint32; scalars ``low``, ``high``
    (slopes in levels per pixel), ``glow`` and ``colour``. Raises BadRequest for an image without pixels.
    """
    if height < 1 or width < 1:
        raise BadRequest(f"a photograph of {width} x {height} pixels has nothing to draw", at="photo")
    graph = Graph("demo.edges-as-light")
    module = Module.from_file(KERNELS, options=OPTIONS)
    soften_radius, spread_radius = (len(gaussian(each)) // 2 for each in (SOFTEN_SIGMA, HALO_SIGMA))

    photo = graph.input("photo", shape=(height, width, 3), dtype="uint8", const=True)
    soften = graph.input("soften", shape=(2 * soften_radius + 1,), dtype="float32", const=True)
    spread = graph.input("spread", shape=(2 * spread_radius + 1,), dtype="float32", const=True)
    low, high = graph.scalar("low", "float32", LOW), graph.scalar("high", "float32", HIGH)
    glow, colour = graph.scalar("glow", "float32", GLOW), graph.scalar("colour", "float32", COLOUR)
    after = graph.output("after", shape=(height, width, 3), dtype="uint8")
    edges = graph.output("edges", shape=(height, width), dtype="uint8")
    counts = graph.output("histogram", shape=(BINS,), dtype="uint32")

    plane, planes = (height, width), (2, height, width)
    grey = graph.temp("grey", shape=plane, dtype="float32")
    rows = graph.temp("rows", shape=plane, dtype="float32")
    soft = graph.temp("soft", shape=plane, dtype="float32")
    slope = graph.temp("slope", shape=plane, dtype="float32")
    direction = graph.temp("direction", shape=plane, dtype="uint8")
    found = graph.temp("found", shape=plane, dtype="uint8")
    grown = graph.temp("grown", shape=plane, dtype="uint8")
    light = graph.temp("light", shape=planes, dtype="float32")
    light_rows = graph.temp("light_rows", shape=planes, dtype="float32")
    halo = graph.temp("halo", shape=planes, dtype="float32")

    size = (np.int32(width), np.int32(height))
    grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]))

    def each_pixel(kernel: str, *args: Any, depth: int = 1) -> None:
        graph.launch(module.kernel(kernel), grid=(*grid, depth), block=BLOCK, args=[*args, *size])

    each_pixel("luma", photo, grey)
    pixels = height * width
    graph.launch(
        module.kernel("histogram"),
        grid=min(HISTOGRAM_BLOCKS, -(-pixels // HISTOGRAM_BLOCK)),
        block=HISTOGRAM_BLOCK,
        args=[grey, counts, np.int64(pixels)],
    )
    each_pixel("blur_rows", grey, soften, np.int32(soften_radius), rows)
    each_pixel("blur_columns", rows, soften, np.int32(soften_radius), soft)
    each_pixel("sobel", soft, slope, direction)
    each_pixel("thin", slope, direction, found, low, high)
    for _ in range(GROW_STEPS):
        each_pixel("grow", found, grown)
        found, grown = grown, found
    each_pixel("ignite", found, slope, direction, high, light, edges)
    each_pixel("blur_rows", light, spread, np.int32(spread_radius), light_rows, depth=2)
    each_pixel("blur_columns", light_rows, spread, np.int32(spread_radius), halo, depth=2)
    each_pixel("composite", photo, grey, light, halo, glow, colour, after)
    return graph
