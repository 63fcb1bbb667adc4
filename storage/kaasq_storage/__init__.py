"""The buffer store: immutable objects, names and outcomes of one pool, in LMDB and files. Nobody else imports lmdb."""

from kaasq_storage.protocol import (
    DEFAULT_TTL_S,
    BufferStore,
    Claim,
    Collected,
    Labelled,
    Named,
    Object,
    Outcome,
    Reading,
    Staged,
    Transaction,
    Usage,
    Wanted,
)
from kaasq_storage.store import LmdbStore, open_store

__all__ = [
    "open_store",
    "BufferStore",
    "LmdbStore",
    "Reading",
    "Staged",
    "Transaction",
    "Object",
    "Named",
    "Outcome",
    "Claim",
    "Usage",
    "Wanted",
    "Labelled",
    "Collected",
    "DEFAULT_TTL_S",
]
