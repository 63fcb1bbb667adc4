"""Moving elements about: copies, fills, transposes, parts, gathers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq_workers.devices.cpu.builtins.blocks import Block, blocks, per_pass, spread
from kaasq_workers.devices.cpu.builtins.casting import number_as
from kaasq_workers.devices.cpu.builtins.elementwise import apply

TILE_BYTES = 16 << 10  # of a transpose: what is read and what is written fit the first-level cache together


def copy(_: Call, given: dict[str, Any]) -> None:
    """``out = x``, stretched."""
    apply(np.copyto, given["out"], given["x"], once=True)


def fill(_: Call, given: dict[str, Any]) -> None:
    """``out = value``."""
    value = number_as(given["value"], given["out"].dtype)
    apply(lambda out: out.fill(value), given["out"], once=True)


def transpose(call: Call, given: dict[str, Any]) -> None:
    """Axes in another order."""
    x, out = given["x"], given["out"]
    order = call.attrs["axes"] or tuple(reversed(range(x.ndim)))
    seen = x.transpose(order)
    if order[-1:] in {(), (x.ndim - 1,)}:  # rows stay rows
        spread(blocks(out.shape, per_pass(out.itemsize)), lambda block: np.copyto(out[block], seen[block]), out.nbytes)
        return
    # Tiles over the axis that is contiguous in x and the one that is in out.
    across = order.index(x.ndim - 1)
    seen, into = np.moveaxis(seen, across, -2), np.moveaxis(out, across, -2)
    *rest, height, width = into.shape
    tile = TILE_BYTES // out.itemsize
    side = int(tile**0.5)
    tall = min(height, max(side, tile // width))
    wide = max(1, tile // tall)
    several = max(1, tile // (tall * wide))
    rows = [(*before, down) for before in blocks(rest, several) for (down,) in blocks((height,), tall)]

    def work(band: Block) -> None:
        for start in range(0, width, wide):
            part = (*band, slice(start, start + wide))
            np.copyto(into[part], seen[part])

    spread(rows, work, out.nbytes)


def part(call: Call, given: dict[str, Any]) -> None:
    """``out = x[starts + steps * i]``."""
    apply(np.copyto, given["out"], given["x"][_within(call, given["out"].shape)], once=True)


def paste(call: Call, given: dict[str, Any]) -> None:
    """``out[starts + steps * i] = x``."""
    np.copyto(given["out"][_within(call, given["x"].shape)], given["x"])


def pad(call: Call, given: dict[str, Any]) -> None:
    """``x`` with a border."""
    x, out = given["x"], given["out"]
    value = number_as(given["value"], out.dtype)
    before = call.attrs["before"] or (0,) * x.ndim
    inside = [slice(start, start + size) for start, size in zip(before, x.shape, strict=True)]
    for axis, middle in enumerate(inside):
        for side in (slice(0, middle.start), slice(middle.stop, None)):
            out[(*inside[:axis], side)] = value
    np.copyto(out[tuple(inside)], x)


def gather(call: Call, given: dict[str, Any]) -> None:
    """Entries at indices along an axis."""
    x, indices = given["x"], given["indices"].reshape(-1)
    axis = call.attrs["axis"] % x.ndim
    outer, entries = int(np.prod(x.shape[:axis], dtype=np.int64)), x.shape[axis]
    seen = x.reshape(outer, entries, -1)
    out = given["out"].reshape(outer, indices.size, -1)

    def work(block: Block) -> None:
        before, chosen, behind = block
        wanted = indices[chosen].astype(np.int64)
        np.add(wanted, entries, out=wanted, where=wanted < 0)
        outside = (wanted < 0) | (wanted >= entries)
        np.clip(wanted, 0, entries - 1, out=wanted)
        found = out[block]
        if behind.stop - behind.start < out.shape[2]:  # long entries: of one index only
            np.copyto(found[:, 0], seen[before, wanted[0], behind])
        else:
            np.take(seen[before], wanted, axis=1, out=found, mode="clip")
        if outside.any():
            found[:, outside] = 0

    spread(blocks(out.shape, per_pass(out.itemsize)), work, out.nbytes)


def _within(call: Call, sizes: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of the whole that a part of those sizes covers."""
    starts, steps = call.attrs["starts"], call.attrs["steps"]
    found = []
    for start, step, count in itertools.zip_longest(starts or (0,) * len(sizes), steps or (1,) * len(sizes), sizes):
        stop = start + step * count if count > 1 else start + 1
        found.append(slice(start, stop if stop >= 0 else None, step if count > 1 else 1))
    return tuple(found)
