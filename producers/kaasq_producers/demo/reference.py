"""The demo's kernels again in NumPy, and the check of a device's answer against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kaasq_producers.demo import pipeline
from kaasq_producers.demo.pipeline import Bytes, Floats

Counts = npt.NDArray[np.uint32]

NOTHING, WEAK, EDGE = 0, 1, 2
ACROSS, FALLING, DOWN, RISING = 0, 1, 2, 3
STEPS = {ACROSS: (0, 1), FALLING: (1, 1), DOWN: (1, 0), RISING: (-1, 1)}  # (dy, dx) along the gradient

SHADOW = np.array([0.030, 0.035, 0.110], np.float32)
BRIGHT = np.array([0.420, 0.380, 0.620], np.float32)
UPRIGHT = np.array([0.160, 0.800, 1.000], np.float32)
LEVEL = np.array([1.000, 0.600, 0.220], np.float32)

# What may differ. Every kernel rounds each operation as NumPy does, in the same order, so a device that follows
# IEEE 754 gives the same bits, and all that ran so far did. A compiler may still fuse or reorder: slopes then move by
# some 1e-5 levels, and a pixel within that of a threshold, a neighbour's slope or half a level of output falls on the
# other side. On photographs that is about one pixel in a million per comparison; a hundred times as much is allowed.
# What falls differently is one edge pixel, whose halo reaches HALO_SIGMA * 3 pixels but no further than 3 levels.
# Brightnesses are exact by construction, so the histogram has no tolerance.
EDGE_SHARE = 1e-4  # share of pixels that may be an edge in one answer and none in the other
AFTER_SHARE = 1e-3  # share of channel values that may differ by more than AFTER_LEVELS
AFTER_LEVELS = 1


class Answer(msgspec.Struct, frozen=True):
    """What the graph computes, by its outputs' names."""

    after: Bytes
    edges: Bytes
    histogram: Counts


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How a device's answer compares with NumPy's. Differences count pixels, channel values and counts."""

    max_difference: int
    """The largest difference of a channel of the picture, in levels of 255."""
    after_differing: int
    after_beyond: int
    edges_differing: int
    histogram_differing: int
    passed: bool

    @property
    def exact(self) -> bool:
        """Whether every byte is the same."""
        return not (self.after_differing or self.edges_differing or self.histogram_differing)


def compute(
    photo: Bytes,
    *,
    low: float = pipeline.LOW,
    high: float = pipeline.HIGH,
    glow: float = pipeline.GLOW,
    colour: float = pipeline.COLOUR,
) -> Answer:
    """What the graph computes from a photograph (height, width, 3), in NumPy."""
    grey = luma(photo)
    soft = blur(grey, pipeline.gaussian(pipeline.SOFTEN_SIGMA))
    slope, direction = sobel(soft)
    found = thin(slope, direction, low, high)
    for _ in range(pipeline.GROW_STEPS):
        found = grow(found)
    light = ignite(found, slope, direction, high)
    spread = pipeline.gaussian(pipeline.HALO_SIGMA)
    halo = np.stack([blur(plane, spread) for plane in light])
    return Answer(
        after=composite(photo, grey, light, halo, glow, colour),
        edges=np.where(found == EDGE, 255, 0).astype(np.uint8),
        histogram=histogram(grey),
    )


def compare(given: Mapping[str, Any], expected: Answer) -> Check:
    """How a device's outputs compare, and whether that is within the tolerance."""
    difference = np.abs(np.asarray(given["after"]).astype(np.int16) - expected.after)
    edges_differing = int(np.count_nonzero(given["edges"] != expected.edges))
    after_beyond = int(np.count_nonzero(difference > AFTER_LEVELS))
    histogram_differing = int(np.count_nonzero(given["histogram"] != expected.histogram))
    return Check(
        max_difference=int(difference.max()),
        after_differing=int(np.count_nonzero(difference)),
        after_beyond=after_beyond,
        edges_differing=edges_differing,
        histogram_differing=histogram_differing,
        passed=(
            edges_differing <= EDGE_SHARE * expected.edges.size
            and after_beyond <= AFTER_SHARE * expected.after.size
            and histogram_differing == 0
        ),
    )


def luma(photo: Bytes) -> Floats:
    """Brightness, 0 to 255."""
    weights = np.array([19595, 38470, 7471], np.int32)
    return (photo.astype(np.int32) @ weights).astype(np.float32) * np.float32(1 / 65536)


def histogram(grey: Floats) -> Counts:
    """How many pixels have each brightness, rounded to whole levels."""
    levels = (grey + np.float32(0.5)).astype(np.int64)
    return np.bincount(levels.ravel(), minlength=pipeline.BINS).astype(np.uint32)


def blur(image: Floats, weights: Floats) -> Floats:
    """Separable blur, rows first. The sums run from the first weight to the last, as in the kernels."""
    for axis in (1, 0):
        size, radius = image.shape[axis], len(weights) // 2
        total = np.zeros_like(image)
        for k, weight in enumerate(weights):
            at = np.clip(np.arange(size) + k - radius, 0, size - 1)
            total += weight * np.take(image, at, axis=axis)
        image = total
    return image


def sobel(image: Floats) -> tuple[Floats, Bytes]:
    """Slope in levels per pixel, and the direction of the gradient to the nearest 45 degrees."""
    nw, n, ne = (_neighbour(image, -1, dx) for dx in (-1, 0, 1))
    w, e = (_neighbour(image, 0, dx) for dx in (-1, 1))
    sw, s, se = (_neighbour(image, 1, dx) for dx in (-1, 0, 1))
    two, eighth, tangent = np.float32(2), np.float32(0.125), np.float32(0.41421356)
    dx = ((ne + two * e + se) - (nw + two * w + sw)) * eighth
    dy = ((sw + two * s + se) - (nw + two * n + ne)) * eighth
    ax, ay = np.abs(dx), np.abs(dy)
    slanting = np.where((dx > 0) == (dy > 0), FALLING, RISING)
    direction = np.where(ay <= tangent * ax, ACROSS, np.where(ax <= tangent * ay, DOWN, slanting))
    return np.sqrt(dx * dx + dy * dy), direction.astype(np.uint8)


def thin(slope: Floats, direction: Bytes, low: float, high: float) -> Bytes:
    """Lines one pixel wide, sorted into EDGE, WEAK and NOTHING."""
    crest = np.zeros(slope.shape, bool)
    for sector, (dy, dx) in STEPS.items():
        steeper = (slope >= _neighbour(slope, -dy, -dx)) & (slope > _neighbour(slope, dy, dx))
        crest |= (direction == sector) & steeper
    crest[[0, -1], :] = False
    crest[:, [0, -1]] = False
    strength = np.where(slope < np.float32(low), NOTHING, np.where(slope < np.float32(high), WEAK, EDGE))
    return np.where(crest, strength, NOTHING).astype(np.uint8)


def grow(found: Bytes) -> Bytes:
    """One step of hysteresis: a weak pixel that touches an edge becomes one."""
    touches = np.zeros(found.shape, bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            touches |= _neighbour(found, dy, dx) == EDGE
    return np.where((found == WEAK) & touches, EDGE, found).astype(np.uint8)


def ignite(found: Bytes, slope: Floats, direction: Bytes, high: float) -> Floats:
    """The light of the edges, (2, height, width): of upright ones and of level ones."""
    steep = slope / (np.float32(3.5) * np.float32(high))
    bright = np.float32(0.05) + np.float32(0.95) * np.minimum(steep, np.float32(1))
    shine = np.where(found == EDGE, bright, np.float32(0))
    upright = np.where(direction == ACROSS, 1.0, np.where(direction == DOWN, 0.0, 0.5)).astype(np.float32)
    return np.stack([shine * upright, shine * (np.float32(1) - upright)])


def composite(photo: Bytes, grey: Floats, light: Floats, halo: Floats, glow: float, colour: float) -> Bytes:
    """The finished picture."""
    one, colour32 = np.float32(1), np.float32(colour)
    tone = (grey * np.float32(1 / 255))[..., None]
    duotone = SHADOW + (BRIGHT - SHADOW) * tone
    own = np.float32(0.7) / np.float32(255) * photo.astype(np.float32)
    base = duotone + (own - duotone) * colour32
    up, flat = np.float32(glow) * (np.float32(0.95) * light + np.float32(4) * halo)
    added = np.minimum(up[..., None] * UPRIGHT + flat[..., None] * LEVEL, one)
    shown = one - (one - base) * (one - added)
    return np.asarray(np.clip(shown, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _neighbour(image: npt.NDArray[Any], dy: int, dx: int) -> npt.NDArray[Any]:
    """Each pixel's neighbour at (dy, dx), the nearest inside the image where that is outside."""
    height, width = image.shape
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    return image[np.ix_(rows, columns)]
