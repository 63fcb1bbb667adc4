"""Keys and records of the two LMDB environments, and how others see them.

Keys start with one letter for their kind, then the tenant and a NUL, so that a tenant's entries lie together and one
tenant can never spell another's key. The blob environment uses the same keys for the bytes that belong to them.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Final

import lmdb
import msgspec

from kaasq.errors import Forbidden, NameNotFound
from kaasq.names import check_name, check_request_id, is_ref, is_word
from kaasq_storage.protocol import Object

FORMAT: Final = 1
STORE: Final = b"S"  # which store this is: StoreRecord
COUNTERS: Final = b"U"
CAPACITY: Final = b"C"
OBJECT: Final = b"o"  # + tenant NUL hash: ObjectRecord
NAME: Final = b"n"  # + tenant NUL name: NameRecord
OUTCOME: Final = b"r"  # + tenant NUL request id: OutcomeRecord
CLAIM: Final = b"c"  # + tenant NUL request id: Claim
NOTED: Final = b"W"  # + tenant NUL request id: NotedRecord, of all its notes
NOTE: Final = b"w"  # + tenant NUL length of the request id, request id, key: a note
REMINDER: Final = b"m"  # + time + key of a NotedRecord
EXPIRY: Final = b"e"  # + time + key of what expires then
USED: Final = b"u"  # + tenant NUL: its bytes of objects and replies
QUOTA: Final = b"q"  # + tenant NUL: the bytes that it may use, 0 for any; alone: those of every other tenant
COUNTED: Final = b"T"  # there since tenants' bytes are counted
FLOOR: Final = b"f"  # + tenant NUL: the highest version that a deleted name ever had

_TIME = struct.Struct(">Q")
_COUNTERS = struct.Struct("<qqqq")


class StoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Written once, when the store is made."""

    format: int
    id: str = ""
    created: float = 0.0


class ObjectRecord(msgspec.Struct, array_like=True):
    """An object. ``names`` point to it; without any it lives until ``kept_until``.

    ``file``: its bytes are not in the blob environment.
    """

    nbytes: int
    created: float
    file: bool
    names: int = 0
    kept_until: float = 0.0
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def meaning(self) -> tuple[str | None, tuple[int, ...] | None]:
        """What the bytes mean: dtype and shape."""
        return self.dtype, self.shape

    def alive(self, now: float) -> bool:
        """Whether it can be found; if not it only waits for its removal."""
        return self.names > 0 or self.kept_until > now


class NameRecord(msgspec.Struct, array_like=True, frozen=True):
    """A name. dtype and shape belong to the name: equal bytes may mean different things under two names."""

    version: int
    digest: bytes
    updated: float
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


class OutcomeRecord(msgspec.Struct, array_like=True, frozen=True):
    """An outcome; ``reply`` is None where its ``nbytes`` bytes lie in the blob environment."""

    body: str
    reply: bytes | None
    nbytes: int
    created: float
    expires: float


class ClaimRecord(msgspec.Struct, array_like=True, frozen=True):
    """A claim, as in the protocol."""

    worker: str
    epoch: str
    delivery: str
    attempts: int
    since: float
    until: float
    expires: float


class Counters(msgspec.Struct):
    """Running totals: bytes of objects and replies, and how many there are of each kind."""

    used: int = 0
    objects: int = 0
    names: int = 0
    outcomes: int = 0

    @classmethod
    def load(cls, txn: lmdb.Transaction[bytes]) -> Counters:
        """As they stand in that transaction."""
        raw = txn.get(COUNTERS)
        return cls(*_COUNTERS.unpack(raw)) if raw else cls()

    def encode(self) -> bytes:
        """The bytes to store."""
        return _COUNTERS.pack(self.used, self.objects, self.names, self.outcomes)


encode = msgspec.msgpack.Encoder().encode
decode_object = msgspec.msgpack.Decoder(ObjectRecord).decode
decode_name = msgspec.msgpack.Decoder(NameRecord).decode
decode_claim = msgspec.msgpack.Decoder(ClaimRecord).decode
decode_outcome = msgspec.msgpack.Decoder(OutcomeRecord).decode


@functools.lru_cache(maxsize=1024)
def scope(kind: bytes, tenant: str) -> bytes:
    """What all keys of that kind and tenant start with. Raises Forbidden for what cannot be a tenant."""
    # The tenant also names a folder: nothing that means something to a file system gets through.
    if not is_word(tenant):
        raise Forbidden(
            f"{tenant[:64]!r} is no tenant of a store: 1 to 64 of a-z, 0-9, '_' and '-'", tenant=tenant[:64]
        )
    return kind + tenant.encode() + b"\0"


@functools.lru_cache(maxsize=4096)
def object_key(tenant: str, ref: str) -> bytes:
    """The key of an object. Raises NameNotFound for what is no reference."""
    prefix = scope(OBJECT, tenant)
    if not is_ref(ref):
        raise NameNotFound(f"{ref[:80]!r} is no reference: 64 hexadecimal digits", ref=ref[:80])
    return prefix + bytes.fromhex(ref)


def name_key(tenant: str, name: str) -> bytes:
    """The key of a name. Raises BadRequest for what is no name."""
    return scope(NAME, tenant) + check_name(name)


def outcome_key(tenant: str, request_id: str) -> bytes:
    """The key of a request's outcome. Raises BadRequest for what is no request id."""
    return scope(OUTCOME, tenant) + check_request_id(request_id)


def claim_key(tenant: str, request_id: str) -> bytes:
    """The key of the claim on a request. Raises BadRequest for what is no request id."""
    return scope(CLAIM, tenant) + check_request_id(request_id)


def expiry_key(when: float, key: bytes) -> bytes:
    """The key under which the expiry index holds that something expires."""
    return EXPIRY + _TIME.pack(max(0, min(int(when * 1e6), 2**63))) + key


def expiring(index_key: bytes) -> bytes:
    """The key of what that entry of the expiry index is about."""
    return index_key[len(EXPIRY) + _TIME.size :]


def split(key: bytes) -> tuple[str, bytes]:
    """Tenant, and hash, name or request id, of a key."""
    tenant, rest = key[1:].split(b"\0", 1)
    return tenant.decode(), rest


@functools.lru_cache(maxsize=4096)
def recorded(ref: str, raw: bytes) -> Object:
    """The object as others see it, decoded once for as long as its record stays the same."""
    return described(ref, decode_object(raw))


def described(ref: str, record: ObjectRecord) -> Object:
    """The object as others see it."""
    return Object(
        ref=ref,
        nbytes=record.nbytes,
        dtype=record.dtype,
        shape=record.shape,
        created=record.created,
        expires=None if record.names else record.kept_until,
    )


def named(ref: str, record: ObjectRecord, name: NameRecord) -> Object:
    """The object as seen through one of its names, which says what the bytes mean there."""
    return Object(ref=ref, nbytes=record.nbytes, dtype=name.dtype, shape=name.shape, created=record.created)


def scan(txn: lmdb.Transaction[bytes], prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Keys that start so, and their values, in order; ``after`` a key leaves out that one and those before it."""
    with txn.cursor() as cursor:
        if not cursor.set_range(max(prefix, after)):
            return
        for key, value in cursor.iternext():
            if not key.startswith(prefix):
                return
            if key != after:
                yield key, value
