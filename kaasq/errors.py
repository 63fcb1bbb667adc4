"""Every error kaasq raises or sends in a reply: one tree, each with a stable code and its own fields.

A worker turns an error into ``ErrorBody(code, message, detail)`` for the wire; the client turns that back into the
same class with the same fields, so ``except kaasq.BufferMissing as error: error.buffer`` works on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from kaasq.flows.model import FlowStatus


class KaasqError(Exception):
    """Base of every error of kaasq.

    ``code`` is stable and travels in replies; ``message`` is for a person; ``detail`` holds the error's fields
    (plain values only, so that they can travel too).
    """

    code: ClassVar[str] = "internal"

    flow: FlowStatus
    """Of a workflow that a client awaited, how it ended; no other error has it."""

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, Any] = {key: value for key, value in detail.items() if value is not None}

    def __getattr__(self, name: str) -> Any:
        # Only called for what normal lookup misses: fields read like attributes, error.buffer.
        if not name.startswith("_"):
            try:
                return self.__dict__["detail"][name]
            except KeyError:
                pass
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (error_from_wire, (self.code, self.message, self.detail))


class BadRequest(KaasqError):
    """The request or graph is malformed. ``at`` names the place, e.g. ``graph.launches[2].grid``."""

    code = "bad_request"

    def __init__(self, message: str, *, at: str | None = None, **detail: Any) -> None:
        super().__init__(f"{at}: {message}" if at else message, at=at, **detail)


class UnknownGraph(KaasqError):
    """The worker was sent a graph's hash that it does not know; sending the graph whole mends it."""

    code = "unknown_graph"


class BufferMissing(KaasqError):
    """A buffer has no data: not bound, or bound to a name or reference that the store does not hold."""

    code = "buffer_missing"


class BufferSize(KaasqError):
    """The data bound to a buffer has another size than the graph declares. Fields buffer, expected, given."""

    code = "buffer_size"

    def __init__(self, message: str | None = None, **detail: Any) -> None:
        if message is None:
            message = (
                f"buffer {detail['buffer']!r} is declared with {detail['expected']} bytes, "
                f"but {detail['given']} bytes were given"
            )
        super().__init__(message, **detail)


class BadArguments(KaasqError):
    """A launch's arguments do not fit the kernel's parameters (count or sizes)."""

    code = "bad_arguments"


class ModuleRejected(KaasqError):
    """The device cannot use a module: it does not compile, lacks the kernel, or is of a kind it cannot run."""

    code = "module_rejected"


class KernelFailed(KaasqError):
    """A kernel ran and failed: it crashed, hit an illegal address or its barrier diverged."""

    code = "kernel_failed"


class OutOfMemory(KaasqError):
    """The request needs more device memory than the device has. Fields needed, capacity (bytes)."""

    code = "out_of_memory"


class DeadlineExceeded(KaasqError):
    """The request's own deadline (``timeout_ms``) passed before its outcome was reached.

    Fields how and kills, if an attempt at it had ended with its executor: how that died.
    """

    code = "deadline_exceeded"


class ReplyTimeout(KaasqError, TimeoutError):
    """The client stopped waiting. The request may still run: its outcome stays available under its id."""

    code = "reply_timeout"


class Cancelled(KaasqError):
    """The request was cancelled before it finished."""

    code = "cancelled"


class NotReached(KaasqError):
    """A request that was to follow another does not run. Fields step, request_id; cause: the code of the other's error,
    absent where a condition did not hold.
    """

    code = "not_reached"


class Conflict(KaasqError):
    """A request id came a second time with another body."""

    code = "conflict"


class StoreFull(KaasqError):
    """The store's capacity, or the disk under it, is used up. Fields needed, used, capacity (bytes)."""

    code = "store_full"


class QuotaExceeded(KaasqError):
    """A tenant has used up what it may. Fields which, limit, used, and retry_after_s where waiting mends it.

    ``which``: ``stored_bytes``, ``queued``, ``device_seconds`` or ``inline_bytes``.
    """

    code = "quota_exceeded"


class StoreUnavailable(KaasqError):
    """The store's folder cannot be used: it is read-only, owned by somebody else, or not a store."""

    code = "store_unavailable"


class NameNotFound(BufferMissing):
    """The store holds no such name or object for this tenant."""

    code = "name_not_found"


class Unroutable(KaasqError):
    """The broker has no queue for the message: usually no worker ever served that pool."""

    code = "unroutable"


class BrokerLost(KaasqError):
    """No broker answers, or the connection went before the broker confirmed.

    Field ``closed``: it was closed from this side, so there will be no other.
    """

    code = "broker_lost"


class BrokerRefused(KaasqError):
    """The broker answered and said no: wrong credentials, missing permission, queue full, message too large.

    Field ``rejected``: it has no room or no leader for the message just now, so the same publish may succeed later.
    """

    code = "broker_refused"


class SlotTaken(KaasqError):
    """Another worker already serves this slot of the pool."""

    code = "slot_taken"


class Forbidden(KaasqError):
    """The tenant may not do that."""

    code = "forbidden"


class DeviceUnavailable(KaasqError):
    """A worker's device cannot be used: there is no such GPU, driver or library."""

    code = "device_unavailable"


class WorkerFailed(KaasqError):
    """The worker itself broke (not the request); the request is safe to send again."""

    code = "internal"


def _tree(base: type[KaasqError]) -> list[type[KaasqError]]:
    return [base, *(each for sub in base.__subclasses__() for each in _tree(sub))]


def codes() -> set[str]:
    """Every code there is."""
    return {each.code for each in _tree(KaasqError)}


def error_from_wire(code: str, message: str, detail: Mapping[str, Any] | None = None) -> KaasqError:
    """The exception for an error that came in a reply; an unknown code becomes a plain KaasqError."""
    kind = next((each for each in _tree(KaasqError)[1:] if each.code == code), KaasqError)
    error = kind.__new__(kind)
    KaasqError.__init__(error, message)
    error.detail.update(detail or {})  # not as keywords: what comes from outside may hold any key
    if kind is KaasqError:
        error.code = code  # type: ignore[misc]  # a newer worker's code is kept for the user to read
    return error
