"""What every device's built-ins give over windows of images: im2col, convolution, pooling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq import Client
from kaasq.builtins.signature import FLOATS
from tests.support.builtins import DEVICES, Out, Sheet, normal

NAN, INF = math.nan, math.inf

# Image, kernel, and the rest of the geometry: odd sizes, pads on one side, windows far apart, pads beyond the kernel.
GEOMETRIES: list[tuple[tuple[int, int], tuple[int, int], dict[str, tuple[int, ...]]]] = [
    ((7, 9), (3, 3), {}),
    ((7, 9), (1, 1), {}),
    ((8, 5), (1, 1), {"strides": (2, 3)}),
    ((7, 9), (3, 2), {"pads": (1, 0, 2, 1)}),
    ((13, 10), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((13, 10), (2, 3), {"dilations": (3, 2), "pads": (2, 0, 0, 3)}),
    ((1, 40), (1, 5), {"strides": (1, 2), "pads": (0, 4, 0, 4), "dilations": (1, 2)}),
    ((3, 3), (2, 2), {"strides": (3, 3), "pads": (5, 5, 5, 5)}),
    ((2, 2), (2, 2), {"dilations": (3, 3), "pads": (1, 1, 1, 1)}),
]


@pytest.fixture(scope="module", params=DEVICES)
def client(request) -> Iterator[Client]:
    with kaasq.local(device=request.param) as client:
        yield client


def windows(x: np.ndarray, kernel: tuple[int, int], fill: float, geometry: dict[str, Any], more: int = 0) -> np.ndarray:
    """(N, C, rows, columns, y, x) by loops over a padded copy; ``more`` windows may stick out at the end."""
    (sy, sx), (dy, dx) = geometry.get("strides", (1, 1)), geometry.get("dilations", (1, 1))
    top, left, bottom, right = geometry.get("pads", (0, 0, 0, 0))
    reach = (dy * (kernel[0] - 1), dx * (kernel[1] - 1))
    height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
    rows, columns = (height - reach[0] - 1) // sy + 1 + more, (width - reach[1] - 1) // sx + 1 + more
    padded = np.full((*x.shape[:2], height + more * (sy + reach[0]), width + more * (sx + reach[1])), fill, np.float64)
    padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    found = np.empty((*x.shape[:2], rows, columns, *kernel))
    for r, c, ky, kx in np.ndindex(*found.shape[2:]):
        found[:, :, r, c, ky, kx] = padded[:, :, r * sy + ky * dy, c * sx + kx * dx]
    return found


@pytest.mark.parametrize("dtype", FLOATS)
def test_im2col(client, dtype):
    sheet = Sheet()
    for image, kernel, geometry in GEOMETRIES:
        x = normal(1, 2, 3, *image, dtype=dtype)
        found = windows(x, kernel, 0.0, geometry)
        expected = found.transpose(0, 1, 4, 5, 2, 3).reshape(2, 3 * kernel[0] * kernel[1], -1)
        sheet.call("im2col", x, Out(expected, dtype), kernel=kernel, **geometry)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_conv2d_with_groups_pads_and_dilations(client, dtype):
    sheet = Sheet()
    for (image, kernel, geometry), (groups, depth, each) in itertools.product(
        GEOMETRIES, ((1, 3, 5), (2, 2, 3), (4, 1, 1))
    ):
        x = normal(1, 2, groups * depth, *image, dtype=dtype)
        w = normal(2, groups * each, depth, *kernel, dtype=dtype)
        bias = normal(3, groups * each, dtype=dtype)
        seen = windows(x, kernel, 0.0, geometry)
        seen = seen.reshape(2, groups, depth, *seen.shape[2:])
        filters = w.astype(np.float64).reshape(groups, each, depth, *kernel)
        how = "ngcrsyx,gmcyx->ngmrs"
        expected = np.einsum(how, seen, filters).reshape(2, groups * each, *seen.shape[3:5])
        size = np.einsum(how, np.abs(seen), np.abs(filters)).reshape(expected.shape)
        sheet.call("conv2d", x, w, Out(expected, dtype, scale=size), groups=groups, **geometry)
        biased = Out(expected + bias[:, None, None], dtype, scale=size + 3)
        sheet.call("conv2d", x, w, biased, bias, groups=groups, **geometry)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_conv2d_of_images_larger_than_any_block(client, dtype):
    """By the shifted products that a convolution is the sum of."""
    sheet = Sheet()
    for batch, depth, height, width, filters, pad in (
        (1, 16, 300, 310, 4, 1),
        (3, 2, 1, 150_000, 2, 0),
        (40, 8, 60, 61, 4, 1),
    ):
        side = 3 if height > 1 else 1
        x, w = normal(1, batch, depth, height, width, dtype=dtype), normal(2, filters, depth, side, 3, dtype=dtype)
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        rows, columns = padded.shape[2] - side + 1, padded.shape[3] - 2
        expected = np.zeros((batch, filters, rows, columns))
        for ky, kx in np.ndindex(side, 3):
            part = padded[:, :, ky : ky + rows, kx : kx + columns]
            expected += np.einsum("nchw,mc->nmhw", part, w[:, :, ky, kx].astype(np.float64), optimize=True)
        sheet.call("conv2d", x, w, Out(expected, dtype, scale=10.0), pads=(pad,) * 4)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("more", [0, 1])
def test_pooling_takes_nothing_from_the_pads(client, dtype, more):
    """All is below zero, so a zero from a pad would be the largest. ``more``: the last window sticks out."""
    sheet = Sheet()
    for image, kernel, geometry in GEOMETRIES:
        x = -np.abs(normal(1, 2, 3, *image, dtype=dtype)) - np.ones(1, dtype)
        stride, pads = geometry.get("strides", (1, 1)), geometry.get("pads", (0,) * 4)
        found = windows(x, kernel, NAN, geometry, more)
        starts = [(found.shape[2 + axis] - 1) * stride[axis] - pads[axis] for axis in (0, 1)]
        if more and any(start >= size for start, size in zip(starts, image, strict=True)):
            continue  # such a window would cover nothing, and is refused
        inside = ~np.isnan(found)
        count = inside.sum(axis=(4, 5))
        largest = np.where(inside, found, -INF).max(axis=(4, 5))
        total = np.where(inside, found, 0).sum(axis=(4, 5))
        sheet.call("pool2d", x, Out(largest, dtype), op="max", kernel=kernel, **geometry)
        with np.errstate(invalid="ignore"):
            sheet.call("pool2d", x, Out(total / count, dtype), op="mean", kernel=kernel, **geometry)
        framed = windows(
            np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))),
            kernel,
            NAN,
            {**geometry, "pads": (0,) * 4},
            more,
        )
        everything = (~np.isnan(framed)).sum(axis=(4, 5))
        mean = Out(total / everything, dtype)
        sheet.call("pool2d", x, mean, op="mean", kernel=kernel, count_pads=True, **geometry)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_pooling_passes_nan_on(client, dtype):
    x = normal(1, 1, 1, 6, 6, dtype=dtype)
    x[0, 0, 2, 3] = NAN
    expected = x.reshape(1, 1, 3, 2, 3, 2).transpose(0, 1, 2, 4, 3, 5).reshape(1, 1, 3, 3, 4)
    largest = [[NAN if any(map(math.isnan, cell)) else max(cell) for cell in row] for row in expected[0, 0].tolist()]
    sheet = Sheet()
    sheet.call("pool2d", x, Out(np.array([[largest]]), dtype), op="max", kernel=(2, 2), strides=(2, 2))
    sheet.check(client)
