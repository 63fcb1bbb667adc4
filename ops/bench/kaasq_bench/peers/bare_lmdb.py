"""A bare LMDB environment: the floor of what the buffer store does with one."""

from __future__ import annotations

from pathlib import Path

import lmdb

MAP_BYTES = 1 << 33


def environment(folder: Path, *, sync: bool, zero_new_pages: bool = True) -> lmdb.Environment:
    """In that folder, which is made; closed by the caller."""
    return lmdb.open(str(folder), map_size=MAP_BYTES, sync=sync, meminit=zero_new_pages)
