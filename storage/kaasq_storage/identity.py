"""Which store a folder is: made on first use, recognised later, refused if it is something else."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from kaasq.errors import StoreUnavailable
from kaasq_storage.records import CAPACITY, COUNTERS, FORMAT, STORE, Counters, StoreRecord

_OURS: Final = {"meta", "blobs", "objects", "staging", "spare", "slots", "lost+found"}


def make_folder(path: Path) -> None:
    """Make the store's folder, or accept an empty one or a store. Raises StoreUnavailable."""
    try:
        # Other users of the machine have no business in it; who wants to share it makes the folder beforehand.
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        present = {each.name for each in path.iterdir()}
        if "meta" not in present and not present <= _OURS:
            raise StoreUnavailable(
                f"{path} is not empty and is no kaasq store: give an empty or a new folder", path=str(path)
            ) from None


def identify(path: Path, meta: lmdb.Environment, blobs: lmdb.Environment) -> str:
    """The id of the store, which becomes one if it is empty. Raises StoreUnavailable."""
    with meta.begin() as txn:
        raw = txn.get(STORE)
    if raw is None:
        with meta.begin(write=True) as txn:
            raw = txn.get(STORE)  # another process may have been faster
            if raw is None:
                if txn.stat()["entries"]:
                    raise StoreUnavailable(f"{path} holds a database that is no kaasq store")
                raw = msgspec.json.encode(StoreRecord(format=FORMAT, id=str(uuid.uuid4()), created=time.time()))
                disk = os.statvfs(path)
                capacity = disk.f_bavail * disk.f_frsize // 2
                txn.put(STORE, raw)
                txn.put(CAPACITY, capacity.to_bytes(8, "big"))
                txn.put(COUNTERS, Counters().encode())
    try:
        record = msgspec.json.decode(raw, type=StoreRecord)
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"{path} is no kaasq store: {error}") from error
    if record.format > FORMAT:
        raise StoreUnavailable(
            f"the store {path} has format {record.format}, this kaasq knows formats up to {FORMAT}: "
            "use the newer kaasq that wrote it, or another folder"
        )
    with blobs.begin(write=False) as txn:
        owner = txn.get(STORE)
    if owner is None:
        with blobs.begin(write=True) as txn:
            txn.put(STORE, record.id.encode())
    elif owner != record.id.encode():
        raise StoreUnavailable(f"meta and blobs in {path} belong to different stores: restore both together")
    return record.id
