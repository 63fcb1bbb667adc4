"""Scans to read: digits of the test data as they would come from a scanner, on paper that is not lit evenly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SIDE, BLOCK = 32, 4  # pixels of a scan, and of the blocks in which ink is counted

Bytes = npt.NDArray[np.uint8]


def scans(file: Path, seed: int = 0) -> tuple[Bytes, Bytes]:
    """``scans`` (count, 32, 32) from black to white, and the digit that each shows.

    The data set says how much ink is in each 4 x 4 block of a bitmap; here is such a bitmap again, its ink scattered
    within each block, on paper whose brightness falls off to one side by up to 40%, with noise.
    """
    with np.load(file) as held_out:
        ink, labels = held_out["pixels"], held_out["labels"]
    random = np.random.default_rng(seed)
    count, blocks = len(ink), SIDE // BLOCK
    rank = random.random((count, blocks, blocks, BLOCK * BLOCK)).argsort(axis=-1)
    inked = rank < ink.reshape(count, blocks, blocks, 1)
    inked = inked.reshape(count, blocks, blocks, BLOCK, BLOCK).transpose(0, 1, 3, 2, 4).reshape(count, SIDE, SIDE)
    across = np.linspace(0, 1, SIDE)
    light = 230 - 90 * (random.random((count, 1, 1)) * across[:, None] + random.random((count, 1, 1)) * across) / 2
    grey = light * np.where(inked, 0.35, 1.0) + random.normal(0, 5, inked.shape)
    return grey.clip(0, 255).astype(np.uint8), labels
