"""Folders that are there for a run and gone after it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES = 1 << 30  # a container's usual 64 MiB are of no use


@contextmanager
def folder(place: Path | None) -> Iterator[Path]:
    """A new folder in that place, or where temporary files lie."""
    made = Path(tempfile.mkdtemp(prefix="kaasq-bench-", dir=place))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def shared_memory() -> Iterator[Path | None]:
    """A folder in shared memory, None where there is too little."""
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= SHARED_MEMORY_BYTES:
        with folder(SHARED_MEMORY) as made:
            yield made
    else:
        yield None
