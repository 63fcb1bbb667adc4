"""The buffer store as everybody else sees it. LmdbStore implements it; an object store may later.

Objects are immutable, addressed by content hash and owned by one tenant. A name is a tenant's mutable pointer to an
object; each change gives it the next version. An unnamed object lives until it expires, a named one as long as its
name. An outcome is the durable record of how a request ended, committed once and together with its outputs.

Writing has two steps, so that large data is never copied inside the transaction that everybody waits for: ``stage``
brings the bytes to their place, invisible yet; ``Transaction.publish`` makes them an object.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import msgspec

DEFAULT_TTL_S = 24 * 3600.0


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows of an object. Times in seconds since the epoch; ``expires`` None: pinned by a name."""

    ref: str
    nbytes: int
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    created: float = 0.0
    expires: float | None = None


class Wanted(NamedTuple):
    """What to look up: a reference, or a name."""

    ref: str | None = None
    name: str | None = None


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and the object it points to now."""

    name: str
    version: int
    object: Object
    updated: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. ``body`` is the hash of the request's body: the same id with another is a conflict."""

    body: str
    reply: bytes
    created: float = 0.0
    expires: float = 0.0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """That a request was begun and has not ended yet, or never will. Gone with its outcome. Times as in Object.

    ``epoch`` tells processes of one ``worker`` apart, ``delivery`` one delivery of the request from the next; it has to
    have ended by ``until``. ``attempts``: deliveries of it that were begun, this one included.
    """

    worker: str
    epoch: str
    delivery: str
    attempts: int = 1
    since: float = 0.0
    until: float = 0.0
    expires: float = 0.0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """How full the store is; bytes where not said otherwise."""

    used: int
    capacity: int
    objects: int
    names: int
    outcomes: int


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a tenant's objects and replies, and how many it may have; None: as many as fit."""

    used: int
    quota: int | None = None


class Noted(NamedTuple):
    """A request that has notes."""

    tenant: str
    id: str


class Labelled(NamedTuple):
    """A request with notes that have a label; since when it is there, in seconds since the epoch."""

    id: str
    label: str
    since: float


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a garbage collection removed."""

    objects: int = 0
    nbytes: int = 0
    outcomes: int = 0
    orphans: int = 0
    stale_readers: int = 0


class Reading(Protocol):
    """Zero-copy access to an object's bytes, valid inside its ``with`` block only.

    ``data`` is read-only. Leaving the block releases it: using the memoryview afterwards raises ValueError. Leaving
    while something still refers to the bytes (a NumPy array made from ``data``) raises BufferError, and the bytes
    stay mapped until that something is gone: never a dangling pointer.
    """

    object: Object
    data: memoryview

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Staged(Protocol):
    """Bytes brought to the store but not yet an object. Never published, they are discarded at the end.

    ``data`` is writable until ``seal`` (a device may copy straight into it); sealing computes the hash.
    """

    tenant: str
    nbytes: int
    data: memoryview

    def seal(self) -> str:
        """No more writing; the content hash. Idempotent. From here on ``data`` is read-only.

        Raises BufferError while an array made from ``data`` is alive: it could change what the hash stands for.
        """

    def discard(self) -> None:
        """Give the space back. Does nothing once published."""


class Notes(Protocol):
    """Small records beside a request that lives for many transactions, for as long as ``keep`` says; in a transaction.

    They count as bytes of the tenant, but are written even if its quota is used up: a state has to change.
    """

    def get(self, key: bytes) -> bytes | None:
        """The record under that key (up to 100 bytes)."""

    def put(self, key: bytes, value: bytes) -> None:
        """Put a record in place of the one that there is, if any."""

    def keep(self, until: float) -> None:
        """All of them are removed then (seconds since the epoch). Without it they stay for ever."""

    def label(self, label: str, since: float) -> None:
        """Have ``labelled`` find the request under that word, as one that is there since then."""

    def remind(self, at: float | None) -> None:
        """``reminders`` has the request from then on (seconds since the epoch); None: it has it no more."""


class Transaction(Protocol):
    """Changes that become visible and durable together, or not at all if the block raises."""

    def publish(
        self,
        staged: Staged,
        *,
        dtype: str | None = None,
        shape: tuple[int, ...] | None = None,
        name: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
    ) -> tuple[Object, int | None]:
        """Make it an object of its tenant, under a name if one is given: the object and the name's new version.

        Contents that the tenant already has are not stored twice; the later expiry counts.
        """

    def outcome(self, tenant: str, request_id: str) -> Outcome | None:
        """The outcome of that request, if it has one that has not expired."""

    def prolong(self, tenant: str, wanted: Wanted, ttl_s: float) -> bool:
        """Keep an object for at least so long from now, named or not. False if it is not there."""

    def record(self, tenant: str, request_id: str, outcome: Outcome) -> bool:
        """Record how a request ended. False, and nothing changed, if it already has an outcome."""

    def prolong_outcome(self, tenant: str, request_id: str, ttl_s: float) -> bool:
        """Keep an outcome for at least so long from now. False if it is not there."""

    def claim(self, tenant: str, request_id: str) -> Claim | None:
        """The claim on that request, if there is one that has not expired."""

    def stake(self, tenant: str, request_id: str, claim: Claim) -> None:
        """Put a claim in place of the one that there is, if any."""

    def release(self, tenant: str, request_id: str) -> None:
        """Remove the claim, if there is one: it ended without an outcome."""

    def notes(self, tenant: str, request_id: str) -> Notes:
        """The notes beside that request, to read and write."""


class BufferStore(Protocol):
    """The store of one pool. Thread-safe, and safe with several processes at once; one instance per process.

    Raises StoreUnavailable (read-only, no permission, not a store), StoreFull, QuotaExceeded, NameNotFound, Forbidden.
    """

    id: str
    """A UUID made with the store, by which a client and a worker notice that they use different ones."""
    path: Path

    def put(
        self,
        tenant: str,
        data: bytes | bytearray | memoryview,
        *,
        dtype: str | None = None,
        shape: tuple[int, ...] | None = None,
        name: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
    ) -> tuple[Object, int | None]:
        """Store the bytes: stage, seal and publish in one call."""

    def stage(self, tenant: str, nbytes: int) -> Staged:
        """Room for that many bytes (1 or more)."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """One writer at a time, over all processes: keep it short."""

    def lookup(self, tenant: str, *, ref: str | None = None, name: str | None = None) -> Object:
        """The object with that hash, or the one that the name points to now. Raises NameNotFound."""

    def lookup_all(self, tenant: str, wanted: Sequence[Wanted]) -> list[Object | None]:
        """The same for several, as of one moment and in their order; None where ``lookup`` would not find it."""

    def open(self, tenant: str, ref: str) -> Reading:
        """Read an object's bytes in place. Raises NameNotFound. It stays readable though it is deleted meanwhile."""

    def outcome(self, tenant: str, request_id: str) -> Outcome | None:
        """The outcome of that request, if it has one that has not expired."""

    def note(self, tenant: str, request_id: str, key: bytes) -> bytes | None:
        """One of the notes beside that request."""

    def notes(self, tenant: str, request_id: str) -> dict[bytes, bytes]:
        """All notes beside that request, as of one moment; empty if it has none."""

    def reminders(self, limit: int, tenants: Collection[str] | None = None) -> list[Noted]:
        """The requests whose reminder is due, at most so many, the earliest first. ``tenants``: only theirs."""

    def labelled(
        self, tenant: str, limit: int, *, label: str | None = None, before: tuple[float, str] | None = None
    ) -> tuple[list[Labelled], int]:
        """The tenant's requests whose notes have that label, or any: at most so many, the latest first; and how many
        there are in all. ``before``: those after the one of that time and id only, in this order.
        """

    def names(self, tenant: str, prefix: str = "") -> Iterator[Named]:
        """The tenant's names that start so, in order."""

    def objects(self, tenant: str) -> Iterator[Object]:
        """The tenant's objects."""

    def delete(self, tenant: str, *, ref: str | None = None, name: str | None = None) -> None:
        """Remove a name (its object goes at once if nothing else holds it), or an unnamed object.

        Raises NameNotFound; BadRequest for the ref of an object that a name points to.
        """

    def gc(self) -> Collected:
        """Remove what has expired, what a crash left behind, and readers that died."""

    def usage(self) -> Usage:
        """How full it is."""

    def usage_of(self, tenant: str) -> TenantUsage:
        """How much of it is a tenant's."""

    def set_quotas(self, everybody: int | None, by_tenant: Mapping[str, int]) -> None:
        """How many bytes each tenant may have, for all who use the store; 0: as many as fit.

        ``everybody`` None leaves that one as it is; tenants who are not named have everybody's.
        """

    def close(self) -> None:
        """Release everything. Idempotent."""
